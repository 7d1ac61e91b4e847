"""What an objective is: the interface that the trainer knows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spear import ranges
from spear.data.collate import Batch
from spear.data.streams import StreamConfig, TargetStream
from spear.models.heads import Encoded


@dataclass
class Settings:
    """Base of the settings of an objective; numbers out of their range are refused."""

    def __post_init__(self):
        ranges.check(self)

    def stores(self, name: str) -> tuple[str, ...]:
        """Directories below the data directory that a stream of this name reads."""
        return ()


@dataclass(frozen=True)
class Context:
    """What an objective is made from.

    Attributes:
        name: of the stream.
        settings: of the objective's class `Settings`.
        frame_rate_hz: of the encoder's output.
        num_mel_bins: of the encoder's input.
        seed: of the run.
        device: where targets are computed.
        stream: the open stores of the stream; None where the objective reads none.
    """

    name: str
    settings: Any
    frame_rate_hz: float
    num_mel_bins: int = 128
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    stream: TargetStream | None = None


class Head(Protocol):
    """Size of a prediction module; see `spear.models.pretrain.SpearPretrainModel` for what `build` makes."""

    def build(self, encoder: nn.Module, initial_scale: float) -> nn.Module:
        """The module for an encoder, its first weights scaled as the run wants it."""
        ...


class Probe(NamedTuple):
    """What a look at predictions on a batch that never changes found.

    Attributes:
        row: numbers for the log, by names that hold the stream's.
        words: the same for readers; empty to say nothing.
        warnings: what is wrong, each once until it is over.
    """

    row: dict[str, float]
    words: str = ""
    warnings: tuple[str, ...] = ()


class Objective:
    """One stream's objective. Subclasses state the attributes and `targets`, and the rest where they need it.

    Attributes:
        Settings: its configuration class; its fields stand in the stream's entry of `streams`.
        unit: of the loss, for the log.
        measures: names of the columns of a head's statistics after loss and count, which are logged as means too.
        judged: names of the numbers that `judge` gives.
        falling: those of the measures and of the judged numbers of which less is better.
        masks_input: whether it predicts from masked input. A run none of whose objectives does masks nothing.
        head: what predicts its targets from the encoder.
    """

    Settings: ClassVar[type] = Settings
    unit: ClassVar[str] = ""
    measures: ClassVar[tuple[str, ...]] = ()
    judged: ClassVar[tuple[str, ...]] = ()
    falling: ClassVar[tuple[str, ...]] = ()
    masks_input: bool = True
    head: Head

    def __init__(self, context: Context):
        self.name, self.settings = context.name, context.settings

    @classmethod
    def reads(cls, settings: Any, name: str, data_dir: Path, domains: tuple[str, ...]) -> StreamConfig | None:
        """The stores that batches need for a stream; None when targets come from the features alone.

        Args:
            settings: of the class `Settings`.
            name: of the stream.
            data_dir: where the run's data is.
            domains: those whose cuts have a weight in the stream.
        """
        return None

    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """The targets that the head takes, on the batch's device.

        Args:
            batch: what the loader made, on the device; `batch.targets[name]` is what the stream's stores gave.
            student_lens_B: valid frames of the encoder's output.
        """
        raise NotImplementedError

    def probe(self, head: nn.Module, encoded: Encoded, targets: Tensor, weights_B: Tensor, early: bool) -> Probe:
        """Looks at predictions for signs of collapse; called without gradients, in evaluation mode.

        Args:
            head: the module of `head`.
            encoded: the encoder's output for the batch that never changes, in float32.
            targets: what `targets` made of this batch.
            weights_B: of each utterance, by its domain.
            early: the model may not have learnt anything yet.
        """
        return Probe({})

    def judge(self, scores: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """Numbers of the validation that are no means over utterances, by the names in `judged`.

        Args:
            scores: `spear.models.heads.HeadOutput.scores` of all its batches, of all ranks, in the host's memory.
        """
        return {}

    def card(self) -> dict:
        """Where the targets come from, for the checkpoint; a run is resumed with the same ones only."""
        return {}

    def save(self, directory: Path) -> None:
        """Writes what is needed to read predictions (a vocabulary) beside the run; the main process calls it."""

    def costs(self, audio_hours: float) -> list[str]:
        """What the targets of so many hours of audio cost in time and disk, in words; nothing when nearly nothing."""
        return []

    def decode(self, head: nn.Module, encoded: Encoded) -> list:
        """What the head says about each utterance (text, labels), for objectives that can be decoded."""
        raise NotImplementedError(f"objective {type(self).__name__} has no decoder")
