"""Words while they are said: a streaming encoder and a head that is decoded greedily, chunk by chunk."""

import copy
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from spear.errors import ConfigError
from spear.manifest.vocabulary import Vocabulary
from spear.models.ctc_head import CtcHead
from spear.models.greedy import Hypothesis, ctc_greedy, transducer_greedy
from spear.models.heads import Encoded
from spear.models.spear import SpearModel
from spear.models.transducer_head import TransducerHead
from spear.nn.chunks import ChunkSize
from spear.recognise.words import TimedWord, timed_words
from spear.streaming import State, StreamingEncoder


@dataclass(frozen=True)
class Heard:
    """What is known of a stream; nothing in it is changed in place.

    Attributes:
        encoder: state of the encoder.
        num_frames: that were decoded.
        found: units of the segment that is being said.
        ended: the segments that ended with the last audio, each a list of its words.
    """

    encoder: State
    num_frames: int = 0
    found: Hypothesis = field(default_factory=Hypothesis)
    ended: tuple[list[TimedWord], ...] = ()


class LiveRecogniser:
    """Recognises streams of audio; one serves any number of them.

    Without endpoints the words are those of the whole audio, heard in the same chunks and decoded greedily.

    Args:
        model: a causal encoder in evaluation mode.
        head: a `CtcHead` or `TransducerHead` that reads the last layer.
        vocabulary: of its units.
        size: see `StreamingEncoder`.
        endpoint_seconds: a segment ends after so long without a unit; 0 for never.

    Raises:
        ConfigError: another head, one that reads several layers, or an encoder that cannot stream.
    """

    def __init__(
        self,
        model: SpearModel,
        head: nn.Module,
        vocabulary: Vocabulary,
        size: ChunkSize,
        endpoint_seconds: float = 0.0,
    ):
        if not isinstance(head, CtcHead | TransducerHead) or head.wants_layers:
            what = "that reads several layers" if getattr(head, "wants_layers", False) else "without words"
            raise ConfigError(
                f"a {type(head).__name__} {what}",
                "a head of CTC or of a transducer that reads the last layer",
                "fine-tune one with layers: last",
            )
        if not 0 <= endpoint_seconds < float("inf"):
            raise ConfigError(f"endpoint_seconds = {endpoint_seconds:g}", "0 or more", "correct endpoint_seconds")
        self.encoder, self.head, self.vocabulary = StreamingEncoder(model, size), head, vocabulary
        self.frame_rate_hz = model.frame_rate_hz
        self._silence = round(endpoint_seconds * self.frame_rate_hz)

    def start(self) -> Heard:
        """Before the first sample."""
        return Heard(self.encoder.start())

    def accept(self, heard: Heard, samples: Tensor) -> Heard:
        """What is known with some more audio.

        Args:
            samples: (S,) float in [-1, 1] at 16 kHz.

        Raises:
            DataError: see `StreamingEncoder.accept`.
        """
        frames_TD, state = self.encoder.accept(heard.encoder, samples)
        return self._decoded(heard, frames_TD, state, is_last=False)

    def finish(self, heard: Heard) -> Heard:
        """What is known now that no audio will come: the segment that was being said ends."""
        frames_TD, state = self.encoder.finish(heard.encoder)
        return self._decoded(heard, frames_TD, state, is_last=True)

    def words(self, heard: Heard) -> list[TimedWord]:
        """The words of the segment that is being said; the last one may go on."""
        return timed_words(heard.found, self.vocabulary, self.frame_rate_hz)

    @torch.inference_mode()
    def _decoded(self, heard: Heard, frames_TD: Tensor, state: State, is_last: bool) -> Heard:
        found, ended = copy.deepcopy(heard.found), []
        num_frames = heard.num_frames
        # Frame by frame only where a segment may end between two of them.
        for part_BTD in self._read(frames_TD).split(1 if self._silence else max(1, len(frames_TD)), dim=1):
            self._extend(found, part_BTD, num_frames)
            num_frames += part_BTD.shape[1]
            if self._silence and found.units and num_frames - 1 - found.ends[-1] >= self._silence:
                ended.append(found)
                found = Hypothesis()
        if is_last and found.units:
            ended.append(found)
            found = Hypothesis()
        segments = tuple(timed_words(each, self.vocabulary, self.frame_rate_hz) for each in ended)
        return Heard(state, num_frames, found, segments)

    def _read(self, frames_TD: Tensor) -> Tensor:
        """What the greedy search takes: (1, T, outputs) log-probabilities of CTC, or what a transducer's head read."""
        lens_B = torch.tensor([len(frames_TD)], device=frames_TD.device)
        nothing = frames_TD.new_zeros(1, len(frames_TD))
        hidden_BTD = self.head.read(Encoded(frames_TD[None], lens_B, [], lens_B, nothing.bool(), nothing)).float()
        return self.head.log_probs(hidden_BTD) if isinstance(self.head, CtcHead) else hidden_BTD

    def _extend(self, found: Hypothesis, read_BTD: Tensor, first_frame: int) -> None:
        search = ctc_greedy if isinstance(self.head, CtcHead) else partial(transducer_greedy, self.head)
        lens_B = torch.tensor([read_BTD.shape[1]], device=read_BTD.device)
        search(read_BTD, lens_B, found=[found], first_frame=first_frame)
