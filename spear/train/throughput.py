"""How fast a run is: share of the matrix-product peak, and which part of loading keeps it waiting."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from spear import env
from spear.log import get_logger

logger = get_logger(__name__)
_PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
# Waiting for data is worth a word above this share of the time, over so many steps.
WAIT_SHARE = 0.15
WAIT_STEPS = 200
_KNOBS = {
    "read": "more num_workers, stored features (prepare stage 2 without --on-the-fly), or data on a faster disk",
    "mix": "more num_workers, or a lower mixing.probability",
    "features": "more num_workers, or stored features (prepare stage 2 without --on-the-fly)",
    "collate": "more num_workers, or less padding (plan.num_buckets)",
}


def count_flops(function: Callable[[], object]) -> float:
    """Floating-point operations of a call: matrix products, convolutions and attention, a backward pass among them.

    Elementwise operations are not counted. Everything that states a number of operations gets it from here.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations for each padded second of audio.

    Attributes:
        model: encoder and heads, forward and backward; the optimizer is not counted.
        targets: what is computed for the targets in every step: a teacher on the fly, or random projections. Targets
            that are read from the disk cost nothing here.
    """

    model: float = 0.0
    targets: float = 0.0

    def done(self, padded_seconds: float) -> dict[str, float]:
        """Operations of so much audio, as the rows of metrics name them."""
        return {"model_flops": self.model * padded_seconds, "target_flops": self.targets * padded_seconds}


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of a large square product on this device, now; the best of a few."""
    size = _PEAK_SIZE.get(device.type, 1024)
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / max(time.perf_counter() - start, 1e-9))
    return best


class DataWait:
    """Says which part of loading is slow when training waits for it, and what to turn.

    Args:
        num_workers: of the loader.
    """

    def __init__(self, num_workers: int):
        self.num_workers = num_workers
        self._clear()

    def _clear(self) -> None:
        self._parts: Counter = Counter()
        self._steps, self._waited, self._elapsed = 0, 0.0, 0.0

    def add(self, steps: int, waited: float, elapsed: float, parts: dict[str, float]) -> str:
        """Takes a stretch of steps; returns (and logs) a sentence when the last `WAIT_STEPS` waited too much.

        Args:
            steps: optimizer steps.
            waited, elapsed: seconds.
            parts: seconds that workers spent on each part of loading.
        """
        self._steps, self._waited, self._elapsed = self._steps + steps, self._waited + waited, self._elapsed + elapsed
        self._parts.update(parts)
        if self._steps < WAIT_STEPS:
            return ""
        text, share = "", self._waited / max(self._elapsed, 1e-9)
        total = sum(self._parts.values())
        if share > WAIT_SHARE and total > 0:
            part, seconds = self._parts.most_common(1)[0]
            text = (
                f"{100 * share:.0f} % of the time goes into waiting for data. The slow part of loading is '{part}' "
                f"({100 * seconds / total:.0f} %, {1000 * seconds / self._steps:.0f} ms a step). To turn: "
                f"{_KNOBS[part]} (num_workers is {self.num_workers}, {env.num_cores()} cores here)"
            )
            logger.warning("%s", text)
        self._clear()
        return text
