"""The suite of ARCH, clean and as published: one linear layer on the time mean of the last hidden state.

`arch` takes the mean over the recording, holds out for selection what belongs together, and scores the best checkpoint
on dev. `arch_legacy` does as the published code: recordings are filled up with zeros, which count in the mean, parts
are drawn without regard to speakers and sources, and the last epoch is scored. The encoder runs once for a recording
that both take whole.
"""

import dataclasses
from typing import Any

from spear.errors import DataError
from spear.evaluate.arch.layouts import CORPORA, ArchCorpus
from spear.evaluate.cache import FeatureStore
from spear.evaluate.hear.layout import Metadata
from spear.evaluate.hear.problem import HearProblem
from spear.evaluate.listed import ListedTasks, by_fold, drawn
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import PerceptronSettings
from spear.evaluate.table import SPLITS, Table
from spear.evaluate.task import Task, in_turn


class ArchTask(Task):
    """One corpus."""

    needs_frames, settings_key, legacy_protocol = False, "arch", False

    def __init__(self, corpus: ArchCorpus):
        self.corpus, self.name, self.title = corpus, corpus.name, corpus.title
        self.metrics = ("map",) if corpus.tags else ("top1",)

    @property
    def identity(self) -> list[Any]:
        """See `Task`."""
        return [*super().identity, self.metrics, *self.corpus.shares(self.legacy_protocol)]

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; what the corpus does not state is drawn.

        Raises:
            DataError: recordings of fewer than three folds are there.
        """
        together = not self.legacy_protocol
        test_share, dev_share = self.corpus.shares(self.legacy_protocol)
        if test_share:
            train, test = drawn(table.rows, test_share, together)
            train, dev = drawn(train, dev_share, together)
            return {"": {"train": train, "dev": dev, "test": test}}
        rows = by_fold(table.rows)
        if list(rows) == [""]:
            train, dev, test = map(table.of, SPLITS)
            train, dev = drawn(train, dev_share, together) if dev_share else (train, dev)
            return {"": {"train": train, "dev": dev, "test": test}}
        if len(rows) < 3:
            raise DataError(f"{self.title} with folds {', '.join(rows)}", "three folds or more", "unpack it again")
        if not dev_share:
            return in_turn(rows)
        found = {}
        for test in rows:
            train, dev = drawn([row for name in rows if name != test for row in rows[name]], dev_share, together)
            found[test] = {"train": train, "dev": dev, "test": rows[test]}
        return found

    def doubts(self, table: Table) -> list[str]:
        """See `Task`."""
        return [*table.absent(), *super().doubts(table)]

    @property
    def judged_by(self) -> str:
        """See `Task`."""
        return "map" if self.corpus.tags else "accuracy"

    def judged(self, target: Any) -> tuple[tuple[str, ...], str]:
        """See `Task`."""
        return tuple(_labels(target)), ""

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: PerceptronSettings) -> HearProblem:
        """See `Task`; targets become the numbers of the corpus's labels, as those of HEAR are."""
        names = sorted({label for row in table.rows for label in _labels(row.target)})
        numbers = {name: number for number, name in enumerate(names)}
        kind = "multilabel" if self.corpus.tags else "multiclass"
        metadata = Metadata(self.name, "scene", kind, "trainvaltest", ["mAP" if self.corpus.tags else "top1_acc"])
        numbered = {
            split: [dataclasses.replace(row, target=[numbers[label] for label in _labels(row.target)]) for row in rows]
            for split, rows in splits.items()
        }
        return HearProblem(numbered, store, settings, metadata, names)


class _LegacyTask(ArchTask):
    legacy_protocol = True


def _labels(target: str | list[str]) -> list[str]:
    return sorted(set(target)) if isinstance(target, list) else [target]


class ArchTasks(ListedTasks):
    """See the module's docstring."""

    name = own_protocol = "arch"
    corpora, make = CORPORA, ArchTask


class LegacyArchTasks(ListedTasks):
    """The same tasks as the published code has them."""

    name = own_protocol = "arch_legacy"
    corpora, make, padded = CORPORA, _LegacyTask, True
