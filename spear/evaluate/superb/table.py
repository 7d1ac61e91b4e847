"""Manifests of the SUPERB tasks: one JSONL file for each task in `DATA_DIR/superb`, read and checked here.

A row is {id, path, split, start, duration, speaker, target, ...}: `path` is relative to DATA_DIR or absolute; `split`
is train, dev or test, or all; `start` and `duration` in seconds may be left out for whole recordings of known length;
`kept`, a list of [start, stop] in samples at 16 kHz, names what is left of a recording whose silence is cut; `unused`
is the reason why a row is not used.
Each task's file says what its target is. ASV has a second file `ASV_trials.jsonl` with rows {split, first, second,
same}. Rows without a target, or without a recording, are left out, counted and listed with the reason.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spear import fs
from spear.errors import DataError
from spear.evaluate.cache import item_key
from spear.evaluate.excerpt import Excerpt
from spear.log import get_logger
from spear.manifest import Item

SPLITS = ("train", "dev", "test")
SAMPLE_RATE_HZ = 16000
logger = get_logger(__name__)


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

    def content_hash(self) -> str:
        """Depends on ids, audio, splits, targets and trials."""
        rows = [[row.id, row.key, row.split, row.target, row.extra] for row in self.rows]
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
    for number, values in enumerate(fs.read_jsonl(path), 1):
        problem = _malformed(values, seen)
        if problem:
            raise DataError(
                f"line {number} of {path}: {problem}", "id, path, split (train, dev, test, all)", "correct it"
            )
        seen.add(values["id"])
        item = _item(values, Path(data_dir), gain_db)
        reason = (
            values.get("unused")
            or refuse(values.get("target"))
            or (None if item.path.exists() else f"no file {item.path.name}")
        )
        if reason:
            skipped.append({"id": values["id"], "split": values["split"], "reason": reason})
            continue
        rows.append(Row(values["id"], values["split"], item, values["target"], item_key(item), _extra(values)))
    rows = _chosen(rows, max_items) if max_items else rows
    if skipped:
        reasons = Counter(row["reason"].partition(" /")[0] for row in skipped)
        logger.warning(
            "%s: %d rows left out: %s", task, len(skipped), "; ".join(f"{v} x {k}" for k, v in reasons.items())
        )
    return Table(rows, skipped, _trials(Path(data_dir), task, {row.id for row in rows}, skipped))


def _malformed(values: dict, seen: set[str]) -> str:
    missing = [key for key in ("id", "path", "split") if not values.get(key)]
    if missing:
        return f"lacks {', '.join(missing)}"
    if values["split"] not in (*SPLITS, "all"):
        return f"split '{values['split']}'"
    return f"id '{values['id']}' for the second time" if values["id"] in seen else ""


def _item(values: dict, data_dir: Path, gain_db: float) -> Item:
    start, duration = float(values.get("start") or 0.0), float(values.get("duration") or 0.0)
    changes = {"gain_db": gain_db, "kept": tuple((int(a), int(b)) for a, b in values.get("kept") or ())}
    changes = changes if any(changes.values()) else {}
    return (Excerpt if changes else Item)(
        id=values["id"],
        path=data_dir / values["path"],
        start_seconds=start,
        duration_seconds=duration,
        num_samples=round(duration * SAMPLE_RATE_HZ),
        domain="speech",
        kind="speech",
        speaker=values.get("speaker"),
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


def _trials(data_dir: Path, task: str, present: set[str], skipped: list[dict]) -> list[dict]:
    path = data_dir / "superb" / f"{task}_trials.jsonl"
    if not path.exists():
        return []
    trials = []
    for trial in fs.read_jsonl(path):
        absent = [trial[side] for side in ("first", "second") if trial[side] not in present]
        if absent:
            name = f"{trial['first']} {trial['second']}"
            skipped.append({"id": name, "split": trial["split"], "reason": f"trial without {absent[0]}"})
        else:
            trials.append(trial)
    return trials
