"""Random streams derived from names and numbers.

Every random decision draws from a stream named by (seed, purpose, numbers...), for example
``(42, "time_mask", epoch, step, rank)``. There is no random state to save: resuming at a step means asking for
that step's streams again, and adding one stream never disturbs another.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, purpose: str, *numbers: int | str) -> int:
    """A 63-bit integer that depends on all arguments and nothing else (no process state, no hash salt)."""
    text = "\x1f".join([str(seed), purpose, *(str(n) for n in numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, purpose: str, *numbers: int | str) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.default_rng(derive(seed, purpose, *numbers))


def torch_rng(seed: int, purpose: str, *numbers: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device` for the named stream."""
    return torch.Generator(device=device).manual_seed(derive(seed, purpose, *numbers))


def seed_global(seed: int, purpose: str, *numbers: int | str) -> None:
    """Seeds torch's global generators (all devices), which dropout uses, for the named stream."""
    torch.manual_seed(derive(seed, purpose, *numbers))
