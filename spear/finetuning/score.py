"""The score of a fine-tuned run on held-out recordings, with the number of items and an interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import spear
from spear import fs
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate.corpora import writing
from spear.evaluate.metrics import interval_of_folds, score_folds
from spear.finetuning.tasks import Task
from spear.manifest.item import Item, to_item
from spear.manifest.recordings import Piece, Recording, by_recording, cut_into_pieces
from spear.train.finetuned import FineTuned

MOST_TRIALS = 5000
"""Of each kind (one speaker, two speakers), where no list of trials is given."""


@dataclass
class Scored:
    """What came out.

    Attributes:
        metric: its name.
        value: in its own unit, 0..1; None where nothing could be counted.
        interval: of 95 %, by resampling items (of verification: trials).
        num_items: recordings, or trials.
        what: of which the number is.
        refused: {id, reason} of what could not be scored.
        predictions: a row for each recording.
    """

    metric: str
    value: float | None
    interval: tuple[float, float] | None
    num_items: int
    what: str
    refused: list[dict]
    predictions: list[dict]

    def summary(self) -> dict[str, Any]:
        """What files of scores hold of it."""
        values = {"metric": self.metric, "value": self.value, "interval_95": self.interval, "items": self.num_items}
        return values | {"of": self.what, "not_scored": self.refused, "spear_version": spear.__version__}

    def text(self) -> str:
        """One line."""
        if self.value is None:
            return f"{self.metric}: nothing to count in {self.num_items} {self.what}"
        low, high = (f"{100 * bound:.1f}" for bound in self.interval)
        return f"{self.metric} {100 * self.value:.1f} % [{low}, {high}] on {self.num_items} {self.what}"


def score(
    model: FineTuned,
    task: Task,
    cuts: Path,
    target: str,
    separator: str = ";",
    trials: Path | None = None,
    batch_seconds: float = 80.0,
) -> Scored:
    """Runs the model over held-out cuts and compares.

    Args:
        model: the run.
        task: what it was trained for.
        cuts: as `spear.finetuning.tables` writes them; the windows of one recording are judged together.
        target: key of the labels.
        separator: between the tags of one recording.
        trials: lines `1 ID ID` (one speaker) and `0 ID ID`; without, pairs are drawn.
        batch_seconds: of a batch.

    Raises:
        DataError: no recording that can be scored.
        ConfigError, DataError: see `read_trials`; before the model runs.
    """
    refused: list[dict] = []
    listed = read_trials(trials) if trials else None
    items, rows = _read(cuts, refused, "" if task.is_text or task.open_set else target)
    answers = answer(model, model.stream(task.name), items, refused, batch_seconds)
    by_row: dict[str, list[int]] = {}
    for number in answers:
        by_row.setdefault(rows[number], []).append(number)
    if not by_row:
        raise DataError(f"no recording of {cuts} that can be scored", "held-out recordings", "see the reasons given")
    found = [(row, items[numbers[0]], [answers[number] for number in numbers]) for row, numbers in by_row.items()]
    if task.is_text:
        return _of_texts(model, task, found, refused)
    if task.open_set:
        return _of_pairs(found, refused, listed)
    return (_of_tags if task.several else _of_classes)(task, found, refused, target, separator)


def answer(
    model: FineTuned, stream: str, items: Sequence[Item], refused: list[dict], batch_seconds: float = 80.0
) -> dict[int, Any]:
    """What the stream's head says of items by their numbers, each heard in one piece; bad ones go to `refused`."""
    recordings = [
        Recording(item.path, item.duration_seconds, item.start_seconds, item.speed, item.channel, item.gain)
        for item in items
    ]
    longest = max((recording.duration_seconds for recording in recordings), default=1.0)
    pieces = cut_into_pieces(recordings, 2 * longest + 4.0)

    def refuse(number: int, reason: str) -> None:
        refused.append({"id": items[number].id, "reason": reason})

    def hear(batch: Sequence[Piece], waves_BS: Tensor, lengths_B: Tensor) -> list[Any]:
        return model.decode(stream, model.encode(waves_BS, lengths_B))

    said = by_recording(recordings, pieces, hear, refuse, "scoring", batch_seconds)
    return {number: only for number, [(_, only)] in said.items()}


def _read(cuts: Path, refused: list[dict], label: str) -> tuple[list[Item], list[str]]:
    """Cuts, and the row of the table that each is of; bad ones, and those without the label, are refused."""
    items, rows = [], []
    for cut in fs.iter_jsonl(cuts):
        try:
            item = to_item(cut, cuts.absolute().parent.parent)
            if label and not item.labels.get(label, "").strip():
                raise DataError(f"no {label}", "a label in every cut", "correct that line")
        except SpearError as error:
            refused.append({"id": str(cut.get("id"))[:200], "reason": error.found})
            continue
        items.append(item)
        custom = cut.get("custom")
        rows.append(str((custom.get("row") if isinstance(custom, dict) else None) or item.id))
    return items, rows


