"""KS: one of twelve words; class-balanced training; accuracy. `target` is the label.

The published protocol also draws its dev set class-balanced with replacement, anew at every evaluation; that selection
is the legacy number.
"""

import numpy as np

from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import MeanProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task
from spear.evaluate.tasks.labels import with_lists
from spear.seeds import numpy_rng


class KeywordSpotting(Task):
    """See the module's docstring."""

    name, title, metrics = "KS", "Keyword spotting", ("accuracy",)
    needs_frames, legacy = False, "dev"

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> MeanProblem:
        """See `Task`."""
        return MeanProblem(with_lists(splits), store, settings, balanced=True)

    def legacy_dev(self, rows: list[dict]) -> list[dict]:
        """As many rows, drawn with replacement, each class equally often."""
        labels, numbers = np.unique([row["reference"][0] for row in rows], return_inverse=True)
        weights = 1.0 / np.bincount(numbers)[numbers]
        drawn = numpy_rng(0, "ks-legacy-dev").choice(len(rows), size=len(rows), p=weights / weights.sum())
        return [rows[place] for place in drawn]
