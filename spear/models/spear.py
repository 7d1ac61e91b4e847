"""The SPEAR encoder on one page (arXiv 2510.25955).

    audio  --fbank-->  100 Hz log-mel  --front end-->  50 Hz embeddings  --body-->  50 (or 25) Hz output

The body is a Zipformer of seven stacks at 50, 25, 12.5, 6.25, 12.5, 25 and 50 Hz, or what another configuration makes
(`spear.models.encoders`). Pre-training masks the log-mel frames and predicts tokens from the output
(`spear.models.pretrain`); users read the output or the hidden states of the layers.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spear.audio import Fbank, FbankConfig
from spear.errors import DataError
from spear.models.encoders.base import EncoderConfig
from spear.nn import ChunkSize
from spear.nn.resample import padding_mask


@dataclass
class SpearOutput:
    """What the encoder returns.

    Attributes:
        encoder_out: (B, T, D); T frames at 50 Hz, or at 25 Hz when the output is downsampled.
        encoder_out_lens: (B,) valid frames of each utterance.
        hidden_states: the output of every layer, each (B, T50, D of the layer), always at 50 Hz. Layers of slower
            stacks are repeated in time. Without output downsampling and in a model of one width, the last one is
            `encoder_out`.
        embed_out: (B, T50, D of the first layer), the input to the first layer; the released models do not return it,
            but evaluation protocols such as SUPERB's count it as a state.
        hidden_lens: (B,) valid frames of the hidden states.
    """

    encoder_out: Tensor
    encoder_out_lens: Tensor
    hidden_states: list[Tensor] = field(default_factory=list)
    embed_out: Tensor | None = None
    hidden_lens: Tensor | None = None


class SpearModel(nn.Module):
    """An encoder of any configuration.

    State-dict keys are those of the released checkpoints: encoder_embed.* (the front end) and encoder.* (the body).

    Training mode switches on the encoder's regularisers, whose strength may follow `spear.nn.set_batch_count`; their
    randomness comes from torch's global generator. Masking of the input belongs to pre-training, not to this module.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self._fbank: Fbank | None = None
        self.encoder_embed = config.front_end()
        self.encoder = config.body()

    def forward(
        self, audio: Tensor, audio_lens: Tensor | None = None, chunk_size: ChunkSize | None = None
    ) -> SpearOutput:
        """Encodes waveforms.

        Args:
            audio: (B, samples) float32 in [-1, 1] at 16 kHz, zero padded.
            audio_lens: (B,) lengths in samples; None when all are full.
            chunk_size: see `encode`.

        Raises:
            DataError: the audio is shorter than 85 ms (9 frames).
        """
        features_BTF, feature_lens_B = self.fbank(audio, audio_lens)
        return self.encode(features_BTF, feature_lens_B, chunk_size=chunk_size)

    def encode(
        self,
        features_BTF: Tensor,
        feature_lens_B: Tensor,
        with_hidden_states: bool = True,
        chunk_size: ChunkSize | None = None,
    ) -> SpearOutput:
        """Encodes log-mel features; this is where pre-training comes in.

        Args:
            features_BTF: (B, T, mel bins) at 100 Hz; padded frames hold ln(1e-10).
            feature_lens_B: (B,) valid frames.
            with_hidden_states: False saves the repetition of slow layers when nobody reads them.
            chunk_size: that a causal encoder hears in (`spear.nn.ChunkSize`, frames at 50 Hz); None: one drawn from its
                configuration in training, otherwise the largest there.

        Raises:
            ConfigError: `chunk_size` for an encoder that is not causal, or one that does not fit its stacks.
            DataError: T is below 9, or what else the front end needs for one embedding.
        """
        if features_BTF.shape[1] < self.config.min_frames:
            raise DataError(
                f"a batch whose longest utterance has {features_BTF.shape[1]} feature frames",
                f"at least {self.config.min_frames} frames of 10 ms",
                "drop shorter utterances, or pad the audio with zeros",
            )
        num_frames = self.config.embedding_frames(features_BTF.shape[1])
        lens_B = self.config.embedding_frames(feature_lens_B.to(features_BTF.device)).clamp(min=0)
        # None when nothing is padded: then nothing is masked.
        padding_BT = padding_mask(lens_B, num_frames)

        x_BTD = self.encoder_embed(features_BTF, padding_BT)
        if chunk_size is None:
            out_BTD, layers = self.encoder(x_BTD, padding_BT, with_hidden_states)
        else:
            self.config.check_chunk_size(chunk_size)
            out_BTD, layers = self.encoder(x_BTD, padding_BT, with_hidden_states, chunk_size)

        return SpearOutput(out_BTD, self._downsampled(lens_B), layers, x_BTD, lens_B)

    def output_lengths(self, feature_lens_B: Tensor) -> Tensor:
        """(B,) output frames of utterances of so many feature frames: where their targets must end."""
        return self._downsampled(self.config.embedding_frames(feature_lens_B).clamp(min=0))

    def _downsampled(self, lens_B: Tensor) -> Tensor:
        factor = self.config.output_downsampling_factor
        return (lens_B + factor - 1) // factor

    def layers(self) -> list[nn.Module]:
        """The layers in order, whose outputs are the hidden states."""
        return [part for part in self.encoder.modules() if isinstance(part, self.config.layer_class)]

    @property
    def fbank(self) -> Fbank:
        """The log-mel features, made on first use: pre-training reads stored ones."""
        if self._fbank is None:
            self._fbank = Fbank(FbankConfig(num_mel_bins=self.config.num_mel_bins))
        return self._fbank

    @property
    def output_dim(self) -> int:
        """Channels of `encoder_out`."""
        return self.config.output_dim

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second of `encoder_out`."""
        return self.config.frame_rate_hz

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
