"""What the corpora share: writing the manifests of tasks, trials, splits by hash, and looking for files."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from spear import fs, records
from spear.audio.load import probe
from spear.errors import DataError, SpearError
from spear.evaluate.table import manifest_path
from spear.log import get_logger
from spear.names import id_problem
from spear.records import Positive
from spear.seeds import numpy_rng

logger = get_logger(__name__)
Rows = list[dict]


def write_task(data_dir: str | Path, task: str, rows: Iterable[dict]) -> dict[str, int]:
    """Writes the rows of a task, sorted by id; returns the number of rows of each split."""
    ordered = sorted(rows, key=lambda row: row["id"])
    fs.write_jsonl(manifest_path(data_dir, task), ordered)
    return dict(sorted(Counter(row["split"] for row in ordered).items()))


def write_trials(data_dir: str | Path, trials: Sequence[dict]) -> dict[str, int]:
    """Writes the trials of ASV."""
    fs.write_jsonl(manifest_path(data_dir, "ASV_trials"), trials)
    return {f"{name} trials": count for name, count in sorted(Counter(trial["split"] for trial in trials).items())}


def random_trials(speakers: dict[str, str], split: str, count: int, seed: int = 0) -> list[dict]:
    """Trials among recordings: `count` of one speaker and `count` of two, without repetition; fewer when there are not.

    Args:
        speakers: id -> speaker.
    """
    ids = sorted(speakers)
    first, second = np.triu_indices(len(ids), 1)
    names = np.asarray([speakers[one] for one in ids])
    same = names[first] == names[second]
    rng, trials = numpy_rng(seed, "trials", split), []
    for kind in (True, False):
        places = np.flatnonzero(same == kind)
        for place in sorted(rng.permutation(places)[:count]):
            pair = {"first": ids[first[place]], "second": ids[second[place]]}
            trials.append({"split": split, **pair, "same": kind})
    return trials


class Labels(dict):
    """The labels of an entry of `read_entries`; one that is asked for and absent is told with file and line."""

    def __init__(self, values: dict[str, str], where: str):
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str):
        raise DataError(f"{self.where}, field label: no {key}", f"{key}=...", "correct that line, or leave it out")


@dataclass
class _Entry:
    """A line of manifest.tsv."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    path: Annotated[str, msgspec.Meta(min_length=1)]
    duration: Positive
    label: str
    speaker: str
    text: str


def read_entries(raw: Path, what: str, fix: str, columns: Sequence[str] = ()) -> list[dict]:
    """The lines of `manifest.tsv` in a folder, with `duration` in seconds, an absolute `path`, and `labels` by name.

    A line that cannot be used is left out, and a warning names the first.

    Args:
        what: the corpus, for messages.
        fix: how to get it.
        columns: that it has beside id, path, duration, label, speaker and text.

    Raises:
        DataError: there is no such file, it lacks a column, or it has no usable line.
    """
    path = raw / "manifest.tsv"
    if not path.exists():
        raise DataError(f"no file {path}", f"{what} with manifest.tsv", fix)
    lines = fs.iter_lines(path)
    header = next(lines, (1, ""))[1].split("\t")
    absent = sorted({"id", "path", "duration", "label", "speaker", "text", *columns} - set(header))
    if absent:
        raise DataError(f"{path} without the columns {', '.join(absent)}", f"the table of {what}", fix)
    entries, refused = [], []
    for number, line in lines:
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        entry = dict.fromkeys(header, "") | dict(zip(header, line.split("\t")))
        try:
            entry["duration"] = float(entry["duration"])
            entry["duration"] = _exact_seconds(raw / entry["path"], entry["duration"])
            records.convert(entry, _Entry, where)
        except ValueError:
            refused.append(f"{where}, field duration: '{entry['duration']}' is no number")
            continue
        except DataError as error:
            refused.append(f"{error.found}: {error.expected}")
            continue
        pairs = (pair.partition("=") for pair in entry["label"].split(";"))
        entry["labels"] = Labels({key: value for key, equals, value in pairs if equals}, where)
        entry["path"] = str((raw / entry["path"]).absolute())
        entries.append(entry)
    if refused:
        logger.warning("%d lines of %s are left out, such as %s", len(refused), path, refused[0])
    if not entries:
        raise DataError(f"no usable line in {path}", "lines with id, path, duration, label, speaker and text", fix)
    return entries


def _exact_seconds(path: Path, stated: float) -> float:
    """The length of a recording to the sample, so that it is the same item here as in the manifests of a recipe."""
    try:
        return probe(path).duration_seconds
    except SpearError:
        return stated  # the run that asks for it says why it cannot be read


def share(name: str, salt: str) -> float:
    """A number in [0, 1) that depends on the texts alone: splits by it are the same in every lab."""
    return int(fs.sha256_bytes(f"{salt}\x1f{name}".encode())[:12], 16) / 16**12


def is_usable_name(name: str, where: str, separators: str = "\\") -> bool:
    """Whether what a corpus' list names is an id, and lies below the folder; else a warning names it.

    Args:
        where: of the name, for the warning.
        separators: that it must not hold; "/\\" where it is one part of a path.
    """
    problem = id_problem(name, separators) or ("an absolute path" if name.startswith("/") else "")
    if problem:
        logger.warning("%s: left out %a: %s", where, name[:200], problem)
    return not problem


def check_layout(root: str | Path, wanted: Sequence[str], corpus: str, how: str) -> Path:
    """The corpus folder when all the named parts are there.

    Raises:
        DataError: lists what is missing and says how to get it.
    """
    root = Path(root)
    missing = [name for name in wanted if not (root / name).exists()]
    if missing:
        raise DataError(
            f"{corpus} in {root} lacks {', '.join(missing[:6])}" + (" and more" if len(missing) > 6 else ""),
            f"the parts {', '.join(wanted)}",
            how,
        )
    return root


def with_durations(rows: Rows, root: Path, task: str) -> Rows:
    """The rows with `duration` and an absolute `path`.

    A recording that cannot be opened keeps its row, without a duration, so that every run file lists it as skipped; a
    warning names the first. A row that already has a duration is not looked at.
    """
    done, lost = [], []
    for row in rows:
        path = root / row["path"]
        try:
            duration = row.get("duration") or round(probe(path).duration_seconds, 4)
        except SpearError as error:
            lost.append(f"{row['id']} ({error.found})")
            duration = 0.0
        done.append({**row, "path": str(path), "duration": duration})
    if lost:
        logger.warning("%s: %d of %d recordings cannot be read, such as %s", task, len(lost), len(rows), lost[0])
    return done
