"""The smallest entries of short rows, several times faster on CPU than `argmin` and `topk` find them.

Shape suffixes: B rows, W their width.
"""

import torch
from torch import Tensor

_TOPK_BLOCK = 16
# Rows up to here are searched whole.
_SHORT_ROW = 256
# NumPy sorts short rows with vector instructions but in one thread. Measured with one thread and with two, where it was
# faster than topk; topk gains with threads.
_SORT_THREADS = 3


def smallest(values: Tensor) -> Tensor:
    """(...) int64 place of the smallest entry of each row of (..., W), the first of equals only within blocks.

    Of long rows block minima first: `amin` is vectorised on CPU and runs at memory speed, `argmin` is not.
    """
    width = values.shape[-1]
    if values.device.type != "cpu" or width % _TOPK_BLOCK or width <= _SHORT_ROW:
        return values.argmin(dim=-1)
    # A block is a column of this view (a stride apart), so that the minimum runs down whole rows of memory.
    blocks = values.view(*values.shape[:-1], _TOPK_BLOCK, width // _TOPK_BLOCK)
    chosen = blocks.amin(dim=-2).argmin(dim=-1, keepdim=True)
    inside = blocks.gather(-1, chosen[..., None, :].expand(*blocks.shape[:-1], 1)).squeeze(-1)
    return inside.argmin(dim=-1) * (width // _TOPK_BLOCK) + chosen.squeeze(-1)


def top_smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest entries of each row (all, if there are fewer), sorted, with their places.

    Looks at block minima first: the answer lies in the `count` blocks with the smallest minima, which is several
    times faster than sorting whole rows and gives the same values.
    """
    num_rows, width = values.shape
    count, num_blocks = min(count, width), width // _TOPK_BLOCK
    if count == 1:
        places = smallest(values)[:, None]
        return values.gather(1, places), places
    if width % _TOPK_BLOCK or num_blocks <= 2 * count:
        return _sorted_smallest(values, count)
    blocks = values.view(num_rows, _TOPK_BLOCK, num_blocks)
    chosen = _sorted_smallest(blocks.amin(dim=1), count)[1]
    inside = blocks.gather(2, chosen[:, None, :].expand(-1, _TOPK_BLOCK, -1)).view(num_rows, -1)
    best, places = _sorted_smallest(inside, count)
    block = places // count
    return best, chosen.gather(1, places - block * count) + block * num_blocks


def _sorted_smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`topk(count, largest=False)` of (B, W) float32 rows: values in ascending order, and their places.

    A float64 has 29 bits that a float32 leaves zero. With the place in them whole rows can be sorted as numbers, which
    NumPy does several times faster than topk finds a few. Of equal values below zero the later ones come first.
    """
    width, plain = values.shape[1], values.device.type == "cpu" and values.dtype == torch.float32
    if not plain or torch.get_num_threads() > _SORT_THREADS or not 0 < width <= _SHORT_ROW:
        return values.topk(count, dim=1, largest=False)
    # Infinity with a place in its bits would be NaN, whose bits do not outlive sorting.
    keys = values.clamp(max=torch.finfo(values.dtype).max).double()
    bits = keys.view(torch.int64)
    bits |= torch.arange(width)
    keys.numpy().sort(axis=1)
    places = bits[:, :count] & ((1 << 29) - 1)
    return values.gather(1, places), places
