"""HEAR 2021 as it is distributed: archives of tasks at 48 kHz, or their unpacked folders, anywhere below one folder.

Tasks are linked into `DATA_DIR/tasks`, and archives unpacked beside it, each once. Nothing is resampled on disk: the
encoder's features are computed once, from audio that is resampled on reading.
"""

import os
import shutil
from collections import Counter
from pathlib import Path

from spear import fs
from spear.errors import DataError, SpearError
from spear.evaluate.corpora.fetch import unpack
from spear.evaluate.hear.layout import METADATA, highest_rate, labels_of, read_layout
from spear.log import get_logger
from spear.names import id_problem

logger = get_logger(__name__)


def prepare(raw: Path, data_dir: Path) -> dict[str, dict[str, int]]:
    """Writes `data_dir/tasks`; returns for each task the recordings that are there, and those that are not, by split.

    An archive that cannot be unpacked is told and left out, with what came out of it.

    Raises:
        DataError: there is no task, in archives or unpacked.
    """
    raw = Path(os.path.abspath(raw))  # "." has no name, which a task needs
    unpacked = data_dir / "unpacked"
    failed: list[Path] = []
    seen: set[str] = set()
    for archive in sorted(raw.rglob("*.tar.gz")) if raw.is_dir() else ():
        name = archive.name.removesuffix(".tar.gz")
        if name in seen or not archive.is_file():
            continue
        seen.add(name)
        if problem := id_problem(name):
            logger.warning("left out: %s: %s", archive, problem)
            continue
        # Not among what archives bring, and of this very archive.
        place, done = unpacked / name, data_dir / ".done" / f"{name}.txt"
        stamp = "{} {}\n".format(*fs.state_of(archive))
        if done.exists() and done.read_text() == stamp:
            continue
        logger.info("unpacking %s", archive)
        done.unlink(missing_ok=True)
        if place.exists():  # of an interrupted call, or of another archive
            shutil.rmtree(place)
        place.mkdir(parents=True)
        try:
            unpack(archive, place)
        except DataError as error:
            logger.warning("left out: %s", error.found)
            failed.append(place)
            continue
        fs.write_text(done, stamp)
    found: dict[str, Path] = {}
    for root in (raw, unpacked):
        for path in sorted(root.rglob(METADATA)) if root.is_dir() else ():
            if any(path.is_relative_to(place) for place in failed):
                continue
            found.setdefault(path.parent.name, path.parent)
    if not found:
        raise DataError(
            f"no task of HEAR below {raw}",
            f"archives such as hear2021-esc50-v2.0.0-full-48000.tar.gz, or folders with {METADATA}",
            "download them from the benchmark's page, or name the folder with DATA_ROOT or --raw",
        )
    counts = {}
    for name, path in found.items():
        link = data_dir / "tasks" / name
        if path.absolute() != link.absolute():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(path.absolute(), target_is_directory=True)
        try:
            counts[name] = _present(link)
        except SpearError as error:  # a task that cannot be scored; the run says it again
            logger.warning("%s: %s", name, error.found)
            counts[name] = {}
        absent = counts[name].get("absent", 0)
        if absent:
            logger.warning("%s is a partial copy: %d recordings are not there", name, absent)
    return counts


def _present(folder: Path) -> dict[str, int]:
    layout = read_layout(folder)
    rate = highest_rate(folder)
    counts: Counter = Counter()
    for split in layout.splits:
        names = set(labels_of(folder / f"{split}.json"))
        on_disk = {path.name for path in (folder / rate / split).glob("*")} if rate else set()
        counts[split] = len(names & on_disk)
        counts["absent"] += len(names - on_disk)
    return {name: count for name, count in counts.items() if count or name != "absent"}
