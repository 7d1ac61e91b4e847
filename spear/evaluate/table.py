"""Manifests of the SUPERB tasks: one JSONL file for each task in `DATA_DIR/superb`, read and checked here.

A row is {id, path, split, start, duration, speaker, target, ...}: `path` is relative to DATA_DIR or absolute; `split`
is train, dev or test, or all; `start` and `duration` in seconds may be left out for whole recordings of known length;
`kept`, a list of [start, stop] in samples at 16 kHz, names what is left of a recording whose silence is cut; `unused`
is the reason why a row is not used.
Each task's file says what its target is. ASV has a second file `ASV_trials.jsonl` with rows {split, first, second,
same}; `same` is true or false, or 1 or 0, also as texts. Rows without a target, or without a recording, and trials
that cannot be used, are left out, counted and listed with the reason.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from spear import fs, records
from spear.errors import DataError
from spear.evaluate.cache import item_key
from spear.evaluate.contents import Contents
from spear.evaluate.excerpt import Excerpt, with_gain
from spear.log import get_logger
from spear.manifest import Item
from spear.names import id_problem

SPLITS = ("train", "dev", "test")
SAMPLE_RATE_HZ = 16000
ABSENT = "no file "
"""How reasons begin why a recording that is not there was left out."""
_Text = Annotated[str, msgspec.Meta(min_length=1)]
# Longer ones are no recordings, and a batch of one would not fit any memory.
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_FIX = "correct that line, or run stage 1 of the recipe's prepare.sh again"
logger = get_logger(__name__)


@dataclass
class _Line:
    """A line of a manifest; further columns are `Row.extra`."""

    id: _Text
    path: _Text
    split: Literal["train", "dev", "test", "all"]
    start: _Seconds | None = None
    duration: _Seconds | None = None
    speaker: str | int | None = None
    kept: list[tuple[records.Count, records.Count]] | None = None
    unused: str | None = None
    role: str | None = None
    session: str | int | None = None
    crop_of: str | None = None


@dataclass
class _Trial:
    """A line of the trials of ASV."""

    split: Literal["dev", "test"]
    first: str
    second: str
    same: bool | int | str


@dataclass(frozen=True)
class Row:
    """An utterance of a task.

    Attributes:
        split: train, dev, test, or all.
        target: what the task's file says.
        key: of the features in the cache.
        extra: further columns of the manifest.
    """

    id: str
    split: str
    item: Item
    target: Any
    key: str
    extra: dict = field(default_factory=dict)


@dataclass
class Table:
    """The usable rows of a task, what was left out ({id, split, reason}), and the trials of ASV."""

    rows: list[Row]
    skipped: list[dict]
    trials: list[dict] = field(default_factory=list)

    def of(self, split: str) -> list[Row]:
        """Rows of a split, those of `all` included."""
        return [row for row in self.rows if row.split in (split, "all")]

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Moves rows from `rows` to `skipped`, and the trials that need them.

        Args:
            reasons: id -> reason.
        """
        for row in [row for row in self.rows if row.id in reasons]:
            self.skipped.append({"id": row.id, "split": row.split, "reason": reasons[row.id]})
        self.rows[:] = [row for row in self.rows if row.id not in reasons]
        for trial in [t for t in self.trials if t["first"] in reasons or t["second"] in reasons]:
            lost = trial["first"] if trial["first"] in reasons else trial["second"]
            name = f"{trial['first']} {trial['second']}"
            self.skipped.append({"id": name, "split": trial["split"], "reason": f"trial without {lost}"})
        self.trials[:] = [t for t in self.trials if t["first"] not in reasons and t["second"] not in reasons]

    def absent(self) -> list[str]:
        """That recordings are not there, in a sentence; nothing where none is missing."""
        gone = sum(row["reason"].startswith(ABSENT) for row in self.skipped)
        return [f"a partial copy: {gone} of {gone + len(self.rows)} recordings are not there"] if gone else []

    def content_hash(self) -> str:
        """Depends on ids, audio, splits, targets and trials."""
        extra = ("session", "role", "crop_of", "group")  # what else tasks read
        rows = [[r.id, r.key, r.split, r.target, [r.extra.get(name) for name in extra]] for r in self.rows]
        return fs.sha256_json([rows, self.skipped, self.trials])


def manifest_path(data_dir: str | Path, task: str) -> Path:
    """Where the rows of a task are."""
    return Path(data_dir) / "superb" / f"{task}.jsonl"


def present_tasks(data_dir: str | Path, known: Sequence[str]) -> list[str]:
    """Those of the known tasks that have a manifest."""
    return [name for name in known if manifest_path(data_dir, name).exists()]