def _of_rows(metric: str, rows: list[dict], what: str, refused: list[dict], predictions: list[dict]) -> Scored:
    value = score_folds(metric, rows)
    known = np.isfinite(value)
    interval = interval_of_folds(metric, rows) if known else None
    if known and not np.isfinite(interval[0]):  # of a single item there is nothing to resample
        interval = (value, value)
    return Scored(metric, value if known else None, interval, len(rows), what, refused, predictions)


def _of_texts(model: FineTuned, task: Task, found: list, refused: list[dict]) -> Scored:
    normalise = model.vocabularies[model.stream(task.name)].normalise
    rows, predictions = [], []
    for row_id, item, said in found:
        reference, hypothesis = normalise(item.text or ""), getattr(said[0], "text", said[0])
        rows.append({"reference": reference, "hypotheses": [hypothesis]})
        row = {"id": row_id, "reference": reference, "hypothesis": hypothesis}
        predictions.append({**row, "speaker": item.speaker or ""})
    return _of_rows(task.metric, rows, "recordings", refused, predictions)


def mean_of(said: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over windows of probabilities by name, the most likely first."""
    means = {name: float(np.mean([window[name] for window in said])) for name in said[0]}
    return dict(sorted(means.items(), key=lambda entry: -entry[1]))


def _of_classes(task: Task, found: list, refused: list[dict], target: str, separator: str) -> Scored:
    rows, predictions = [], []
    for row_id, item, said in found:
        probabilities = mean_of(said)
        reference, hypothesis = item.labels[target].strip(), next(iter(probabilities))
        rows.append({"reference": [reference], "hypotheses": [[hypothesis]]})
        row = {"id": row_id, "reference": reference, "hypothesis": hypothesis}
        predictions.append({**row, "probability": round(probabilities[hypothesis], 6)})
    return _of_rows(task.metric, rows, "recordings", refused, predictions)


def _of_tags(task: Task, found: list, refused: list[dict], target: str, separator: str) -> Scored:
    names = sorted(found[0][2][0])
    rows, predictions = [], []
    for row_id, item, said in found:
        probabilities, own = mean_of(said), {name.strip() for name in item.labels[target].split(separator)}
        there = [place for place, name in enumerate(names) if name in own]
        rows.append({"reference": there, "hypotheses": [[probabilities[name] for name in names]]})
        predictions.append({"id": row_id, "reference": sorted(own), "probabilities": probabilities})
    return _of_rows(task.metric, rows, "recordings", refused, predictions)


def _of_pairs(found: list, refused: list[dict], trials: list[tuple[str, str, bool]] | None) -> Scored:
    vectors, speakers = {}, {}
    for row_id, item, said in found:
        mean_D = torch.stack(list(said)).mean(0).double()
        vectors[row_id], speakers[row_id] = (mean_D / mean_D.norm().clamp(min=1e-12)).numpy(), item.speaker or ""
    pairs = _drawn(speakers) if trials is None else _among(trials, vectors, refused)
    rows = [
        {"reference": same, "hypotheses": [float(vectors[first] @ vectors[second])]} for first, second, same in pairs
    ]
    predictions = [
        {"first": first, "second": second, "same": same, "cosine": round(row["hypotheses"][0], 6)}
        for (first, second, same), row in zip(pairs, rows)
    ]
    what = f"trials of {len(vectors)} recordings of {len(set(speakers.values()))} speakers"
    return _of_rows("eer", rows, what, refused, predictions)


def read_trials(path: Path) -> list[tuple[str, str, bool]]:
    """(first, second, whether they are of one speaker) of a list of trials.

    Raises:
        ConfigError: no such file; a pipe is none, since the same call again would find it empty.
        DataError: a line that is no trial.
    """
    if not path.is_file():
        raise ConfigError(f"no {path}, or no file", "lines 1 ID ID and 0 ID ID", "correct --trials")
    trials = []
    for number, line in fs.iter_lines(path):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise DataError(f"line {number} of {path}: {line[:60]!r}", "1 ID ID or 0 ID ID", "correct that line")
        trials.append((words[1], words[2], words[0] == "1"))
    return trials


def _among(trials: Sequence[tuple[str, str, bool]], vectors: dict, refused: list[dict]) -> list[tuple[str, str, bool]]:
    """The trials of recordings that have vectors; the others are refused."""
    pairs = []
    for first, second, same in trials:
        if absent := [name for name in (first, second) if name not in vectors]:
            refused.append({"id": f"{first} {second}", "reason": f"trial without {absent[0]}"})
        else:
            pairs.append((first, second, same))
    return pairs


def _drawn(speakers: dict[str, str]) -> list[tuple[str, str, bool]]:
    """All pairs, or so many of each kind, drawn with a fixed seed."""
    found = writing.random_trials(speakers, "test", MOST_TRIALS)
    return [(trial["first"], trial["second"], trial["same"]) for trial in found]
