"""Tags: any number of labels for a recording, by linear heads on time means; mean average precision over classes.

`target` is a list of labels, a text of them with `|` or `;` between, or {key: label} whose labels count alike. The loss
is the binary cross-entropy, its mean over items and classes; the classes are those of training.
"""

import dataclasses
import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import MeanProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Row, Table
from spear.evaluate.task import Task

_Label = str | int | float


def tags_of(target: Any) -> list[str]:
    """The labels of a target, each once, sorted."""
    values = target.values() if isinstance(target, dict) else target if isinstance(target, list) else [target]
    parts = (part.strip() for value in values for part in re.split(r"[|;]", str(value)))
    return sorted({part for part in parts if part})


class TagProblem(MeanProblem):
    """Several labels or none. Hypotheses are log odds, in the order of `details["classes"]`.

    Args:
        splits: every target is a list of labels.
    """

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        super().__init__(splits, store, settings)
        counts = {name: Counter(tag for row in rows for tag in row.target) for name, rows in splits.items()}
        self._classes = {tag: number for number, tag in enumerate(sorted(counts["train"]))}
        self.num_outputs = len(self._classes)
        self._targets = {name: self._indicators(rows) for name, rows in splits.items()}
        unseen = sorted(set(counts["test"]) - set(self._classes))
        self.details = {
            "classes": list(self._classes),
            "clips": {name: len(rows) for name, rows in splits.items()},
            "test_clips_of_class": {name: counts["test"][name] for name in self._classes},
            "test_labels_unseen_in_training": unseen,
        }

    def _places(self, row: Row) -> list[int]:
        return [self._classes[tag] for tag in row.target if tag in self._classes]

    def _indicators(self, rows: list[Row]) -> Tensor:
        found_NC = torch.zeros(len(rows), self.num_outputs)
        for number, row in enumerate(rows):
            found_NC[number, self._places(row)] = 1
        return found_NC

    def _loss(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits_NC, targets_NC)

    def _read(self, logits_NC: Tensor) -> list[list[float]]:
        return [[round(value, 4) for value in row] for row in logits_NC.tolist()]

    def rows(self, split: str) -> list[dict]:
        """See `Problem`: the numbers of the classes that are there."""
        return [{"id": row.id, "reference": self._places(row)} for row in self._splits[split]]


class TagTask(Task):
    """See the module's docstring."""

    metrics, needs_frames, settings_key = ("map",), False, "labels"
    target_type = _Label | list[_Label] | dict[str, _Label]

    def __init__(self, name: str, title: str):
        self.name, self.title = name, title

    def refuse(self, target: Any) -> str | None:
        """See `Task`."""
        return super().refuse(target) or (None if tags_of(target) else "no target")

    def judged(self, target: Any) -> tuple[tuple[str, ...], str]:
        """See `Task`."""
        return tuple(tags_of(target)), ""

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> TagProblem:
        """See `Task`."""
        split = {n: [dataclasses.replace(r, target=tags_of(r.target)) for r in rows] for n, rows in splits.items()}
        return TagProblem(split, store, settings)
