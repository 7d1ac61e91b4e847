"""Metrics of known cases."""

import pytest
import torch

from spear.quantize import bits_per_second, code_use, mutual_information, relative_error


def test_relative_error(frames):
    assert relative_error(frames, frames) == 0
    assert relative_error(frames, frames.mean(dim=0).expand_as(frames)) == pytest.approx(1, rel=1e-4)
    assert relative_error(frames + 1000, frames + 1000.0) == 0


def test_code_use():
    codes = torch.stack([torch.arange(64) % 16, torch.zeros(64, dtype=torch.long), torch.arange(64) % 4], dim=1)
    use = code_use(codes.to(torch.uint8), 16)
    assert use["perplexity"] == [16.0, 1.0, 4.0] and use["dead_codes"] == [0, 15, 12]
    assert use["index_entropy_loss"] == pytest.approx([0, 1, 0.5], abs=1e-5)


def test_bits():
    assert bits_per_second(16, 256, 50) == 6400 and bits_per_second(8, 256, 25) == 1600


def test_mutual_information_of_equal_related_and_independent_codes():
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(16, (20_000,), generator=generator)
    noise = torch.randint(16, (20_000,), generator=generator)
    codes = torch.stack([first, first, first // 4 * 4 + noise % 4, noise], dim=1)
    bits = mutual_information(codes.to(torch.uint8), 16)
    assert torch.equal(bits, bits.T)
    torch.testing.assert_close(bits.diagonal(), torch.full((4,), 4.0, dtype=torch.float64), atol=0.01, rtol=0)
    for (i, j), wanted in {(0, 1): 4.0, (0, 2): 2.0, (2, 3): 2.0, (0, 3): 0.0}.items():
        assert bits[i, j] == pytest.approx(wanted, abs=0.02)
