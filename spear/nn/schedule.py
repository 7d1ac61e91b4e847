"""Values that change as training goes on, and the coin flips that use them.

Zipformer's regularisers are strong at first and fade. Each strength is a piecewise linear function of a *batch
count*, which the trainer sets with `set_batch_count` (in units of a reference batch duration, so that schedules
keep their meaning when the batch size changes).
"""

import torch
import torch.nn.functional as F
from torch import nn


class ScheduledFloat(nn.Module):
    """A piecewise linear function of the batch count; constant before the first and after the last point.

    Args:
        points: (batch count, value) pairs in ascending order of batch count.
        default: value while no batch count was ever set (a module used outside our trainer).
    """

    def __init__(self, *points: tuple[float, float], default: float = 0.0):
        super().__init__()
        counts = [count for count, _ in points]
        if not points or any(b <= a for a, b in zip(counts, counts[1:])):
            raise ValueError(f"batch counts must ascend: {points}")
        self.points = points
        self.value = default

    def set_batch_count(self, count: float) -> None:
        """Evaluates the function once, so that reading the value costs nothing."""
        (left, value), *rest = self.points
        if count > left:
            for right, next_value in rest:
                if count < right:
                    value += (next_value - value) * (count - left) / (right - left)
                    break
                left, value = right, next_value
        self.value = value

    def __float__(self) -> float:
        return float(self.value)

    def extra_repr(self) -> str:
        return f"{self.points}, now {self.value:g}"


class Constant(nn.Module):
    """A schedule that never changes."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def __float__(self) -> float:
        return float(self.value)


def schedule(value: "float | ScheduledFloat") -> nn.Module:
    """A number as a schedule; schedules pass through."""
    return value if isinstance(value, nn.Module) else Constant(value)


def scheduled_floats(module: nn.Module) -> list[ScheduledFloat]:
    """Every `ScheduledFloat` inside `module`. Looking for them takes longer than moving them: keep the list."""
    return [part for part in module.modules() if isinstance(part, ScheduledFloat)]


def set_batch_count(module: nn.Module, count: float) -> None:
    """Moves every `ScheduledFloat` inside `module` to `count` reference batches. Call it before each step."""
    for part in scheduled_floats(module):
        part.set_batch_count(count)


def happens(probability: float) -> bool:
    """A coin flip from torch's global CPU generator: what the trainer seeds is all the randomness there is."""
    return probability > 0.0 and torch.rand(()).item() < probability


def keep_mask(x_BTC: torch.Tensor, drop_probability: float) -> torch.Tensor | None:
    """A (B, 1, 1) mask that is 0 for dropped utterances and 1 for kept ones; None when nothing can be dropped."""
    if drop_probability <= 0.0:
        return None
    if x_BTC.is_cuda:  # as below, in fewer kernels
        return x_BTC.new_empty(x_BTC.shape[0], 1, 1).bernoulli_(1.0 - drop_probability)
    return (torch.rand(x_BTC.shape[0], 1, 1, device=x_BTC.device) >= drop_probability).to(x_BTC.dtype)


def shared_dropout_mask(x_BTC: torch.Tensor, drop_probability: float) -> torch.Tensor | None:
    """A dropout mask of shape (B, 1, C), shared over time and scaled to keep the mean; None without dropout."""
    if drop_probability <= 0.0:
        return None
    if x_BTC.is_cuda:  # as below, in fewer kernels
        return F.dropout(x_BTC.new_ones(x_BTC.shape[0], 1, x_BTC.shape[-1]), drop_probability)
    keep = torch.rand(x_BTC.shape[0], 1, x_BTC.shape[-1], device=x_BTC.device) >= drop_probability
    return keep.to(x_BTC.dtype) / (1.0 - drop_probability)
