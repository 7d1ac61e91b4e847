"""SF: the transcript with a begin and an end token around each slot value, by a recurrent CTC head.

`target` is a list of [slot type or null, words] in the order of speech, such as [[null, "turn on the"], ["object",
"lights"]]. Slot-type F1 selects; slot-value CER is reported with it, and both once more with malformed tags mended.
Every target ends with an end symbol, which no hypothesis keeps.
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


_SLOT = re.compile(r"B-(\S+) (.+?) E-\1")
_BEGIN, _END = re.compile(r"B-\S+ "), re.compile(r" E-\S+")


def read_slots(symbols: Sequence[str]) -> dict:
    """Text and slots of a symbol sequence.

    `slots` follows the published scorer, which searches the hypothesis as a line of text: a begin token, at least one
    character, and the nearest end token of its own type. What is never closed, is empty, or closes another type is no
    slot; tokens inside a value are cut out of it. `lenient_slots`, for information: every begin token opens a slot,
    which ends with the next token of any kind, or with the sequence.
    """
    spaced = (f"{s} " if s.startswith("B-") else f" {s}" if s.startswith("E-") else s for s in symbols)
    line = re.sub(" +", " ", "".join(spaced))
    slots = [[name, _END.sub("", _BEGIN.sub("", value))] for name, value in _SLOT.findall(line)]
    text = " ".join("".join(s for s in symbols if s[:2] not in ("B-", "E-")).split())
    return {"text": text, "slots": slots, "lenient_slots": _lenient(symbols)}


def _lenient(symbols: Sequence[str]) -> list[list[str]]:
    slots: list[list[str]] = []
    inside = False
    for symbol in symbols:
        if symbol.startswith("B-"):
            slots.append([symbol[2:], ""])
        elif inside and not symbol.startswith("E-"):
            slots[-1][1] += symbol
            continue
        inside = symbol.startswith("B-")
    return [[name, " ".join(value.split())] for name, value in slots]


class SlotFilling(Task):
    """See the module's docstring."""

    name, title, metrics = "SF", "Slot filling", ("slot_f1", "slot_cer", "lenient_slot_f1", "lenient_slot_cer")
    target_type = list[tuple[str | None, str]]

    def refuse(self, target: Any) -> str | None:
        """There must be some word."""
        reason = unfit(target, self.target_type)
        return reason or (None if any(normalise_slot_text(words) for _, words in target) else "no words with slots")

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; targets become {text, slots, parts} with normalised words."""

        def prepared(target: list) -> dict:
            # The published scorer ends the type of a slot at a space.
            parts = [["_".join((name or "").split()), normalise_slot_text(words)] for name, words in target]
            parts = [part for part in parts if part[1]]
            slots = [part for part in parts if part[0]]
            return {"text": " ".join(words for _, words in parts), "slots": slots, "parts": parts}

        splits = super().folds(table)[""]
        found = {n: [dataclasses.replace(r, target=prepared(r.target)) for r in rows] for n, rows in splits.items()}
        return {"": found}

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> SequenceProblem:
        """See `Task`."""
        return SequenceProblem(
            splits, store, settings, spell_slots, read_slots, recurrent_bank, end="</s>", recurrent=True
        )
