"""The SPEAR encoder on one page (arXiv 2510.25955).

    audio  --fbank-->  100 Hz log-mel  --Subsampling-->  50 Hz embeddings  --Zipformer-->  50 (or 25) Hz output

The Zipformer has seven stacks at 50, 25, 12.5, 6.25, 12.5, 25 and 50 Hz. Pre-training masks the log-mel frames and
predicts tokens from the output (`spear.models.pretrain`); users read the output or the hidden states of the layers.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spear.audio import Fbank, FbankConfig
from spear.errors import DataError
from spear.models.config import SpearConfig
from spear.nn import Balancer, BiasNorm, ScheduledFloat, StackSizes, Subsampling, Whiten, Zipformer, ZipformerLayer
from spear.nn.resample import padding_mask
from spear.nn.subsampling import MIN_FRAMES, output_frames


@dataclass
class SpearOutput:
    """What the encoder returns.

    Attributes:
        encoder_out: (B, T, D); T frames at 50 Hz, or at 25 Hz when the output is downsampled.
        encoder_out_lens: (B,) valid frames of each utterance.
        hidden_states: the output of every layer, each (B, T50, D of its stack), always at 50 Hz. Layers of slower
            stacks are repeated in time. Without output downsampling and in a model of one width, the last one is
            `encoder_out`.
        embed_out: (B, T50, D of the first stack), the input to the first layer; the released models do not return it,
            but evaluation protocols such as SUPERB's count it as a state.
    """

    encoder_out: Tensor
    encoder_out_lens: Tensor
    hidden_states: list[Tensor] = field(default_factory=list)
    embed_out: Tensor | None = None


class SpearModel(nn.Module):
    """The encoder. State-dict keys are those of the released checkpoints: encoder_embed.* and encoder.*.

    Training mode switches on the regularisers of Zipformer, whose strength follows `spear.nn.set_batch_count`; their
    randomness comes from torch's global generator. Masking of the input belongs to pre-training, not to this module.
    """

    def __init__(self, config: SpearConfig):
        super().__init__()
        self.config = config
        self._fbank: Fbank | None = None
        stacks = stack_sizes(config)
        self.encoder_embed = Subsampling(
            config.num_mel_bins,
            stacks[0].dim,
            config.front_end_channels,
            dropout=ScheduledFloat((0.0, 0.3), (20000.0, 0.1)),
            exact_padding=config.exact_padding,
        )
        self.encoder = Zipformer(stacks, config.pos_dim, config.output_downsampling_factor, config.exact_padding)
        for part in self.modules():
            if isinstance(part, (Balancer, Whiten)):
                part.enabled = config.gradient_regularisers
            if isinstance(part, (Balancer, Whiten, BiasNorm)):
                part.exact = config.regularisers == "exact"
            if isinstance(part, ZipformerLayer):
                part.constant_attention = config.constant_attention

    def forward(self, audio: Tensor, audio_lens: Tensor | None = None) -> SpearOutput:
        """Encodes waveforms.

        Args:
            audio: (B, samples) float32 in [-1, 1] at 16 kHz, zero padded.
            audio_lens: (B,) lengths in samples; None when all are full.

        Raises:
            DataError: the audio is shorter than 85 ms (9 frames).
        """
        features_BTF, feature_lens_B = self.fbank(audio, audio_lens)
        return self.encode(features_BTF, feature_lens_B)

    def encode(self, features_BTF: Tensor, feature_lens_B: Tensor, with_hidden_states: bool = True) -> SpearOutput:
        """Encodes log-mel features; this is where pre-training comes in.

        Args:
            features_BTF: (B, T, mel bins) at 100 Hz; padded frames hold ln(1e-10).
            feature_lens_B: (B,) valid frames.
            with_hidden_states: False saves the repetition of slow layers when nobody reads them.

        Raises:
            DataError: T is below 9, the receptive field of one output frame.
        """
        if features_BTF.shape[1] < MIN_FRAMES:
            raise DataError(
                f"a batch whose longest utterance has {features_BTF.shape[1]} feature frames",
                f"at least {MIN_FRAMES} frames of 10 ms",
                "drop shorter utterances, or pad the audio with zeros",
            )
        num_frames = output_frames(features_BTF.shape[1])
        lens_B = output_frames(feature_lens_B.to(features_BTF.device)).clamp(min=0)
        # None when nothing is padded: then nothing is masked.
        padding_BT = padding_mask(lens_B, num_frames)

        x_BTD = self.encoder_embed(features_BTF, padding_BT)
        out_BTD, layers = self.encoder(x_BTD, padding_BT, with_hidden_states)

        factor = self.config.output_downsampling_factor
        return SpearOutput(out_BTD, (lens_B + factor - 1) // factor, layers, x_BTD)

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
        """Frames per second of `encoder_out`: 50 or 25."""
        return 50.0 / self.config.output_downsampling_factor

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.encoder_embed.out.weight.device


def stack_sizes(config: SpearConfig) -> list[StackSizes]:
    """The configuration turned into one record per stack."""
    fields = {
        "downsampling": "downsampling_factor",
        "num_layers": "num_encoder_layers",
        "dim": "encoder_dim",
        "unmasked_dim": "encoder_unmasked_dim",
        "feed_forward_dim": "feedforward_dim",
        "kernel": "cnn_module_kernel",
        "num_heads": "num_heads",
        "query_head_dim": "query_head_dim",
        "position_head_dim": "pos_head_dim",
        "value_head_dim": "value_head_dim",
    }
    columns = {ours: config.per_stack(theirs) for ours, theirs in fields.items()}
    return [StackSizes(**dict(zip(columns, row))) for row in zip(*columns.values())]
