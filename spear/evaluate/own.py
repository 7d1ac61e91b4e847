"""A suite of one task from anybody's labels: a table with paths and labels, or a folder for each class.

Tables are CSV, TSV or JSONL; paths are relative to the table. With a column `split` (train, dev, test) its division is
used; else every recording is tested once, in as many folds as asked for: a head is trained on all folds but two, its
learning rate is selected on one, and it is scored on the other. What has one group (a speaker, a session, a take; one
recording at least) is never divided.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spear.audio.load import probe
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate.problems import Splits
from spear.evaluate.suite import Refuse, Suite
from spear.evaluate.table import SPLITS, Row, Table, settled
from spear.evaluate.task import Task, fold_places, group_of
from spear.evaluate.tasks.generic import LabelTask, SequenceTask
from spear.evaluate.tasks.regression import NumberTask
from spear.evaluate.tasks.tags import TagTask
from spear.evaluate.units import normalise_text
from spear.manifest import Item
from spear.manifest.labelled import CLASS, group_in, labelled_records, named, no_usable_row, path_of, text_of
from spear.manifest.scan import Scan
from spear.manifest.words import split_of


class _Folded:
    """A task whose rows are divided by their split, or by folds of groups."""

    num_folds = 0

    @property
    def identity(self) -> list[Any]:
        """See `Task`."""
        return [*super().identity, self.num_folds]

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`."""
        if not self.num_folds:
            return super().folds(table)
        rows = table.rows
        places = fold_places([(group_of(row), str(row.target)) for row in rows], self.num_folds)
        if len(places) < self.num_folds:
            raise DataError(
                f"{len(places)} groups in {self.name}",
                f"at least {self.num_folds}, one for each fold",
                "lower --folds, or give a finer --group",
            )
        found = {}
        for number, test in enumerate(places):
            dev = places[(number + 1) % len(places)]
            apart = {*test.tolist(), *dev.tolist()}
            train = [row for place, row in enumerate(rows) if place not in apart]
            parts = {"dev": [rows[place] for place in dev], "test": [rows[place] for place in test]}
            found[f"{number + 1} of {len(places)}"] = {"train": train, **parts}
        return found


class _OwnLabel(_Folded, LabelTask):
    pass


class _OwnText(_Folded, SequenceTask):
    def __init__(self, name: str, title: str):
        super().__init__(name, title, "wer", False)


class _OwnTags(_Folded, TagTask):
    pass


class _OwnNumber(_Folded, NumberTask):
    pass


KINDS = {"multiclass": _OwnLabel, "multilabel": _OwnTags, "regression": _OwnNumber, "text": _OwnText}
"""What labels can be, and the task of each kind."""


def _label(value: Any) -> str:
    """A cell as text; the labels of a list are joined."""
    return "|".join(map(str, value)) if isinstance(value, list) else text_of(value)


class OwnLabels(Suite):
    """See the module's docstring.

    Args:
        data_dir: the table, or a folder with one folder for each class.
        protocol: see `Suite`.
        target: the column of labels, or several joined by commas, of which all must be right. Of folders: `class`.
        kind: `multiclass`; `multilabel`, any number of labels (a JSON list, or `|` or `;` between; mean average
            precision); `regression`, a number (correlation, explained variance, mean absolute error); or `text` (a
            linear CTC head; word error rate).
        group: a column of what must not be divided; empty for the recording itself.
        folds: how many, where there is no column `split`.

    Raises:
        ConfigError: no such file, kind, or fewer than three folds.
    """

    name, own_protocol, manifests = "own", "mini", "."

    def __init__(
        self,
        data_dir: str | Path,
        protocol: str = "",
        target: str = CLASS,
        kind: str = "multiclass",
        group: str = "",
        folds: int = 5,
    ):
        super().__init__(data_dir, protocol)
        self.target, self.kind, self.group, self.num_folds = target, kind, group, folds
        self.is_folder = self.data_dir.is_dir()
        if not self.data_dir.exists():
            raise ConfigError(f"no {self.data_dir}", "a table of paths and labels, or a folder", "correct --manifest")
        if kind not in KINDS:
            raise ConfigError(f"--kind {kind}", " or ".join(KINDS), "choose one of these")
        if folds < 3:
            raise ConfigError(f"--folds {folds}", "at least 3: to train, to select and to test", "raise --folds")

    @property
    def place(self) -> dict[str, Any]:
        """See `Suite`."""
        words = {"target": self.target, "kind": self.kind, "group": self.group, "folds": self.num_folds}
        return super().place | words

    def forget_audio(self) -> None:
        """See `Suite`; nothing is remembered."""

    def find(self, names: Sequence[str], refuse: Refuse | None = None) -> list[Task]:
        """The one task, whatever the name."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{self.data_dir.stem}-{self.target}")[:200]
        title = f"{self.target} of {self.data_dir.name}"
        task = KINDS[self.kind](name, title)
        is_split = not self.is_folder and any("split" in record for record in self._records(Scan([], [], True)))
        task.num_folds = 0 if is_split else self.num_folds
        return [task]

    def table(self, task: Task, max_items: int | None = None, gain_db: float = 0.0) -> Table:
        """See `Suite`; rows that cannot be used are listed."""
        found, rows, seen = Scan([], [], True), [], set()
        skipped: list[dict] = []
        for record in self._records(found):
            try:
                row = self._row(record, task, seen)
                rows.append(row)
                seen.add(row.id)
            except SpearError as error:
                name = str(record.get("id") or path_of(record) or "?")[:200]
                skipped.append({"id": name, "split": "all", "reason": error.found})
        skipped += [{"id": bad["id"], "split": "all", "reason": bad["reason"]} for bad in found.refused]
        if not rows:
            raise no_usable_row(str(self.data_dir), self.target, skipped)
        return Table(settled(rows, None, max_items, gain_db), skipped)  # nothing is written beside others' audio

    def _records(self, found: Scan) -> Iterator[dict[str, Any]]:
        return labelled_records(self.data_dir, [part.strip() for part in self.target.split(",")], found)

    def _row(self, record: dict[str, Any], task: Task, seen: set[str]) -> Row:
        fix, (row_id, name) = "correct that row", named(record)
        if row_id in seen:
            raise DataError(f"id {row_id[:200]!r}: an id for the second time", "an id of its own", fix)
        keys = [part.strip() for part in self.target.split(",")]
        labels = {key: _label(record.get(key)) for key in keys}
        target: Any = labels[keys[0]] if len(keys) == 1 else labels
        if self.kind == "text":
            target = normalise_text(" ".join(labels.values()))
        reason = "no label" if not all(labels.values()) else task.refuse(target)
        if reason:
            raise DataError(f"{reason} ({self.target})", "a label in every row", fix)
        split = split_of(str(record["split"])) if "split" in record else "all"
        if not split:
            raise DataError(f"split '{record['split']}'", ", ".join(SPLITS), fix)
        base = self.data_dir if self.is_folder else self.data_dir.parent
        path = base / name
        length = probe(path)
        item = Item(
            row_id, path, 0.0, length.duration_seconds, round(16000 * length.duration_seconds), "speech", "speech"
        )
        return Row(row_id, split, item, target, "", {"group": group_in(record, self.group, name)})
