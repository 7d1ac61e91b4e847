"""KS: one of twelve words; class-balanced training; accuracy. `target` is the label.

The published protocol also draws its dev set class-balanced with replacement (once: its seed is the same at every
evaluation), and chooses checkpoint and learning rate on it; that selection is the near-legacy number.
"""

import numpy as np

from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import LabelProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task
from spear.evaluate.tasks.labels import with_lists
from spear.seeds import numpy_rng


class KeywordSpotting(Task):
    """See the module's docstring."""

    name, title, metrics = "KS", "Keyword spotting", ("accuracy",)
    needs_frames, legacy, legacy_rule = False, "dev", "dev drawn with replacement"
    legacy_differences = (
        "silence comes from fixed crops of each noise file, not from new ones at every load",
        "dev is another draw of the same kind",
    )

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; for the near-legacy number as many dev rows, each class equally often, with repetitions."""
        (splits,) = super().folds(table).values()
        if legacy and splits["dev"]:
            rows = splits["dev"]
            _, numbers = np.unique([str(row.target) for row in rows], return_inverse=True)
            weights = 1.0 / np.bincount(numbers)[numbers]
            drawn = numpy_rng(0, "ks-legacy-dev").choice(len(rows), size=len(rows), p=weights / weights.sum())
            splits["dev"] = [rows[place] for place in drawn]
        return {"": splits}

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> LabelProblem:
        """See `Task`."""
        return LabelProblem(with_lists(splits), store, settings, balanced=True)
