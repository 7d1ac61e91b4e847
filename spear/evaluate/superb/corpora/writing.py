"""What the corpora share: writing the manifests of tasks, trials, splits by hash, and looking for files."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.audio.load import probe
from spear.errors import DataError, SpearError
from spear.evaluate.superb.table import manifest_path
from spear.log import get_logger
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


def share(name: str, salt: str) -> float:
    """A number in [0, 1) that depends on the texts alone: splits by it are the same in every lab."""
    return int(fs.sha256_bytes(f"{salt}\x1f{name}".encode())[:12], 16) / 16**12


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
