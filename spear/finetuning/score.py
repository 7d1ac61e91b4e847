"""The score of a fine-tuned run on held-out recordings, with the number of items and an interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spear import fs, log
from spear.errors import DataError, SpearError
from spear.evaluate.average_precision import macro_average_precision
from spear.evaluate.metrics import interval_of_folds, score_folds
from spear.finetuning.tasks import Task
from spear.manifest.item import Item, to_item
from spear.manifest.recordings import Recording, batches_of, cut_into_pieces, read_batches
from spear.seeds import numpy_rng
from spear.train.finetuned import FineTuned

MOST_TRIALS = 5000
"""Of each kind (one speaker, two speakers), where no list of trials is given."""
_ROUNDS = 300


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
    """
    refused: list[dict] = []
    items, rows = _read(cuts, refused, "" if task.is_text or task.open_set else target)
    answers = dict(answer(model, model.stream(task.name), items, refused, batch_seconds))
    by_row: dict[str, list[int]] = {}
    for number in sorted(answers):
        by_row.setdefault(rows[number], []).append(number)
    if not by_row:
        raise DataError(f"no recording of {cuts} that can be scored", "held-out recordings", "see the reasons given")
    found = [(row, items[numbers[0]], [answers[number] for number in numbers]) for row, numbers in by_row.items()]
    if task.is_text:
        return _of_texts(model, task, found, refused)
    if task.open_set:
        return _of_pairs(found, refused, trials)
    return (_of_tags if task.several else _of_classes)(task, found, refused, target, separator)


def answer(
    model: FineTuned, stream: str, items: Sequence[Item], refused: list[dict], batch_seconds: float = 80.0
) -> Iterator[tuple[int, Any]]:
    """(number, what the stream's head says) of items, each heard in one piece; bad ones are appended to `refused`."""
    recordings = [
        Recording(item.path, item.duration_seconds, item.start_seconds, item.speed, item.channel, item.gain)
        for item in items
    ]
    longest = max((recording.duration_seconds for recording in recordings), default=1.0)
    pieces = cut_into_pieces(recordings, 2 * longest + 4.0)

    def refuse(number: int, reason: str) -> None:
        refused.append({"id": items[number].id, "reason": reason})

    progress = log.Progress(len(pieces), "scoring", "cuts")
    for batch, waves_BS, lengths_B in read_batches(recordings, batches_of(pieces, batch_seconds), refuse):
        for piece, said in zip(batch, model.decode(stream, model.encode(waves_BS, lengths_B))):
            yield piece.recording, said
        progress.update(len(batch))


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
    scores_NC, present_NC = np.zeros((len(found), len(names))), np.zeros((len(found), len(names)))
    predictions = []
    for number, (row_id, item, said) in enumerate(found):
        probabilities, own = mean_of(said), {name.strip() for name in item.labels[target].split(separator)}
        scores_NC[number] = [probabilities[name] for name in names]
        present_NC[number] = [name in own for name in names]
        predictions.append({"id": row_id, "reference": sorted(own), "probabilities": probabilities})
    value = macro_average_precision(scores_NC, present_NC)
    draws = numpy_rng(0, "bootstrap", len(found)).integers(len(found), size=(_ROUNDS, len(found)))
    means = [macro_average_precision(scores_NC[rows], present_NC[rows]) for rows in draws]
    means = [mean for mean in means if mean is not None]
    interval = tuple(np.quantile(means, [0.025, 0.975]).tolist()) if means else None
    return Scored(task.metric, value, interval, len(found), "recordings", refused, predictions)


def _of_pairs(found: list, refused: list[dict], trials: Path | None) -> Scored:
    vectors, speakers = {}, {}
    for row_id, item, said in found:
        mean_D = torch.stack(list(said)).mean(0).double()
        vectors[row_id], speakers[row_id] = (mean_D / mean_D.norm().clamp(min=1e-12)).numpy(), item.speaker or ""
    pairs = _listed(trials, vectors, refused) if trials else _drawn(speakers)
    rows = [
        {"reference": same, "hypotheses": [float(vectors[first] @ vectors[second])]} for first, second, same in pairs
    ]
    predictions = [
        {"first": first, "second": second, "same": same, "cosine": round(row["hypotheses"][0], 6)}
        for (first, second, same), row in zip(pairs, rows)
    ]
    what = f"trials of {len(vectors)} recordings of {len(set(speakers.values()))} speakers"
    return _of_rows("eer", rows, what, refused, predictions)


def _drawn(speakers: dict[str, str]) -> list[tuple[str, str, bool]]:
    """All pairs, or so many of each kind, drawn with a fixed seed."""
    names = list(speakers)
    known = {speaker: number for number, speaker in enumerate(sorted(set(speakers.values())))}
    numbers_N = np.array([known[speakers[name]] for name in names])
    pairs = []
    for place, number in enumerate(numbers_N):
        others = np.arange(place + 1, len(names))
        pairs.append(np.stack([np.full(len(others), place), others, numbers_N[others] == number]))
    table = np.concatenate(pairs, axis=1)
    chosen = []
    for same in (1, 0):
        columns = np.flatnonzero(table[2] == same)
        rng = numpy_rng(0, "trials", same)
        chosen.append(np.sort(rng.permutation(columns)[:MOST_TRIALS]))
    return [(names[a], names[b], bool(same)) for a, b, same in table[:, np.concatenate(chosen)].T.tolist()]


def _listed(path: Path, vectors: dict, refused: list[dict]) -> list[tuple[str, str, bool]]:
    pairs = []
    for number, line in fs.iter_lines(path):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise DataError(f"line {number} of {path}: {line[:60]!r}", "1 ID ID or 0 ID ID", "correct that line")
        if absent := [name for name in words[1:] if name not in vectors]:
            refused.append({"id": " ".join(words[1:]), "reason": f"trial without {absent[0]}"})
        else:
            pairs.append((words[1], words[2], words[0] == "1"))
    return pairs
