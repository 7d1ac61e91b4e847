"""The labels of others as manifests to train on: read, every recording decoded once, divided by groups, written.

Tables are CSV, TSV or JSONL with paths relative to them, or a folder with one folder for each class; or cuts of
lhotse (JSONL), whose recordings are found as `spear.manifest.iter_items` finds them. What cannot be used is listed
with the reason, and the rest goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spear import fs, log
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate.task import fold_places
from spear.executor import run_units
from spear.finetuning.tasks import TASKS, Task
from spear.manifest.examine import examine_unit
from spear.manifest.item import to_item
from spear.manifest.labelled import group_in, labelled_records, named, no_usable_row, path_of, text_of
from spear.manifest.scan import READABLE, Entry, Scan, files_below
from spear.manifest.words import split_of

SPLITS = ("train", "dev", "test")
_FILES_PER_UNIT = 128
_LEAST_SPEAKERS = 8  # to train a verifier on, before some of them are kept for validation
logger = log.get_logger(__name__)


@dataclass
class TableSettings:
    """What is read from tables, and how it is divided.

    Attributes:
        manifests: tables, cuts of lhotse, or one folder of classes.
        task: one of `spear.finetuning.tasks.TASKS`.
        target: the column of transcripts, labels or speakers; of cuts: text, speaker, or a key of their labels.
        separator: between the tags of one recording.
        split: the column that says train, dev or test; of cuts also a key of their `task_splits`.
        group: a column (of cuts: speaker, or a key of labels) of what is never divided.
        kind: of the recordings: speech, event or music.
        max_seconds: longer recordings are cut into windows, or left out where they have a transcript.
        test_fraction, dev_fraction: of the groups, where no column says it.
        num_jobs: processes that decode; 0: one for each core.
    """

    manifests: list[Path]
    task: str
    target: str
    separator: str = ";"
    split: str = "split"
    group: str = ""
    kind: str = "speech"
    max_seconds: float = 30.0
    test_fraction: float = 0.2
    dev_fraction: float = 0.1
    num_jobs: int = 0


@dataclass
class Row:
    """A usable recording: its label, its group, the split that it names itself, and its cuts."""

    id: str
    target: str
    group: str
    split: str
    cuts: list[dict] = field(default_factory=list)


@dataclass
class _Candidate:
    """A row of a table whose recording has not been decoded yet."""

    row: Row
    entry: Entry
    path: Path


def prepare(settings: TableSettings, data_dir: Path) -> dict:
    """Writes `data_dir`/manifests/{train,dev,test}.jsonl and left_out.jsonl, or finds them there.

    Returns:
        counts of recordings and hours by split, and of what is left out.

    Raises:
        ConfigError: settings that cannot work, or a directory that was prepared with others.
        DataError: nothing to train on or to test with.
    """
    if not settings.separator:
        raise ConfigError("an empty separator of tags", "a character such as ;", "correct --separator")
    wanted = {
        **{name: value for name, value in vars(settings).items() if name not in ("num_jobs", "manifests")},
        "manifests": [[str(path.resolve()), _state_of(path)] for path in settings.manifests],
    }
    done = data_dir / "prepared.json"
    if done.exists():
        found = fs.read_json(done)
        if found.get("settings") != wanted:
            raise ConfigError(
                f"{data_dir}, which was prepared from other tables or with other settings",
                "one directory for one fine-tuning",
                "choose another --exp-dir, or delete this one",
            )
        return found["counts"]
    rows, refused = read_rows(settings, data_dir)
    divide(rows, settings)
    rows = _with_known_labels(rows, settings, refused)
    counts = _counts(rows, refused)
    for split in ("train", "test"):
        if not counts[split]["recordings"]:
            raise DataError(
                f"no recording for {split} among {len(rows)}",
                "recordings of several groups, or a column of splits with train and test",
                "give more recordings, a finer --group, or correct the column of splits",
            )
    for split in SPLITS:
        cuts = [_of_row(cut, row) for row in rows if row.split == split for cut in row.cuts]
        fs.write_jsonl(data_dir / "manifests" / f"{split}.jsonl", cuts)
    fs.write_jsonl(data_dir / "manifests" / "left_out.jsonl", refused)
    fs.write_json(done, {"settings": wanted, "counts": counts})
    return counts


def _of_row(cut: dict, row: Row) -> dict:
    """A cut that says of which row it is: the windows of a long recording are scored together."""
    return {**cut, "custom": {**(cut.get("custom") or {}), "row": row.id}}


def _state_of(path: Path) -> str:
    """What tells a table from another one, or a folder of classes from itself with other recordings."""
    if path.is_dir():
        return fs.sha256_json([name for name in files_below(path)[0] if Path(name).suffix.lower() in READABLE])
    return fs.sha256_file(path) if path.is_file() else ""


def _counts(rows: list[Row], refused: list[dict]) -> dict[str, Any]:
    counts: dict[str, Any] = {"left_out": len(refused)}
    for split in SPLITS:
        mine = [row for row in rows if row.split == split]
        hours = sum(cut["duration"] for row in mine for cut in row.cuts) / 3600
        counts[split] = {"recordings": len(mine), "hours": round(hours, 5), "groups": len({row.group for row in mine})}
    return counts


# Reading -----------------------------------------------------------------------------------------------------------


def read_rows(settings: TableSettings, data_dir: Path) -> tuple[list[Row], list[dict]]:
    """The usable rows of all tables, and {id, reason} of the others.

    Args:
        settings: what is read.
        data_dir: remembers which recordings were decoded, so that an interrupted reading goes on.

    Raises:
        ConfigError: no such file. DataError: a table without the columns, or nothing that can be used.
    """
    task, refused = TASKS[settings.task], []
    rows: list[Row] = []
    candidates: list[_Candidate] = []
    seen: set[str] = set()
    for path in settings.manifests:
        if not (path.is_file() or path.is_dir()):  # a pipe can be read once, and this needs it twice
            raise ConfigError(
                f"no {path}, or no file", "a table, cuts of lhotse, or a folder of classes", "correct --manifest"
            )
        found = Scan([], [], True)
        for number, record in enumerate(labelled_records(path, [settings.target], found), 1):
            name = str(record.get("id") or path_of(record) or f"row {number}")[:200]
            try:
                if isinstance(record.get("recording"), dict):
                    row = _of_cut(record, path, settings, task)
                    rows += [row] if row else []
                else:
                    candidates.append(_of_table(record, path, settings, task))
                    row = candidates[-1].row
                if row and row.id in seen:
                    (rows if row.cuts else candidates).pop()
                    raise DataError("an id for the second time", "an id of its own", "correct that row")
                seen.add(row.id if row else name)
            except SpearError as error:
                refused.append({"id": name, "reason": error.found})
        refused += [{"id": bad["id"], "reason": bad["reason"]} for bad in found.refused]
    rows += _decoded(candidates, settings, task, data_dir, refused)
    if not rows:
        raise no_usable_row(", ".join(map(str, settings.manifests)), settings.target, refused)
    return rows, refused


def _of_table(record: dict[str, Any], table: Path, settings: TableSettings, task: Task) -> _Candidate:
    row_id, name = named(record)
    value = record.get(settings.target)
    values = [text_of(each) for each in (value if isinstance(value, list) else [value])]
    if len(values) > 1 and task.several and any(settings.separator in each for each in values):
        raise DataError(f"a tag that holds '{settings.separator}'", "tags without the separator", "choose --separator")
    target = settings.separator.join(values)
    row = Row(row_id, target, _group(record, settings, name), _split(record.get(settings.split)))
    base = table if table.is_dir() else table.parent
    entry = Entry(row_id, name, settings.kind)
    task.label(entry, settings.target, _checked(target, settings))
    return _Candidate(row, entry, (base / name).absolute())


def _of_cut(record: dict[str, Any], manifest: Path, settings: TableSettings, task: Task) -> Row | None:
    """None for cuts that belong to no split of a task that states some."""
    item = to_item(record, manifest.absolute().parent.parent)
    named = {"text": item.text, "speaker": item.speaker}
    target = named.get(settings.target, item.labels.get(settings.target))
    split = item.task_splits.get(settings.split)
    if split is None and settings.split != TableSettings.split:
        return None
    if task.is_text and item.duration_seconds > settings.max_seconds:
        raise _too_long(item.duration_seconds, settings)
    fields = {**item.labels, **{key: value for key, value in named.items() if value}}
    row = Row(item.id, _checked(target, settings), _group(fields, settings, str(item.path)), _split(split))
    task.check_cut(settings.target)
    sources = [{**source, "source": str(item.path)} for source in record["recording"]["sources"]]
    row.cuts.append({**record, "recording": {**record["recording"], "sources": sources}})
    return row


def _checked(target: str | None, settings: TableSettings) -> str:
    if not (target or "").strip():
        raise DataError(f"no {settings.target}", "a label or text in every row", "correct that row")
    return target.strip()


def _group(record: dict[str, Any], settings: TableSettings, path: str) -> str:
    column = settings.group or TASKS[settings.task].group_of(settings.target)
    return group_in(record, column, path)


def _split(named: Any) -> str:
    split = split_of(str(named)) if named not in (None, "") else ""
    if named not in (None, "") and not split:
        raise DataError(f"split '{str(named)[:60]}'", ", ".join(SPLITS), "correct that row")
    return split


def _too_long(seconds: float, settings: TableSettings) -> DataError:
    return DataError(
        f"{seconds:.1f} s with one transcript, more than {settings.max_seconds:g} s",
        "recordings of single utterances",
        "cut it into utterances, or raise --max-seconds",
    )


def _decoded(
    candidates: list[_Candidate], settings: TableSettings, task: Task, data_dir: Path, refused: list[dict]
) -> Iterator[Row]:
    """The rows whose recordings can be decoded, with their cuts."""
    from spear.manifest.cuts import make_cuts  # imports lhotse, which takes seconds

    # A recording that changed since an interrupted call is another one.
    files = [
        {"id": each.row.id, "path": str(each.path), "declared": None, "state": fs.state_of(each.path)}
        for each in candidates
    ]
    limits = {"root": "/", "min_seconds": 0.1, "max_seconds": settings.max_seconds}
    starts = range(0, len(files), _FILES_PER_UNIT)
    units = [{"name": f"examine-{n:07d}", "files": files[n : n + _FILES_PER_UNIT], **limits} for n in starts]
    done = run_units(examine_unit, units, data_dir / ".done", num_jobs=settings.num_jobs, label="decoding")
    for each, result in zip(candidates, (result for unit in done for result in unit["results"])):
        reason = result.get("reason", "")
        if not reason and task.is_text and len(result["windows"]) > 1:
            reason = _too_long(result["num_samples"] / result["sample_rate_hz"], settings).found
        if reason:
            refused.append({"id": each.row.id, "reason": reason})
            continue
        each.row.cuts = make_cuts(each.entry, result, str(each.path), "train", {})
        yield each.row


# Dividing ----------------------------------------------------------------------------------------------------------


def divide(rows: list[Row], settings: TableSettings) -> None:
    """Gives every row a split, in place: its own, where rows name any; else by groups, every class in every split.

    Where a table names no dev or no test rows, they are taken from its training rows (dev: of four groups at least).
    Speakers that are verified are others than those that are trained on; dev, too, has at least two of its own where
    eight or more are there, else it is of the trained ones.
    """
    task = TASKS[settings.task]
    if any(row.split for row in rows):
        rows[:] = [row for row in rows if row.split]  # a table that divides some leaves out the others
    else:
        for row in rows:
            row.split = "train"
    for split, fraction in (("test", settings.test_fraction), ("dev", settings.dev_fraction)):
        if not fraction or any(row.split == split for row in rows):
            continue
        training = [row for row in rows if row.split == "train"]
        speakers = len({row.group for row in training}) if split == "dev" and task.open_set else 0
        shared = 0 < speakers < _LEAST_SPEAKERS
        keys = [(row.id if shared else row.group, "" if task.is_text else row.target) for row in training]
        folds, least = min(max(2, round(1 / fraction)), len({key for key, _ in keys})), 2 if split == "test" else 4
        if speakers and not shared:
            folds = min(folds, speakers // 2)
        for place in fold_places(keys, folds)[0].tolist() if folds >= least else ():
            training[place].split = split


def _with_known_labels(rows: list[Row], settings: TableSettings, refused: list[dict]) -> list[Row]:
    """Without the rows of dev and test that no training row prepares for; they are listed."""
    task = TASKS[settings.task]
    if task.is_text:
        return rows

    def names(row: Row) -> set[str]:
        parts = row.target.split(settings.separator) if task.several else [row.target]
        return {name for part in parts if (name := part.strip())}

    known = {name for row in rows if row.split == "train" for name in names(row)}
    kept = []
    for row in rows:
        if names(row) & known or (task.open_set and row.split != "train"):
            kept.append(row)
        else:
            reason = f"{settings.target} '{row.target[:60]}' in {row.split}, which no training recording has"
            refused.append({"id": row.id, "reason": reason})
    return kept
