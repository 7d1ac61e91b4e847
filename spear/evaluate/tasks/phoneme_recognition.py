"""PR: phones by a linear CTC head; phone error rate. `target` is the list of phones, or a text with spaces between."""

import dataclasses
from typing import Any

from spear.evaluate.banks import LinearBank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.ctc import SequenceProblem
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task


def linear_bank(num_layers: int, dim: int, num_outputs: int, settings: Settings, join: int) -> LinearBank:
    """Linear heads on frames, which are never joined."""
    return LinearBank(num_layers, dim, num_outputs, settings)


class PhonemeRecognition(Task):
    """See the module's docstring."""

    name, title, metrics = "PR", "Phoneme recognition", ("per",)
    target_type = str | list[str]

    def refuse(self, target: Any) -> str | None:
        """There must be some phone."""
        return super().refuse(target) or (None if " ".join(target).strip() else "no target")

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; targets become lists."""

        def phones(target: str | list[str]) -> list[str]:
            return target.split() if isinstance(target, str) else target

        splits = super().folds(table)[""]
        return {"": {n: [dataclasses.replace(r, target=phones(r.target)) for r in rows] for n, rows in splits.items()}}

    def judged(self, target: list[str]) -> tuple[tuple[str, ...], str]:
        """See `Task`."""
        return tuple(target), ""

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> SequenceProblem:
        """See `Task`."""
        return SequenceProblem(splits, store, settings, list, list, linear_bank, end="</s>")
