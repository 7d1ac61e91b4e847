"""Tasks without rules of their own, for labels and sequences of any corpus: what a recipe's `tasks.yaml` states."""

from collections.abc import Sequence
from typing import Any

from spear.evaluate.cache import FeatureStore
from spear.evaluate.ctc import SequenceProblem
from spear.evaluate.problems import LabelProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task, unfit
from spear.evaluate.tasks.labels import with_lists
from spear.evaluate.tasks.phoneme_recognition import linear_bank
from spear.evaluate.units import characters, sentencepiece_units


class LabelTask(Task):
    """A linear head on time means; accuracy. `target` is a label, or {slot: label}, of which all must be right."""

    metrics, needs_frames, settings_key = ("accuracy",), False, "labels"
    target_type = str | int | float | dict[str, str | int | float]

    def __init__(self, name: str, title: str):
        self.name, self.title = name, title

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> LabelProblem:
        """See `Task`."""
        return LabelProblem(with_lists(splits), store, settings)


class SequenceTask(Task):
    """A linear CTC head on frames, greedy decoding. `target` is a list of phones, or a text.

    Args:
        metric: selects on dev; a word error rate has the character error rate beside it.
        of_phones: whether targets are lists; texts are spelled in `Settings.text_units`.
    """

    settings_key = "sequence"

    def __init__(self, name: str, title: str, metric: str, of_phones: bool):
        self.name, self.title, self.of_phones = name, title, of_phones
        self.metrics = (metric, "cer") if metric == "wer" else (metric,)
        self.target_type = list[str] if of_phones else str

    @property
    def identity(self) -> list[Any]:
        """See `Task`."""
        return [*super().identity, self.metrics, self.of_phones]

    def refuse(self, target: Any) -> str | None:
        """See `Task`."""
        return unfit(target, self.target_type) if target else "no target"

    def judged(self, target: str | Sequence[str]) -> tuple[tuple[str, ...], str]:
        """See `Task`."""
        return (tuple(target), "") if self.of_phones else (tuple(target.replace(" ", "")), target)

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> SequenceProblem:
        """See `Task`."""
        spell, read = list, list
        if not self.of_phones:
            name, _, size = settings.text_units.partition(":")
            texts = [row.target for row in splits["train"]]
            spell, read = sentencepiece_units(texts, int(size)) if name == "sentencepiece" else characters()
        return SequenceProblem(splits, store, settings, spell, read, linear_bank)
