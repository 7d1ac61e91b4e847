"""A number for a recording, by linear heads on time means; correlation, explained variance and mean absolute error.

`target` is a number, or the name of a note such as C#4, which counts semitones (A4 is 69, as in MIDI). Heads learn the
squared error of numbers that are standardised on the training items, so that their unit does not matter.
"""

import dataclasses
import math
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import MeanProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task

METRICS = ("pearson", "r2", "mae")
_NOTE = re.compile(r"([A-G])([#b]?)(-?\d{1,2})")
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_LARGEST = 1e30


def number_of(target: Any) -> float | None:
    """The number that a target says; None when it is none, or not finite."""
    note = _NOTE.fullmatch(str(target).strip())
    if note:
        step, accidental, octave = note.groups()
        return float(_SEMITONES[step] + {"": 0, "#": 1, "b": -1}[accidental] + 12 * (int(octave) + 1))
    try:
        value = float(target)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if abs(value) < _LARGEST else None


class NumberProblem(MeanProblem):
    """One output, the standardised number; hypotheses are numbers in the unit of the targets.

    Args:
        splits: every target is a number.
    """

    num_outputs = 1

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        super().__init__(splits, store, settings)
        values = torch.tensor([row.target for row in splits["train"]], dtype=torch.float64)
        self._mean, self._deviation = float(values.mean()), float(values.std(correction=0)) or 1.0
        self._targets = {
            name: torch.tensor([(row.target - self._mean) / self._deviation for row in rows], dtype=torch.float32)
            for name, rows in splits.items()
        }
        self.details = {"train_mean": self._mean, "train_deviation": self._deviation}

    def _loss(self, logits_N1: Tensor, targets_N: Tensor) -> Tensor:
        return functional.mse_loss(logits_N1[:, 0], targets_N)

    def _read(self, logits_N1: Tensor) -> list[float]:
        values = (self._mean + self._deviation * value for value in logits_N1[:, 0].double().tolist())
        return [float(f"{value:.7g}") if math.isfinite(value) else self._mean for value in values]


class NumberTask(Task):
    """See the module's docstring.

    Args:
        metric: selects on dev.
    """

    needs_frames, settings_key = False, "labels"

    def __init__(self, name: str, title: str, metric: str = METRICS[0]):
        self.name, self.title = name, title
        self.metrics = (metric, *(other for other in METRICS if other != metric))

    @property
    def identity(self) -> list[Any]:
        """See `Task`."""
        return [*super().identity, self.metrics[0]]

    def refuse(self, target: Any) -> str | None:
        """See `Task`."""
        said = None if number_of(target) is not None else f"'{str(target)[:40]}' is no number"
        return "no target" if target in (None, "", [], {}) else said

    def judged(self, target: Any) -> tuple[tuple[str, ...], str]:
        """See `Task`."""
        return (f"{number_of(target):g}",), ""

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> NumberProblem:
        """See `Task`."""
        split = {n: [dataclasses.replace(r, target=number_of(r.target)) for r in rows] for n, rows in splits.items()}
        return NumberProblem(split, store, settings)
