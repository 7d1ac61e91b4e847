"""A task of HEAR on disk, `tasks/{task}-{version}-{mode}/`, as the benchmark distributes it.

`task_metadata.json` says what is asked, `labelvocabulary.csv` (idx, label) which labels there are, `{split}.json` the
labels of each file: a list, or for events {label, start, end} in milliseconds; the audio is `{rate}/{split}/{file}`.
Splits are train, valid and test, or folds. Of several rates the highest is read: it is resampled for every encoder.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from spear import fs, records
from spear.audio.load import probe
from spear.errors import DataError, SpearError
from spear.evaluate.table import Row
from spear.manifest import Item
from spear.names import id_problem

METADATA = "task_metadata.json"
METRICS = {"top1_acc": "top1", "pitch_acc": "top1", "chroma_acc": "chroma", "mAP": "map", "aucroc": "auc"}
METRICS |= {"d_prime": "d_prime", "event_onset_200ms_fms": "event_f1", "segment_1s_er": "segment_er"}
METRICS |= {"event_onset_50ms_fms": "event_f1_50ms", "event_onset_offset_50ms_20perc_fms": "event_f1_50ms_ends"}
"""Ours by the benchmark's names."""

_SPLIT_OF = {"train": "train", "valid": "dev", "test": "test"}
_FIX = "unpack the task's archive again"
_TOLERANCE_SECONDS = 0.02
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]{1,60}\Z")]


@dataclass
class Metadata:
    """What is read of a task's metadata.

    Attributes:
        evaluation: metrics; the first one selects.
        sample_duration: of every recording, in seconds; None where they differ.
        evaluation_params: ways to make events of probabilities, and numbers of epochs, where the task has its own.
        use_scoring_for_early_stopping: false: checkpoints are chosen by the loss.
    """

    task_name: _Name
    embedding_type: Literal["scene", "event"]
    prediction_type: Literal["multiclass", "multilabel"]
    split_mode: Literal["trainvaltest", "new_split_kfold", "presplit_kfold"]
    evaluation: Annotated[list[Literal[tuple(METRICS)]], msgspec.Meta(min_length=1)]
    splits: list[_Name] | None = None
    sample_duration: records.Positive | None = None
    evaluation_params: dict[str, Any] = field(default_factory=dict)
    use_scoring_for_early_stopping: bool = True

    @property
    def is_folded(self) -> bool:
        """Whether every fold is tested once."""
        return self.split_mode != "trainvaltest"


@dataclass
class _Event:
    label: str | int
    start: records.NotNegative
    end: records.NotNegative


@dataclass
class Layout:
    """A task's folder, its metadata, labels in the order of their numbers, and split files."""

    folder: Path
    metadata: Metadata
    labels: list[str]
    splits: list[str]


def read_layout(folder: Path) -> Layout:
    """The metadata and labels of a task.

    Raises:
        DataError: a file is missing or damaged, or there are fewer than three folds.
    """
    metadata = records.read(folder / METADATA, Metadata, _FIX)
    splits = metadata.splits or sorted(path.stem for path in folder.glob("fold*.json") if metadata.is_folded)
    splits = sorted(set(splits or _SPLIT_OF))
    if metadata.is_folded and len(splits) < 3 or not metadata.is_folded and set(splits) != set(_SPLIT_OF):
        raise DataError(
            f"{folder / METADATA}, field splits: {', '.join(splits)}",
            "three folds or more" if metadata.is_folded else "train, valid, test",
            _FIX,
        )
    labels = _labels(folder / "labelvocabulary.csv")
    if "chroma_acc" in metadata.evaluation:  # by pitch, so that numbers twelve apart are octaves
        labels = sorted(labels, key=lambda label: int(label) if _is_number(label) else -1)
        if not _is_number(labels[0]) or labels != [str(int(labels[0]) + n) for n in range(len(labels))]:
            raise DataError(f"labels of {folder} for chroma_acc", "whole numbers of pitches without a gap", _FIX)
    return Layout(folder, metadata, labels, splits)


