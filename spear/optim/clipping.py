"""Gradient clipping against the median of recent gradient norms; nothing waits for the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

_EARLY_STEPS = (10, 20, 40)  # the threshold is first set here, with a margin of 2


@dataclass(frozen=True)
class ClippingStatistics:
    """For logs. `fraction_clipped` is over the last `clipping_update_period` steps at most."""

    last_grad_norm: float
    threshold: float
    fraction_clipped: float
    num_nonfinite: int


class MedianClipper:
    """Scales gradients down to `scale` times the median norm; the median is taken anew every `period` steps.

    The norm is that of gradients times parameter sizes, since that is what a relative change sees. Nothing is scaled
    before step `start`, counted from 0.
    """

    def __init__(self, scale: float | None, period: int, device: torch.device, start: int = 0):
        self.scale, self.period, self.start = scale, period, start
        self.norms = torch.zeros(period, device=device)
        self.clipped = torch.zeros(period, device=device)
        self.threshold = torch.full((), torch.inf, device=device)
        self.num_nonfinite = torch.zeros((), device=device)
        self.last_norm = torch.zeros((), device=device)
        self.steps = 0

    def tensors(self) -> dict[str, Tensor]:
        """All of the state but `steps`."""
        names = ("norms", "clipped", "threshold", "num_nonfinite", "last_norm")
        return {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def update(self, norm: Tensor) -> tuple[float | Tensor, bool | Tensor]:
        """Takes the norm of this step's gradients.

        Returns:
            factor for the gradients, and whether the norm is finite: numbers on CPU, 0-dimensional tensors elsewhere.
        """
        step, self.steps = self.steps, self.steps + 1
        finite = torch.isfinite(norm)
        self.last_norm.copy_(norm)
        self.num_nonfinite += ~finite
        factor = torch.ones_like(norm)
        # The first step is taken as it is: no median yet, and often an outlier.
        if self.scale is not None and step > 0:
            self.norms[step % self.period] = torch.where(finite, norm, torch.inf)
            early = self.start <= step < self.period and step in _EARLY_STEPS
            if early or step % self.period == 0:
                count = step if early else self.period
                ordered = self.norms.sort().values[-count:]
                self.threshold.copy_(ordered[count // 4 * 2] * self.scale * (2.0 if early else 1.0))
            if step >= self.start:
                factor = (self.threshold / (norm + 1e-20)).clamp(max=1.0)
            self.clipped[step % self.period] = factor < 1.0
        return (float(factor), bool(finite)) if norm.device.type == "cpu" else (factor, finite)

    def statistics(self) -> ClippingStatistics:
        """Reads the numbers from the device (which waits for it)."""
        counted = max(1, min(self.steps - 1, self.period))
        return ClippingStatistics(
            float(self.last_norm), float(self.threshold), float(self.clipped.sum()) / counted, int(self.num_nonfinite)
        )
