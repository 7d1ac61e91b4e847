"""Training from blocks of frames that need not fit into memory."""

import pytest
import torch

from spear.errors import DataError
from spear.quantize import QuantizerTrainConfig, channel_statistics, fit, sample_stream


def blocks(frames, *sizes):
    start = 0
    while start < len(frames):
        for size in sizes:
            yield frames[start : start + size]
            start += size


def test_statistics_are_those_of_all_rows(frames):
    shifted = frames + 1000 * torch.arange(24)
    sample = sample_stream(blocks(shifted, 700, 1, 0, 333), max_frames=100)
    mean, std = channel_statistics(shifted)
    assert sample.num_rows == len(frames) and sample.frames_MD.shape == (100, 24)
    torch.testing.assert_close(sample.mean_D, mean)
    torch.testing.assert_close(sample.std_D + 1e-5, std, rtol=1e-4, atol=1e-4)


def test_every_row_is_kept_with_the_same_probability():
    numbers = torch.arange(1000).float()[:, None]
    counts = torch.zeros(1000)
    for seed in range(200):
        kept = sample_stream(blocks(numbers, 130, 7), 100, seed).frames_MD[:, 0].long()
        assert len(set(kept.tolist())) == 100
        counts[kept] += 1
    # 20 expected of each; of a hundred rows each, 2000 with a standard deviation of 42.
    assert (counts.view(10, 100).sum(dim=1) - 2000).abs().max() < 200


def test_short_streams_are_kept_whole_and_blocks_do_not_matter_for_them(frames):
    first = sample_stream(blocks(frames[:500], 100), 1000)
    second = sample_stream([frames[:500].numpy()], 1000)
    assert torch.equal(first.frames_MD, frames[:500]) and torch.equal(second.frames_MD, frames[:500])


def test_a_stream_trains_like_the_array(frames):
    config = QuantizerTrainConfig(codebook_size=16, rounds=2, logits_epochs=0)
    whole, _ = fit(frames, 2, config, progress=lambda state: None)
    stream, metrics = fit(blocks(frames, 512), 2, config, progress=lambda state: None)
    torch.testing.assert_close(stream.mean, whole.mean)
    codes = [q.encode(frames[:1000]) for q in (whole, stream)]
    assert (codes[0] == codes[1]).float().mean() > 0.95
    part, metrics = fit(blocks(frames, 512), 2, config, progress=lambda state: None, max_frames=1000)
    assert metrics["frames"] + metrics["heldout_frames"] == 1000
    torch.testing.assert_close(part.mean, whole.mean)


def test_streams_that_cannot_be_used():
    with pytest.raises(DataError, match="without rows"):
        sample_stream(iter([torch.zeros(0, 4)]), 10)
    with pytest.raises(DataError, match=r"\(3, 5\)"):
        sample_stream([torch.zeros(2, 4), torch.zeros(3, 5)], 10)
    with pytest.raises(DataError, match="1 of 2 rows"):
        sample_stream([torch.tensor([[0.0], [float("nan")]])], 10)
