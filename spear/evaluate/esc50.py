"""ESC-50 by linear probes of a frozen encoder (five official folds; no part for selection is prescribed).

The score is clean: each fold is tested once, the next one selects the learning rate and the checkpoint, three train.
Beside it stand two numbers as others report them, from heads that are trained on the other four folds at that learning
rate: that of the last evaluation, and that of the best one on test, which nobody without test labels can reach.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spear.errors import DataError
from spear.evaluate import engine
from spear.evaluate.cache import FeatureStore
from spear.evaluate.listed import Clip, Corpus, ListedTasks, by_fold
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import in_turn
from spear.evaluate.tasks.generic import LabelTask
from spear.manifest.corpora.tables import read_records
from spear.manifest.scan import Scan

LAST, BEST = "last-epoch accuracy", "best-on-test accuracy"


def _read(folder: Path, found: Scan) -> Iterator[Clip]:
    for row in read_records(folder / "meta" / "esc50.csv", found, ["filename", "fold", "category", "src_file"]):
        yield Clip(f"audio/{row['filename']}", row["category"], fold=row["fold"], group=row["src_file"])


CORPUS = Corpus("esc50", "ESC-50", "meta/esc50.csv", _read, 5.0)


class Esc50(LabelTask):
    """See the module's docstring."""

    def __init__(self, corpus: Corpus):
        super().__init__(corpus.name, corpus.title)

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; `legacy`: trained on all other folds, and watched on test.

        Raises:
            DataError: recordings of fewer than three folds are there.
        """
        rows = by_fold(table.rows)
        if len(rows) < 3:
            raise DataError(f"{self.title} with folds {', '.join(rows)}", "three folds or more", "unpack it again")
        if not legacy:
            return in_turn(rows)
        return {
            test: {"train": [row for name in rows if name != test for row in rows[name]], "dev": own, "test": own}
            for test, own in rows.items()
        }

    def doubts(self, table: Table) -> list[str]:
        """See `Task`."""
        return [*table.absent(), *super().doubts(table)]

    def more_scores(
        self, table: Table, store: FeatureStore, settings: Settings, learning_rate: float, label: str
    ) -> dict[str, float]:
        """See `Task`: the last evaluation, and the best one on test, means over folds and seeds."""
        settings = dataclasses.replace(settings, learning_rates=(learning_rate,))
        problems = self.problems(table, store, settings, legacy=True)
        grids = engine.run_grids(problems, self.metrics[0], settings, f"{label}, four folds")
        scores = [[point["dev_score"] for point in head["curve"]] for grid in grids for head in grid.heads]
        return {LAST: float(np.mean([s[-1] for s in scores])), BEST: float(np.mean([max(s) for s in scores]))}


class Esc50Tasks(ListedTasks):
    """The suite of this one task."""

    name = own_protocol = "esc50"
    corpora, make = (CORPUS,), Esc50
