"""Suites of corpora as they are distributed: their own tables and names of files say what their clips are.

`DATA_DIR/corpora/<NAME>` is a corpus, or a link to it. What a corpus lists and the disk lacks, and what cannot be read,
is left out by name; a partial copy is told beside its score.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from spear.audio.load import probe
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate.excerpt import Excerpt
from spear.evaluate.suite import Refuse, Suite
from spear.evaluate.table import ABSENT, SAMPLE_RATE_HZ, Row, Table
from spear.evaluate.task import Task, group_of
from spear.manifest import Item
from spear.manifest.scan import Scan
from spear.names import id_problem
from spear.seeds import numpy_rng

FOLDER = "corpora"
_FIX = "unpack the corpus again"


class Clip(NamedTuple):
    """A recording as its corpus lists it.

    Attributes:
        path: below the corpus's folder, with `/`.
        target: a label, or a list of them.
        split: train, dev or test; `all` where folds are tested.
        fold: which one, where there are some.
        group: what must not be divided, a speaker or a source; empty: the recording itself.
    """

    path: str
    target: str | list[str]
    split: str = "all"
    fold: str = ""
    group: str = ""


@dataclass(frozen=True)
class Corpus:
    """A corpus of a suite.

    Attributes:
        name: of its folder and its task.
        title: for tables.
        mark: a file or folder by which it is known.
        read: its clips, from its folder; bad lines of its tables are refused in the `Scan`.
        seconds: recordings are cut to; 0: they are whole.
    """

    name: str
    title: str
    mark: str
    read: Callable[[Path, Scan], Iterator[Clip]]
    seconds: float = 0.0


def read_rows(folder: Path, corpus: Corpus, padded: bool = False) -> tuple[list[Row], list[dict]]:
    """Rows of a corpus, and {id, split, reason} of what cannot be used.

    Args:
        padded: shorter recordings are filled up with zeros, which count as sound.

    Raises:
        DataError: a table of the corpus is missing or damaged.
    """
    found, rows, skipped, seen = Scan([], [], True), [], [], set()
    for clip in corpus.read(folder, found):
        row_id = f"{clip.fold or clip.split}/{clip.path}"
        try:
            problem = id_problem(row_id, separators="\\") or ("listed for the second time" if row_id in seen else "")
            if problem or not clip.target:
                raise DataError(problem or "no label", "a recording with a label", _FIX)
            item = _item(row_id, folder, clip.path, corpus.seconds, padded)
        except (SpearError, OSError) as error:  # of a file that may not be read
            reason = error.found if isinstance(error, SpearError) else error.strerror or str(error)
            skipped.append({"id": row_id[:300], "split": clip.split, "reason": reason})
            continue
        seen.add(row_id)
        extra = {"fold": clip.fold, "group": clip.group or clip.path}
        rows.append(Row(row_id, clip.split, item, clip.target, "", extra))
    skipped += [{"id": bad["id"], "split": "all", "reason": bad["reason"]} for bad in found.refused]
    if found.failed:
        raise found.failed[0]
    return rows, skipped


def _item(row_id: str, folder: Path, name: str, seconds: float, padded: bool) -> Item:
    path = folder / name
    if Path(name).is_absolute() or not path.is_file():
        raise DataError(f"{ABSENT}{name}", f"a recording in {folder}", _FIX)
    length = probe(path).duration_seconds
    heard = min(length, seconds or length)
    known = row_id, path, 0.0, heard, round(SAMPLE_RATE_HZ * heard), "audio", "event"
    return Excerpt(*known, padded_seconds=seconds) if padded and heard < seconds else Item(*known)


class ListedTasks(Suite):
    """Base of these suites: a task for each corpus; `all` are those that are there.

    Attributes:
        corpora: that it knows.
        make: the task of a corpus.
        padded: see `read_rows`.
    """

    manifests = FOLDER
    corpora: ClassVar[Sequence[Corpus]]
    make: ClassVar[Callable[[Corpus], Task]]
    padded = False

    def folder_of(self, name: str) -> Path:
        """Where a corpus is."""
        return self.data_dir / FOLDER / name

    def find(self, names: Sequence[str], refuse: Refuse | None = None) -> list[Task]:
        """See `Suite`.

        Raises:
            DataError: `all`, and there is none.
        """
        known = {corpus.name: corpus for corpus in self.corpora}
        present = [name for name, corpus in known.items() if (self.folder_of(name) / corpus.mark).exists()]
        chosen: dict[str, None] = {}
        for name in names:
            if name == "all" and not present:
                marks = ", ".join(f"{corpus.name}/{corpus.mark}" for corpus in self.corpora[:3])
                raise DataError(f"no corpus in {self.data_dir / FOLDER}", f"one such as {marks}", "run prepare.sh")
            if name not in ("all", *known):
                raise ConfigError(f"task '{name}'", f"all, or some of {', '.join(known)}", "correct --tasks")
            chosen |= dict.fromkeys(present if name == "all" else [name])
        return [type(self).make(known[name]) for name in chosen]

    def table(self, task: Task, max_items: int | None = None, gain_db: float = 0.0) -> Table:
        """See `Suite`."""
        (corpus,) = (corpus for corpus in self.corpora if corpus.name == task.name)
        return self.usable(task, *read_rows(self.folder_of(task.name), corpus, self.padded), max_items, gain_db)


def link(raw: Path, data_dir: Path, corpora: Sequence[Corpus]) -> dict[str, dict[str, int]]:
    """Links corpora that lie in `raw`, or up to two folders below, into `data_dir/corpora`; returns rows by split.

    Raises:
        DataError: there is none.
    """
    folders = [raw, *sorted(raw.glob("*/")), *sorted(raw.glob("*/*/"))]
    counts: dict[str, dict[str, int]] = {}
    for corpus in corpora:
        place = next((folder for folder in folders if (folder / corpus.mark).exists()), None)
        if place is None:
            continue
        target = data_dir / FOLDER / corpus.name
        if place.absolute() != target.absolute():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(place.absolute(), target_is_directory=True)
        counts[corpus.name] = _present(target, corpus)
    if not counts:
        marks = ", ".join(f"{corpus.name} ({corpus.mark})" for corpus in corpora)
        raise DataError(
            f"none of the corpora in {raw}", f"folders of {marks}", "unpack them there, or name the folder with --raw"
        )
    return counts


def _present(folder: Path, corpus: Corpus) -> dict[str, int]:
    """How many of the clips that a corpus lists are there, by split, and how many are not."""
    counts: dict[str, int] = {}
    try:
        for clip in corpus.read(folder, Scan([], [], True)):
            split = clip.split if (folder / clip.path).is_file() else "absent"
            counts[split] = counts.get(split, 0) + 1
    except (SpearError, OSError):  # a corpus that cannot be scored; the run says it again
        return {}
    return counts


def by_fold(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by the fold that their corpus states, in the order of the folds' names."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (len(row.extra["fold"]), row.extra["fold"])):
        found.setdefault(row.extra["fold"], []).append(row)
    return found


def drawn(rows: Sequence[Row], share: float, together: bool) -> tuple[list[Row], list[Row]]:
    """Rows without and with a share of them that is drawn by a fixed seed.

    Args:
        together: groups are not divided; the share is then one of groups.
    """
    names = sorted({_unit(row, together) for row in rows})
    order = numpy_rng(42, "listed", len(names)).permutation(len(names))
    held = {names[place] for place in order[: math.ceil(share * len(names))]}
    kept = [row for row in rows if _unit(row, together) not in held]
    return kept, [row for row in rows if _unit(row, together) in held]


def _unit(row: Row, together: bool) -> str:
    return str(group_of(row)) if together else row.id
