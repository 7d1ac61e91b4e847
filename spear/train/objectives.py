"""Where targets come from: one small class per kind of objective, behind one interface.

An objective turns a batch into token ids at the student's frame rate. Tokens of teachers were made in stage 5;
random-projection targets (BEST-RQ, arXiv 2202.01855) are codes of the features themselves, so that a first encoder
can be trained without any teacher. Feature regression would be one more class here.
"""

from typing import Protocol

import torch
from torch import Tensor

from spear.data.collate import Batch
from spear.data.streams import TokenStream
from spear.models.heads import IGNORE
from spear.models.pretrain import HeadSpec
from spear.quantize import RandomProjectionQuantizer
from spear.seeds import derive
from spear.teachers.align import align_targets, aligned_codebooks
from spear.train.config import StreamConfig

# Mel bins over which a spectral envelope is smooth: wider than the distance of low harmonics.
ENVELOPE_BINS = 15


class Objective(Protocol):
    """Makes the targets of one stream."""

    head: HeadSpec

    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """(B, T', C) token ids on the batch's device, -100 where there is no target."""
        ...


class TokenObjective:
    """A teacher's tokens from the token store, aligned to the student's frames.

    Args:
        name: stream name, the key in `Batch.targets`.
        stream: the open store with its card.
        student_rate_hz: frame rate of the encoder output.
    """

    def __init__(self, name: str, stream: TokenStream, student_rate_hz: float):
        self.name, self.rate_hz, self.student_rate_hz = name, stream.frame_rate_hz, student_rate_hz
        self.head = HeadSpec(
            aligned_codebooks(stream.num_codebooks, stream.frame_rate_hz, student_rate_hz), stream.codebook_size
        )

    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """See `Objective`."""
        # Mixing can make a cut longer than its tokens, so the padding must not be taken for missing tokens here;
        # that stored tokens are as long as their audio is verified when they are made.
        rows_B = (batch.feature_lens_B * (self.rate_hz / 100)).ceil().long()
        return align_targets(
            batch.targets[self.name], self.rate_hz, self.student_rate_hz, student_lens_B, token_lens_B=rows_B
        )


class RandomProjectionObjective:
    """Codes of the unmasked features under frozen random projections.

    A target at student frame t sees the fbank rows around the centre of that frame's own 20 ms (or 40 ms).

    Args:
        config: the stream's settings.
        name: stream name.
        num_mel_bins: F.
        downsampling: fbank rows per student frame.
        seed: names the projections.
        device: where targets are computed.
    """

    def __init__(
        self, config: StreamConfig, name: str, num_mel_bins: int, downsampling: int, seed: int, device: torch.device
    ):
        self.config, self.downsampling = config, downsampling
        self.quantizer = RandomProjectionQuantizer(
            num_mel_bins * config.stacked_frames,
            config.codebook_size,
            config.num_codebooks,
            config.projection_dim,
            derive(seed, "random_projection", name),
        ).to(device)
        self.head = HeadSpec(config.num_codebooks, config.codebook_size)

    @torch.no_grad()
    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """See `Objective`."""
        normalised_BTF = _normalise(batch.features_BTF, batch.feature_lens_B, self.config.normalise)
        if self.config.smoothed_frames > 1:
            normalised_BTF = _smooth(normalised_BTF, batch.feature_lens_B, self.config.smoothed_frames)
        num_frames, stacked = int(student_lens_B.max()), self.config.stacked_frames
        # Centre the window on the rows that frame t stands for: rows t*d ... t*d + d - 1.
        before = (stacked - self.downsampling) // 2
        after = max(0, (num_frames - 1) * self.downsampling - before + stacked - normalised_BTF.shape[1])
        padded_BTF = torch.nn.functional.pad(normalised_BTF, (0, 0, max(before, 0), after))
        windows_BTFS = padded_BTF[:, max(-before, 0) :].unfold(1, stacked, self.downsampling)[:, :num_frames]
        codes_BTN = self.quantizer.encode(windows_BTFS.flatten(2)).long()
        valid_BT = torch.arange(num_frames, device=codes_BTN.device) < student_lens_B[:, None]
        return torch.where(valid_BT[:, :, None], codes_BTN, IGNORE)


def _normalise(features_BTF: Tensor, lens_B: Tensor, how: str) -> Tensor:
    """Takes away what a target should not depend on; see `StreamConfig.normalise`.

    Codes are compared by angle, so the scale does not matter. Padding becomes 0.
    """
    valid_BT1 = (torch.arange(features_BTF.shape[1], device=lens_B.device) < lens_B[:, None])[:, :, None]
    if how == "harmonics":
        # The same number of neighbours on both sides, fewer at the edges: a flat spectrum becomes 0 everywhere.
        envelope_BTF = torch.nn.functional.avg_pool1d(
            features_BTF, ENVELOPE_BINS, stride=1, padding=ENVELOPE_BINS // 2, count_include_pad=False
        )
        return (features_BTF - envelope_BTF) * valid_BT1
    mean_B1F = (features_BTF * valid_BT1).sum(dim=1, keepdim=True) / lens_B[:, None, None].clamp(min=1)
    if how == "level":
        mean_B1F = mean_B1F.mean(dim=2, keepdim=True)
    return (features_BTF - mean_B1F) * valid_BT1


def _smooth(x_BTF: Tensor, lens_B: Tensor, num_frames: int) -> Tensor:
    """Moving average over `num_frames` valid rows around each row; padding (zeros) does not count and stays 0."""
    valid_BT1 = (torch.arange(x_BTF.shape[1], device=lens_B.device) < lens_B[:, None])[:, :, None].to(x_BTF.dtype)

    def sums(x_BTC: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool1d(x_BTC.transpose(1, 2), num_frames, 1, num_frames // 2).transpose(1, 2)

    return sums(x_BTF) / sums(valid_BT1).clamp(min=1e-6) * valid_BT1
