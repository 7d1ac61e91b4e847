"""SpecAugment: what is masked, how much of short utterances, and that padding and draws are left alone."""

import numpy as np
import torch

from spear.models.spec_augment import SpecAugmentConfig, spec_augment
from spear.seeds import numpy_rng

LENS = [1200, 900, 150, 12]
MASKS = {"probability": 1.0, "time_warp_frames": 0}


def features(lens=LENS) -> torch.Tensor:
    torch.manual_seed(0)
    x_BTF = torch.full((len(lens), max(lens), 128), -23.0)
    for row, length in zip(x_BTF, lens):
        row[:length] = torch.randn(length, 128)
    return x_BTF


def changed(config: SpecAugmentConfig, number: int = 0, lens=LENS) -> tuple[torch.Tensor, torch.Tensor]:
    x_BTF = features(lens)
    return x_BTF, spec_augment(x_BTF, torch.tensor(lens), config, numpy_rng(1, "test", number))


def test_off_by_default():
    before, after = changed(SpecAugmentConfig())
    assert after is before


def test_masks_are_as_many_and_as_wide_as_stated_and_hold_the_mean():
    widths, shares = [], []
    for number in range(30):
        before, after = changed(SpecAugmentConfig(**MASKS, time_masks=0), number)
        for row, length in enumerate(LENS):
            differs_TF = (before[row] != after[row]).numpy()
            bins = differs_TF[:length].all(0)
            assert np.array_equal(differs_TF[:length], np.broadcast_to(bins, (length, 128)))
            assert not differs_TF[length:].any()
            if bins.any():
                torch.testing.assert_close(after[row, 0, bins], before[row, :length].mean().expand(int(bins.sum())))
            widths.append(bins.sum())
        before, after = changed(SpecAugmentConfig(**MASKS, frequency_masks=0), number)
        times = [(before[row] != after[row]).all(1).numpy()[:length] for row, length in enumerate(LENS)]
        shares.append([mask.mean() for mask in times])
    assert 45 < max(widths) <= 54 and min(widths) < 15
    shares = np.array(shares)
    assert (shares <= 0.15).all() and (shares.max(0) > 0.05).all()  # 12 frames: one at most


def test_a_warp_moves_frames_of_long_utterances_and_keeps_lengths():
    config = SpecAugmentConfig(probability=1.0, frequency_masks=0, time_masks=0)
    lens = [1200, 161, 12]
    before, after = changed(config, lens=lens)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])
    assert abs(float(after[0].std()) / float(before[0].std()) - 1) < 0.2 and torch.isfinite(after).all()
    ramp = torch.arange(1200.0)[None, :, None].expand(1, 1200, 128)
    warped = spec_augment(ramp, torch.tensor([1200]), config, numpy_rng(1, "test"))[0, :, 0]
    assert (warped.diff() > -1).all() and 1 < (warped - ramp[0, :, 0]).abs().max() < 82


def test_the_same_draws_give_the_same_features_and_others_do_not():
    config = SpecAugmentConfig(probability=0.9)
    first, again, other = (changed(config, number)[1] for number in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    untouched = [torch.equal(*(x[1] for x in changed(config, number))) for number in range(60)]
    assert 0 < sum(untouched) < 20
