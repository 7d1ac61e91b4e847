"""Frames larger than memory: an even sample of a stream, and the channel statistics of all of it, in one pass.

Shape suffixes: M rows kept, B rows of a block, D = dim.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spear.errors import DataError
from spear.quantize.codec import check_vectors
from spear.seeds import numpy_rng


@dataclass
class StreamSample:
    """What `sample_stream` keeps.

    Attributes:
        frames_MD: every row of the stream with the same probability, in the type of the stream.
        mean_D, std_D: float32 statistics of all rows that went by (standard deviation without a floor).
        num_rows: how many went by.
    """

    frames_MD: Tensor
    mean_D: Tensor
    std_D: Tensor
    num_rows: int


def sample_stream(blocks: Iterable[np.ndarray | Tensor], max_frames: int, seed: int = 42) -> StreamSample:
    """Reads blocks of rows once, and holds `max_frames` of them and one block in memory.

    Reservoir sampling (Vitter 1985, algorithm R, a block at a time); sums are kept about the first block's mean in
    float64, so that large offsets do not cost precision.

    Args:
        blocks: (B, dim) floating-point arrays; B may vary and be 0.
        max_frames: most rows kept.
        seed: names the choice; the same blocks in the same order give the same sample.

    Raises:
        DataError: no rows, blocks of different dims, or values that are not finite.
    """
    generator = numpy_rng(seed, "stream sample")
    kept: Tensor | None = None
    num_rows = 0
    for block in blocks:
        x_BD = torch.as_tensor(block)
        if x_BD.dim() != 2 or (kept is not None and x_BD.shape[1] != kept.shape[1]):
            wanted = "(B, dim)" if kept is None else f"(B, {kept.shape[1]})"
            raise DataError(f"a block of shape {tuple(x_BD.shape)}", wanted, "yield blocks of rows of one teacher")
        if not len(x_BD):
            continue
        check_vectors(x_BD, x_BD.shape[1])
        if kept is None:
            kept = torch.empty(max_frames, x_BD.shape[1], dtype=x_BD.dtype)
            shift_D = x_BD.double().mean(dim=0)
            sums_D, squares_D = torch.zeros_like(shift_D), torch.zeros_like(shift_D)
        centered_BD = x_BD.double() - shift_D
        sums_D += centered_BD.sum(dim=0)
        squares_D += centered_BD.square().sum(dim=0)
        _put(kept, x_BD, num_rows, generator)
        num_rows += len(x_BD)
    if kept is None:
        raise DataError("a stream without rows", "at least one (B, dim) block", "check what is read")
    mean_D = sums_D / num_rows
    variance_D = (squares_D / num_rows - mean_D.square()).clamp_(min=0)
    return StreamSample(kept[:num_rows], (mean_D + shift_D).float(), variance_D.sqrt().float(), num_rows)


def _put(kept: Tensor, x_BD: Tensor, seen: int, generator: np.random.Generator) -> None:
    """Row number t of the stream takes a random place among t + 1, if that is one of those kept."""
    number = seen + np.arange(len(x_BD))
    places = np.where(number < len(kept), number, generator.integers(0, number + 1))
    chosen = np.flatnonzero(places < len(kept))
    # Of two rows with one place the later wins, as if they had come one by one.
    places, last = np.unique(places[chosen][::-1], return_index=True)
    kept[torch.from_numpy(places)] = x_BD[torch.from_numpy(chosen[::-1][last].copy())]