def _labels(path: Path) -> list[str]:
    rows: list[dict] = []
    try:
        rows += csv.DictReader(line for _, line in fs.iter_lines(path))
        numbered = {int(row["idx"]): str(row["label"]) for row in rows}
        found = [numbered[number] for number in range(len(rows))]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: no idx,label from 0 to {len(rows) - 1}", "a label for each number", _FIX) from error
    if len(found) < 2 or len(set(found)) != len(found):
        raise DataError(f"{path} with {len(set(found))} different labels of {len(found)}", "two or more", _FIX)
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def highest_rate(folder: Path) -> str:
    """The name of the folder of audio at the highest rate; empty where there is none."""
    return max((p.name for p in folder.iterdir() if _is_number(p.name) and p.is_dir()), key=int, default="")


def labels_of(path: Path) -> dict[str, Any]:
    """What a split's file says of each recording.

    Raises:
        DataError: the file is missing, or damaged.
    """
    return records.convert(fs.read_json(path), dict[str, Any], str(path), _FIX)


def read_rows(layout: Layout) -> tuple[list[Row], list[dict]]:
    """Rows of all splits, and {id, split, reason} of what cannot be used. Rows of folds have the split `all`.

    Targets are numbers of labels, or [label, start, end] of events in seconds.

    Raises:
        DataError: a split's file is missing or damaged, or there is no folder of audio.
    """
    folder = layout.folder
    rate = highest_rate(folder)
    if not rate:
        raise DataError(f"no audio in {folder}", "a folder such as 48000", _FIX)
    numbers = {label: number for number, label in enumerate(layout.labels)}
    rows, skipped = [], []
    for split in layout.splits:
        path = folder / f"{split}.json"
        found = labels_of(path)
        place = "all" if layout.metadata.is_folded else _SPLIT_OF[split]
        for name, value in found.items():
            row_id = f"{split}/{name}"
            try:
                target = _target(value, layout.metadata, numbers)
                item = _item(row_id, name, folder / rate / split, layout.metadata.sample_duration)
            except (SpearError, OSError) as error:  # of a file that may not be read
                reason = error.found if isinstance(error, SpearError) else error.strerror or str(error)
                skipped.append({"id": row_id[:300], "split": place, "reason": reason})
                continue
            rows.append(Row(row_id, place, item, target, "", {"fold": split}))
    return rows, skipped


def _target(value: Any, metadata: Metadata, numbers: dict[str, int]) -> list:
    if metadata.embedding_type == "event":
        events = records.convert(value, list[_Event], "its events")
        labels = [str(event.label) for event in events]
        backwards = [event for event in events if event.end < event.start]
        if backwards:
            raise DataError(f"an event that ends at {backwards[0].end:g} ms, before it starts", "start <= end", _FIX)
    else:
        labels = [str(label) for label in records.convert(value, list[str | int], "its labels")]
        if metadata.prediction_type == "multiclass" and len(labels) != 1:
            raise DataError(f"{len(labels)} labels", "one label", _FIX)
    unknown = [label for label in labels if label not in numbers]
    if unknown:
        raise DataError(f"label '{unknown[0][:80]}', which is not in labelvocabulary.csv", "a known label", _FIX)
    if metadata.embedding_type == "event":
        return [[label, event.start / 1000, event.end / 1000] for label, event in zip(labels, events)]
    return sorted({numbers[label] for label in labels})


def _item(row_id: str, name: str, folder: Path, seconds: float | None) -> Item:
    problem = id_problem(name)
    if problem:
        raise DataError(problem, "the name of a file", _FIX)
    path = folder / name
    if not path.is_file():
        raise DataError(f"no file {name}", f"a recording in {folder}", _FIX)
    found = probe(path).duration_seconds
    if seconds is not None and abs(found - seconds) > _TOLERANCE_SECONDS:
        raise DataError(f"{found:.2f} s instead of {seconds:g} s", "a whole recording", _FIX)
    return Item(row_id, path, 0.0, found, round(16000 * found), "audio", "event")
