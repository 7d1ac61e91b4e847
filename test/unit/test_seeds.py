"""Named random streams."""

import subprocess
import sys

import torch

from spear import seeds


def test_streams_depend_on_every_argument_and_on_nothing_else():
    values = {
        seeds.derive(1, "mask"),
        seeds.derive(2, "mask"),
        seeds.derive(1, "mix"),
        seeds.derive(1, "mask", 1),
        seeds.derive(1, "mask", 1, 2),
        seeds.derive(1, "mask", 12),
        seeds.derive(1, "mask", "a"),
    }
    assert len(values) == 7 and all(0 <= value < 2**63 for value in values)
    code = "from spear import seeds; print(seeds.derive(1, 'mask', 1, 2))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == seeds.derive(1, "mask", 1, 2)


def test_generators_repeat():
    assert seeds.numpy_rng(1, "a", 2).random() == seeds.numpy_rng(1, "a", 2).random()
    first, second = (torch.rand(3, generator=seeds.torch_rng(1, "a")) for _ in range(2))
    assert torch.equal(first, second)
    seeds.seed_global(1, "dropout", 5)
    one = torch.rand(3)
    seeds.seed_global(1, "dropout", 5)
    assert torch.equal(one, torch.rand(3))
