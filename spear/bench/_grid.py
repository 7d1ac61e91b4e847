"""HEAR's grid: its eight points trained side by side against one after another, for `spear bench evaluate`.

Both sides train the same points on the same random embeddings, from the same seeds, and must come to the same curves
and scores. Seconds are those of the CPU, or on a GPU of the clock.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spear.errors import DataError
from spear.evaluate import engine
from spear.evaluate.hear.layout import Metadata
from spear.evaluate.hear.problem import HearProblem
from spear.evaluate.protocol import PerceptronSettings, settings_of
from spear.evaluate.table import Row
from spear.manifest import Item
from spear.seeds import torch_rng

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Task:
    """A task of random embeddings, (recordings of train, dev and test), their classes, and the protocol."""

    recordings: tuple[int, int, int]
    dim: int
    classes: int
    protocol: str
    epochs: int

    def settings(self, device: str) -> PerceptronSettings:
        """Those of the protocol with the eight published points; no early stopping: both sides do the same work."""
        changes = {"learning_rates": settings_of("hear", "hear").learning_rates, "device": device}
        return settings_of(self.protocol, "hear", changes | {"max_epochs": self.epochs, "patience": self.epochs})


TASKS = {
    "small": Task((60, 20, 20), 128, 6, "mini", 30),
    "Gunshot": Task((60, 14, 14), 768, 4, "hear", 30),
    "ESC-50": Task((1200, 400, 400), 768, 50, "hear", 6),
}


class _Store:
    """Embeddings of random numbers, a cloud for each class."""

    def __init__(self, task: Task, seed: int = 0):
        rng = torch_rng(seed, "bench-grid")
        centres_KD = torch.randn(task.classes, task.dim, generator=rng)
        noise_ND = torch.randn(sum(task.recordings), task.dim, generator=rng)
        self._values_ND = noise_ND + 0.3 * centres_KD[torch.arange(len(noise_ND)) % task.classes]

    def means(self, keys: list[str]) -> Tensor:
        """See `FeatureStore`."""
        return self._values_ND[[int(key) for key in keys]][None]


def problem_of(task: Task, settings: PerceptronSettings) -> HearProblem:
    """The task as the suite would have it."""
    splits: dict[str, list[Row]] = {}
    number = 0
    for split, count in zip(("train", "dev", "test"), task.recordings):
        for _ in range(count):
            item = Item(str(number), Path("noise.wav"), 0.0, 1.0, 16000, "audio", "event")
            splits.setdefault(split, []).append(Row(str(number), split, item, [number % task.classes], str(number)))
            number += 1
    metadata = Metadata("noise", "scene", "multiclass", "trainvaltest", ["top1_acc"])
    store: Any = _Store(task)
    return HearProblem(splits, store, settings, metadata, [f"class {n}" for n in range(task.classes)])


def compare(name: str, device: str = "cpu") -> dict:
    """Seconds of both sides, their ratio, and the largest difference of a loss or score.

    Raises:
        DataError: they differ by more than 1e-4.
    """
    task = TASKS[name]
    settings = task.settings(device)
    _trained(task, dataclasses.replace(settings, max_epochs=1))  # what a first call takes is not of the grid
    together, seconds = _trained(task, settings)
    alone, largest = 0.0, 0.0
    for point in settings.points:
        grid, own = _trained(task, settings.at(point.name))
        alone += own
        largest = max(largest, _difference(together, grid, point.name))
    if not largest <= _TOLERANCE:
        raise DataError(f"{name}: side by side differs by {largest:g}", f"at most {_TOLERANCE:g}", "report this")
    return {
        "task": name,
        "points": len(settings.points),
        "steps": together.steps,
        "side_by_side_seconds": seconds,
        "one_after_another_seconds": alone,
        "ratio": alone / seconds,
        "largest_difference": largest,
    }


def _trained(task: Task, settings: PerceptronSettings) -> tuple[engine.Grid, float]:
    clock = time.process_time if settings.device == "cpu" else time.monotonic
    problem = problem_of(task, settings)
    start = clock()
    grid = engine.train_grid(problem, "top1", problem.settings)  # ends with predictions, which wait for a GPU
    return grid, clock() - start


def _difference(together: engine.Grid, alone: engine.Grid, point: str) -> float:
    """Of a point's curves, losses and scores."""
    sides = [[_numbers(head) for head in grid.heads if engine.point_of(head) == point] for grid in (together, alone)]
    for split in ("dev", "test"):
        for side, grid in zip(sides, (together, alone)):
            side.append([engine.score_folds("top1", grid.predictions(split, point, ""))])
    return max(float(np.abs(np.subtract(one, other)).max()) for one, other in zip(*sides, strict=True))


def _numbers(head: dict) -> list[float]:
    curve = [p[key] for p in head["curve"] for key in ("train_loss", "dev_loss", "dev_score")]
    return [*curve, head["dev_loss"], head["test_loss"]]
