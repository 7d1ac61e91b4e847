"""Codes of the unmasked features themselves under frozen random projections (BEST-RQ, arXiv 2202.01855).

They need no teacher, so that a first encoder can be trained without any.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spear import records
from spear.data.collate import Batch
from spear.errors import ConfigError
from spear.models.heads import IGNORE, HeadSpec
from spear.quantize import RandomProjectionQuantizer
from spear.seeds import derive
from spear.train.objectives.base import Context, Settings
from spear.train.objectives.usage import CodebookObjective

# Mel bins over which a spectral envelope is smooth: wider than the distance of low harmonics.
ENVELOPE_BINS = 15
NORMALISATIONS = ("utterance", "level", "harmonics")


@dataclass
class RandomProjectionSettings(Settings):
    """Settings of `random_projection`.

    Attributes:
        num_codebooks: codes of a frame, each under a projection of its own.
        codebook_size: number of different codes.
        projection_dim: dimension in which codes are looked up.
        stacked_frames: fbank rows that one target sees.
        smoothed_frames: odd number of fbank rows over which normalised features are averaged before that. The bins of
            one frame of a noise scatter by several dB, which nothing can predict; what lasts longer (a pitch, a voice,
            a room) is left.
        normalise: `utterance` takes away each mel bin's mean over the utterance (what is said, not how it was
            recorded), `level` one mean over all bins (keeps the spectrum, forgets the gain), `harmonics` each frame's
            spectral envelope (keeps the fine structure, so the pitch; forgets the timbre).
    """

    num_codebooks: records.PositiveCount = 8
    codebook_size: records.PositiveCount = 256
    projection_dim: records.PositiveCount = 16
    stacked_frames: records.PositiveCount = 4
    smoothed_frames: int = 1
    normalise: str = "utterance"

    def __post_init__(self):
        super().__post_init__()
        if self.normalise not in NORMALISATIONS:
            raise ConfigError(
                f"streams.*.normalise: '{self.normalise}'",
                "one of " + ", ".join(NORMALISATIONS),
                "correct streams.*.normalise",
            )
        if self.smoothed_frames < 1 or self.smoothed_frames % 2 == 0:
            raise ConfigError(
                f"streams.*.smoothed_frames = {self.smoothed_frames}", "an odd number from 1 on", "correct the value"
            )


class RandomProjectionObjective(CodebookObjective):
    """Codes of the unmasked features under frozen random projections.

    A target at student frame t sees the fbank rows around the centre of that frame's own 20 ms (or 40 ms).
    """

    Settings = RandomProjectionSettings

    def __init__(self, context: Context):
        super().__init__(context)
        settings = self.settings
        self.downsampling = round(100 / context.frame_rate_hz)
        self.quantizer = RandomProjectionQuantizer(
            context.num_mel_bins * settings.stacked_frames,
            settings.codebook_size,
            settings.num_codebooks,
            settings.projection_dim,
            derive(context.seed, "random_projection", self.name),
        ).to(context.device)
        self.head = HeadSpec(settings.num_codebooks, settings.codebook_size)

    @torch.no_grad()
    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """(B, T', C) codes, -100 where there is no target."""
        normalised_BTF = _normalise(batch.features_BTF, batch.feature_lens_B, self.settings.normalise)
        if self.settings.smoothed_frames > 1:
            normalised_BTF = _smooth(normalised_BTF, batch.feature_lens_B, self.settings.smoothed_frames)
        num_frames, stacked = int(student_lens_B.max()), self.settings.stacked_frames
        # Centre the window on the rows that frame t stands for: rows t*d ... t*d + d - 1.
        before = (stacked - self.downsampling) // 2
        after = max(0, (num_frames - 1) * self.downsampling - before + stacked - normalised_BTF.shape[1])
        padded_BTF = torch.nn.functional.pad(normalised_BTF, (0, 0, max(before, 0), after))
        windows_BTFS = padded_BTF[:, max(-before, 0) :].unfold(1, stacked, self.downsampling)[:, :num_frames]
        codes_BTN = self.quantizer.encode(windows_BTFS.flatten(2)).long()
        valid_BT = torch.arange(num_frames, device=codes_BTN.device) < student_lens_B[:, None]
        return torch.where(valid_BT[:, :, None], codes_BTN, IGNORE)


def _normalise(features_BTF: Tensor, lens_B: Tensor, how: str) -> Tensor:
    """Takes away what a target should not depend on; see `RandomProjectionSettings.normalise`.

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
