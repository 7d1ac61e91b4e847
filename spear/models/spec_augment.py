"""SpecAugment on log-mel features (arXiv 1904.08779): time warp, masks of mel bins and of frames.

As icefall's recipes have it: what is masked holds the utterance's mean, and all time masks together cover a share of
it at most, so that a short utterance keeps most of its frames. Draws come from a NumPy generator that the caller names.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear import ranges, records
from spear.models.pooling import valid_frames


@dataclass
class SpecAugmentConfig:
    """How much is masked and warped.

    Attributes:
        probability: of an utterance to be changed; 0 switches all of it off.
        frequency_masks: number of masks of mel bins; frequency_bins: the widest of them.
        time_masks: number of masks of 10 ms frames, in utterances that are long enough; time_frames: the longest.
        max_time_share: of an utterance that all its time masks cover at most.
        time_warp_frames: how far a frame moves at most, in utterances of more than twice as many; 0: no warp.
    """

    probability: ranges.Share = 0.0
    frequency_masks: records.Count = 2
    frequency_bins: records.Count = 27
    time_masks: records.Count = 10
    time_frames: records.Count = 100
    max_time_share: ranges.Share = 0.15
    time_warp_frames: records.Count = 80


def spec_augment(features_BTF: Tensor, lens_B: Tensor, config: SpecAugmentConfig, rng: np.random.Generator) -> Tensor:
    """Warped and masked features; a new tensor, or the same where nothing is to be done. Padding stays as it is.

    Args:
        features_BTF: log-mel features.
        lens_B: valid frames.
        config: how much.
        rng: of this batch.
    """
    if not config.probability:
        return features_BTF
    batch, frames, bins = features_BTF.shape
    features_BTF = features_BTF.clone()
    masked_BTF = np.zeros((batch, frames, bins), dtype=bool)
    for row, length in enumerate(lens_B.tolist()):
        if rng.random() >= config.probability:
            continue
        _warp(features_BTF[row, :length], config.time_warp_frames, rng)
        for start, width in _spans(bins, config.frequency_masks, config.frequency_bins, 1.0, rng):
            masked_BTF[row, :length, start : start + width] = True
        for start, width in _spans(length, config.time_masks, config.time_frames, config.max_time_share, rng):
            masked_BTF[row, start : start + width] = True
    lens_B = lens_B.to(features_BTF.device)
    totals_B = torch.where(valid_frames(features_BTF, lens_B), features_BTF, 0.0).sum(dim=(1, 2))
    means_B11 = (totals_B / (lens_B.clamp(min=1) * bins))[:, None, None]
    return torch.where(torch.from_numpy(masked_BTF).to(features_BTF.device), means_B11, features_BTF)


def _spans(size: int, count: int, widest: int, max_share: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(start, width) of masks inside `size` places, which together cover `max_share` of them at most."""
    most = int(max_share * size)
    if not (count and widest and most):
        return []
    count = min(count, -(-most // widest))
    widest = min(widest, most // count)
    widths = rng.integers(0, widest + 1, count)
    return [(int(rng.integers(0, size - width + 1)), int(width)) for width in widths]


def _warp(features_TF: Tensor, farthest: int, rng: np.random.Generator) -> None:
    """Moves one frame by up to `farthest`, in place, and stretches both sides to fit."""
    length, bins = features_TF.shape
    if not farthest or length <= 2 * farthest + 1:
        return
    centre = int(rng.integers(farthest + 1, length - farthest))
    moved = int(rng.integers(centre - farthest, centre + farthest + 1))
    if moved == centre:
        return
    parts = ((features_TF[:centre], moved), (features_TF[centre:], length - moved))
    sides = [
        functional.interpolate(part_TF[None, None], (size, bins), mode="bicubic", align_corners=False)[0, 0]
        for part_TF, size in parts
    ]
    features_TF.copy_(torch.cat(sides))