def read_table(
    data_dir: str | Path,
    task: str,
    refuse: Callable[[Any], str | None],
    max_items: int | None = None,
    gain_db: float = 0.0,
) -> Table:
    """Reads the manifest of a task.

    Args:
        refuse: gives the reason why a target cannot be used, None for a good one.
        max_items: at most this many rows of each split, chosen by a hash of the id.
        gain_db: added to the level of every recording.

    Raises:
        DataError: no manifest, a row without id, path or split, an id twice, or a split of train and test without rows.
    """
    path = manifest_path(data_dir, task)
    if not path.exists():
        raise DataError(f"no file {path}", f"the manifest of {task}", "run stage 1 of the recipe's prepare.sh")
    rows: list[Row] = []
    skipped: list[dict] = []
    seen: set[str] = set()
    for number, values in records.iterate(path, dict[str, Any], fix=_FIX):
        where = f"line {number} of {path}"
        line = records.convert(values, _Line, where, _FIX)
        problem = id_problem(line.id, separators="") or ("an id for the second time" if line.id in seen else "")
        if problem:
            raise DataError(f"{where}, field id: {line.id!r}", f"an id of its own ({problem})", _FIX)
        seen.add(line.id)
        item = _item(line, Path(data_dir))
        reason = line.unused or _wrong_role(line.role) or refuse(values.get("target")) or _absent(item.path)
        if reason:
            skipped.append({"id": line.id, "split": line.split, "reason": reason})
            continue
        rows.append(Row(line.id, line.split, item, values.get("target"), "", _extra(values)))
    rows = settled(rows, path.parent, max_items, gain_db)
    if skipped:
        reasons = Counter(row["reason"].partition(" /")[0] for row in skipped)
        logger.warning(
            "%s: %d rows left out: %s", task, len(skipped), "; ".join(f"{v} x {k}" for k, v in reasons.items())
        )
    return Table(rows, skipped, _trials(Path(data_dir), task, {row.id: row.split for row in rows}, skipped))


def _wrong_role(role: str | None) -> str | None:
    return None if role in (None, "query", "document") else f"role '{role}', not query or document"


def _absent(path: Path) -> str | None:
    try:
        return None if path.is_file() else f"{ABSENT}{path.name}"
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be read
        return f"{ABSENT}{path.name[:80]} ({error.strerror if isinstance(error, OSError) else error})"


def settled(rows: list[Row], directory: Path | None, max_items: int | None = None, gain_db: float = 0.0) -> list[Row]:
    """Rows in the order of their ids, as many as asked for, at the level asked for, with the keys of their features.

    Args:
        directory: where digests of audio are remembered, see `Contents`.
        max_items, gain_db: see `read_table`.
    """
    rows = sorted(rows, key=lambda row: row.id)
    rows = _chosen(rows, max_items) if max_items else rows
    if gain_db:
        rows = [replace(row, item=with_gain(row.item, gain_db)) for row in rows]
    contents = Contents(directory)
    rows = [replace(row, key=item_key(row.item, contents)) for row in rows]
    contents.save()
    return rows


def _item(line: _Line, data_dir: Path) -> Item:
    duration = line.duration or 0.0
    changes = {"kept": tuple(line.kept)} if line.kept else {}
    return (Excerpt if changes else Item)(
        id=line.id,
        path=data_dir / line.path,
        start_seconds=line.start or 0.0,
        duration_seconds=duration,
        num_samples=round(duration * SAMPLE_RATE_HZ),
        domain="speech",
        kind="speech",
        speaker=None if line.speaker is None else str(line.speaker),
        **changes,
    )


def _extra(values: dict) -> dict:
    known = ("id", "path", "split", "start", "duration", "target", "kept")
    return {key: value for key, value in values.items() if key not in known}


def _chosen(rows: list[Row], max_items: int) -> list[Row]:
    kept: set[str] = set()
    for split in (*SPLITS, "all"):
        mine = [row.id for row in rows if row.split == split]
        kept.update(sorted(mine, key=lambda row_id: fs.sha256_bytes(row_id.encode()))[:max_items])
    return [row for row in rows if row.id in kept]


_SAME = {"true": True, "1": True, "false": False, "0": False}


def _trials(data_dir: Path, task: str, split_of: dict[str, str], skipped: list[dict]) -> list[dict]:
    path = data_dir / "superb" / f"{task}_trials.jsonl"
    if not path.exists():
        return []
    trials = []
    for number, trial in records.iterate(path, dict[str, Any], fix=_FIX):
        trial = msgspec.to_builtins(records.convert(trial, _Trial, f"line {number} of {path}", _FIX))
        sides = (trial["first"], trial["second"])
        absent = [side for side in sides if side not in split_of]
        foreign = [side for side in sides if split_of.get(side) not in (None, "all", trial["split"])]
        same = _SAME.get(str(trial["same"]).lower())
        reason = f"trial without {absent[0]}" if absent else None
        if not reason and foreign:
            reason = f"trial of {foreign[0]}, which is in {split_of[foreign[0]]}"
        if not reason and same is None:
            reason = f"same: '{trial['same']}', not true or false"
        if reason:
            skipped.append({"id": " ".join(sides), "split": trial["split"], "reason": reason})
        else:
            trials.append({**trial, "same": same})
    return trials
