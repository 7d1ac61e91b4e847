"""Tasks whose answer is a label or several: SID, IC, and what KS and ER share with them.

SID: `target` is the speaker. Training recordings longer than 8 s come as several crops of 8 s; whenever a batch takes
the recording, one of them is drawn (the published protocol draws any crop). IC: `target` is {slot: label}; all
must be right. Slots are matched by name; a row whose slots are not those of most rows is left out and listed.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import LabelProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task, unfit
from spear.seeds import numpy_rng


def with_lists(splits: Splits) -> Splits:
    """The same rows with targets as lists of labels: a label alone, or the values of {slot: label} by slot name."""

    def labels(target: Any) -> list[str]:
        return [str(target[slot]) for slot in sorted(target)] if isinstance(target, dict) else [str(target)]

    return {name: [dataclasses.replace(r, target=labels(r.target)) for r in rows] for name, rows in splits.items()}


class CropProblem(LabelProblem):
    """Of training rows that are crops of one recording (extra column `crop_of`), a batch that takes it draws one."""

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        super().__init__(splits, store, settings)
        groups: dict[str, list[int]] = {}
        for place, row in enumerate(splits["train"]):
            groups.setdefault(row.extra.get("crop_of", row.id), []).append(place)
        self._groups = list(groups.values())

    def train_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """See `Problem`."""
        sizes = np.asarray([len(group) for group in self._groups])
        drawn = numpy_rng(0, "superb-crops", epoch).integers(sizes)
        places = np.asarray([group[number] for group, number in zip(self._groups, drawn)])
        order = places[numpy_rng(0, "superb-batches", epoch).permutation(len(places))]
        for start in range(0, len(order), self.settings.batch_size):
            yield order[start : start + self.settings.batch_size]


class SpeakerIdentification(Task):
    """See the module's docstring."""

    name, title, metrics = "SID", "Speaker identification", ("accuracy",)
    needs_frames = False

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> CropProblem:
        """See `Task`."""
        return CropProblem(with_lists(splits), store, settings)


class IntentClassification(Task):
    """See the module's docstring."""

    name, title, metrics = "IC", "Intent classification", ("accuracy",)
    target_type = dict[str, str | int | float]
    needs_frames = False

    def refuse(self, target: Any) -> str | None:
        """Every slot needs a label."""
        if not isinstance(target, dict) or not target:
            return "no intent"
        empty = [slot for slot, label in target.items() if label in (None, "")]
        return f"no label for {empty[0]}" if empty else unfit(target, self.target_type)

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; rows with other slots than most are left out."""
        counts = Counter(tuple(sorted(row.target)) for row in table.rows)
        if len(counts) > 1:
            usual = min(counts, key=lambda slots: (-counts[slots], slots))
            said = f"not {', '.join(usual)}"
            others = {row.id: tuple(sorted(row.target)) for row in table.rows}
            table.leave_out({n: f"slots {', '.join(s)}, {said}" for n, s in others.items() if s != usual})
        return super().folds(table)

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> LabelProblem:
        """See `Task`."""
        return LabelProblem(with_lists(splits), store, settings)
