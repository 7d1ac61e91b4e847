"""What a task is: which targets are usable, how rows are divided, which problem is trained, what legacy rule it has."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spear import records
from spear.errors import DataError
from spear.evaluate.cache import FeatureStore
from spear.evaluate.doubts import Judged, find_doubts
from spear.evaluate.problems import Problem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import SPLITS, Row, Table
from spear.seeds import numpy_rng


def unfit(target: Any, target_type: Any) -> str | None:
    """The reason why a target is not of a type; None when it is."""
    try:
        records.convert(target, target_type, "target")
    except DataError as error:
        return f"{error.found}, not {error.expected[:1].lower()}{error.expected[1:]}"
    return None


class Task:
    """Base of the tasks; a subclass gives data rules, head and metrics.

    Attributes:
        name: of the board, such as KS.
        title: for tables.
        metrics: the first one selects on dev.
        needs_frames: whether time means of the hidden states do not suffice.
        needs_centres: whether it matters when frames are, to the millisecond.
        board: `all`, the ten of SUPERB, or `sg`, those of SUPERB-SG; `--tasks` takes either word. Empty for a task that
            is scored when it is named.
        target_type: what a target must be, as `msgspec` checks it.
        trained_splits: splits that must not be empty.
        legacy: where the published protocol selects in another way: on `test`, or on another `dev` (see `folds`);
            nothing where it does not.
        legacy_rule: the same in words.
        legacy_differences: what still parts the number under that rule from what the published code would report.
        settings_key: of the protocol's settings; the task's name if it is empty.
        target: where a recipe's items have it, see `suites.item_target`.
        is_ablation: left out of `all`.
        is_optional: left out of `all` and of ablations.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    needs_frames, needs_centres = True, False
    board = "all"
    target_type: Any = str | int | float
    trained_splits: tuple[str, ...] = SPLITS
    legacy = legacy_rule = ""
    legacy_differences: tuple[str, ...] = ()
    settings_key = target = ""
    is_ablation = is_optional = False

    @property
    def identity(self) -> list[Any]:
        """What the task asks and how, whatever its name: equal identities on equal rows have one score."""
        return [type(self).__name__]

    def files(self, row: Row) -> list[Path]:
        """Audio beside the row's own that a score depends on."""
        return []

    def refuse(self, target: Any) -> str | None:
        """The reason why a target cannot be used; None for a good one."""
        if target in (None, "", [], {}):
            return "no target"
        return unfit(target, self.target_type)

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """Rows of train, dev and test for each fold."""
        return {"": {name: table.of(name) for name in SPLITS}}

    def judged(self, target: Any) -> tuple[tuple[str, ...], str]:
        """Labels (or symbols of a sequence) and text of a target of the splits of `folds`, for `find_doubts`."""
        if self.metrics[0] == "accuracy":
            values = [target[slot] for slot in sorted(target)] if isinstance(target, dict) else [target]
            return tuple(map(str, values)), ""
        return (), ""

    @property
    def judged_by(self) -> str:
        """The metric whose rules say what labels that training lacks do to a score, for `find_doubts`."""
        return self.metrics[0]

    def doubts(self, table: Table) -> list[str]:
        """What makes the score of these rows mean little, a sentence each, each once over the folds."""
        if not self.trained_splits:
            return []
        found: dict[str, None] = {}
        for fold, splits in self.folds(table).items():
            judged = {
                name: [Judged(row.item, *self.judged(row.target)) for row in rows] for name, rows in splits.items()
            }
            found |= dict.fromkeys((f"fold {fold}: " if fold else "") + d for d in find_doubts(judged, self.judged_by))
        return list(found)

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> Problem:
        """The problem of one fold."""
        raise NotImplementedError

    def problems(
        self, table: Table, store: FeatureStore, settings: Settings, legacy: bool = False
    ) -> dict[str, Problem]:
        """The problem of every fold.

        Raises:
            DataError: a split has no usable row; says which and why rows were left out.
        """
        found = {}
        for fold, splits in self.folds(table, legacy).items():
            for name in self.trained_splits:
                if not splits[name]:
                    reasons = sorted({row["reason"] for row in table.skipped})
                    raise DataError(
                        f"no usable {name} row of {self.name}" + (f" in fold {fold}" if fold else ""),
                        f"rows in {', '.join(self.trained_splits)}",
                        f"prepare more data; rows left out: {len(table.skipped)} ({'; '.join(reasons[:3]) or 'none'})",
                    )
            found[fold] = self.problem(splits, table, store, settings)
        return found

    def more_scores(
        self, table: Table, store: FeatureStore, settings: Settings, learning_rate: float, label: str
    ) -> dict[str, float]:
        """Numbers beside the score, by what they are called, from heads of their own; for information.

        Args:
            learning_rate: the selected one.
        """
        return {}

    def selection_problems(self, table: Table, store: FeatureStore, settings: Settings) -> dict[str, Problem]:
        """Folds of train and dev by which the learning rate is selected where dev is small; empty where it is not.

        What belongs together (`group_of`) stays together; the heads that are scored are trained on train all the same.
        """
        splits = list(self.folds(table).values())
        if self.needs_frames or len(splits) != 1 or len(splits[0]["dev"]) >= settings.least_dev_items:
            return {}
        pool = [*splits[0]["train"], *splits[0]["dev"]]
        found = {}
        for number, held in enumerate(fold_places([(group_of(r), str(r.target)) for r in pool], settings.num_folds)):
            dev, mine = [pool[place] for place in held], set(held.tolist())
            train = [row for place, row in enumerate(pool) if place not in mine]
            if dev and train:  # nobody looks at the test part
                found[f"fold {number}"] = self.problem(
                    {"train": train, "dev": dev, "test": dev}, table, store, settings
                )
        return found


def in_turn(rows: Mapping[str, Sequence[Row]]) -> dict[str, Splits]:
    """Every fold is tested once, selected on the next one and trained on the others.

    Args:
        rows: of each fold, in their order.
    """
    names, found = list(rows), {}
    for number, test in enumerate(names):
        dev = names[(number + 1) % len(names)]
        train = [row for name in names if name not in (test, dev) for row in rows[name]]
        found[test] = {"train": train, "dev": list(rows[dev]), "test": list(rows[test])}
    return found


def group_of(row: Row) -> Hashable:
    """What a row must not be parted from: its group, the recording that it is a crop of, or itself."""
    return row.extra.get("group") or row.extra.get("crop_of") or row.id


def fold_places(rows: Sequence[tuple[Hashable, Hashable]], num_folds: int) -> list[np.ndarray]:
    """Places of the rows that each fold holds out; each is in one fold, and every label in as many as it can be.

    Args:
        rows: (group, label) of each; rows of one group are in one fold.
        num_folds: at most as many as there are groups.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, (group, _) in enumerate(rows):
        groups.setdefault(group, []).append(place)
    by_label: dict[Any, list[Hashable]] = {}
    names = list(groups)
    for number in numpy_rng(0, "folds", len(names)).permutation(len(names)).tolist():
        by_label.setdefault(rows[groups[names[number]][0]][1], []).append(names[number])
    dealt = [group for label in sorted(by_label, key=str) for group in by_label[label]]
    return [
        np.sort([place for group in dealt[start::num_folds] for place in groups[group]])
        for start in range(min(num_folds, len(dealt)))
    ]
