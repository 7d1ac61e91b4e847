"""ASR: characters by a recurrent CTC head, greedy; word error rate. `target` is the text.

Texts are upper-cased and stripped of punctuation; the space is the word boundary `|`, which also follows the last word;
every target ends with an end symbol, which no hypothesis keeps.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from spear.evaluate.banks import ModuleBank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.ctc import SequenceProblem
from spear.evaluate.modules import RecurrentHead
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task
from spear.evaluate.units import normalise_text


def recurrent_bank(num_layers: int, dim: int, num_outputs: int, settings: Settings, join: int) -> ModuleBank:
    """Linear, BiLSTM layers, Linear; SpecAugment where the settings have it."""

    def make_head() -> RecurrentHead:
        return RecurrentHead(
            dim,
            settings.hidden_dim,
            settings.rnn_dim,
            settings.rnn_layers,
            num_outputs,
            join=join,
            dropout=settings.dropout,
            augment=settings.spec_augment,
        )

    return ModuleBank(num_layers, make_head, settings)


def spell_text(text: str) -> list[str]:
    """Characters, with `|` after every word."""
    return [character for word in text.split() for character in [*word, "|"]]


def read_text(symbols: Sequence[str]) -> str:
    """The inverse of `spell_text`."""
    return " ".join("".join(symbols).replace("|", " ").split())


class SpeechRecognition(Task):
    """See the module's docstring."""

    name, title, metrics = "ASR", "Speech recognition", ("wer", "cer")

    def refuse(self, target: Any) -> str | None:
        """A text without any letter cannot be learnt; an empty reference in dev and test has a defined score."""
        return None if isinstance(target, str) else "no text"

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; texts are normalised, and training rows without a word are left out and listed."""
        splits = super().folds(table)[""]
        normal = {
            name: [dataclasses.replace(row, target=normalise_text(row.target)) for row in rows]
            for name, rows in splits.items()
        }
        known = {row["id"] for row in table.skipped}
        for row in normal["train"]:
            if not row.target and row.id not in known:
                table.skipped.append({"id": row.id, "split": "train", "reason": "empty text"})
        return {"": normal | {"train": [row for row in normal["train"] if row.target]}}

    def judged(self, target: str) -> tuple[tuple[str, ...], str]:
        """See `Task`."""
        return tuple(target.replace(" ", "")), target

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> SequenceProblem:
        """See `Task`."""
        return SequenceProblem(
            splits, store, settings, spell_text, read_text, recurrent_bank, end="</s>", recurrent=True
        )
