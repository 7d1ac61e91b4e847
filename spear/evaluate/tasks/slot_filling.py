"""SF: the transcript with a begin and an end token around each slot value, by a recurrent CTC head (benchmarks A.2).

`target` is a list of [slot type or null, words] in the order of speech, such as [[null, "turn on the"], ["object",
"lights"]]. Slot-type F1 selects; slot-value CER is reported with it.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from spear.evaluate.cache import FeatureStore
from spear.evaluate.ctc import SequenceProblem
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task, unfit
from spear.evaluate.tasks.speech_recognition import recurrent_bank
from spear.evaluate.units import normalise_text


def normalise_slot_text(text: str) -> str:
    """Upper case without punctuation; & is spoken AND."""
    return normalise_text(text.replace("&", " and "))


def spell_slots(target: dict) -> list[str]:
    """The symbols of {text, slots, parts}: characters, spaces, and `B-type`, `E-type` around slot values."""
    symbols: list[str] = []
    for name, words in target["parts"]:
        if symbols:
            symbols.append(" ")
        symbols += [f"B-{name}", *words, f"E-{name}"] if name else list(words)
    return symbols


def read_slots(symbols: Sequence[str]) -> dict:
    """Text and slots of a symbol sequence; a slot that is never closed ends with the sequence."""
    slots, text, name, value = [], [], None, []
    for symbol in symbols:
        token = re.fullmatch(r"([BE])-(.+)", symbol)
        if token is None:
            text.append(symbol)
            if name is not None:
                value.append(symbol)
        else:
            if name is not None:
                slots.append([name, " ".join("".join(value).split())])
            name, value = (token[2], []) if token[1] == "B" else (None, [])
    if name is not None:
        slots.append([name, " ".join("".join(value).split())])
    return {"text": " ".join("".join(text).split()), "slots": slots}


class SlotFilling(Task):
    """See the module's docstring."""

    name, title, metrics = "SF", "Slot filling", ("slot_f1", "slot_cer")
    target_type = list[tuple[str | None, str]]

    def refuse(self, target: Any) -> str | None:
        """There must be some word."""
        reason = unfit(target, self.target_type)
        return reason or (None if any(normalise_slot_text(words) for _, words in target) else "no words with slots")

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; targets become {text, slots, parts} with normalised words."""

        def prepared(target: list) -> dict:
            parts = [[name, normalise_slot_text(words)] for name, words in target]
            parts = [part for part in parts if part[1]]
            slots = [part for part in parts if part[0]]
            return {"text": " ".join(words for _, words in parts), "slots": slots, "parts": parts}

        splits = super().folds(table)[""]
        found = {n: [dataclasses.replace(r, target=prepared(r.target)) for r in rows] for n, rows in splits.items()}
        return {"": found}

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> SequenceProblem:
        """See `Task`."""
        return SequenceProblem(splits, store, settings, spell_slots, read_slots, recurrent_bank, recurrent=True)
