"""Units of work and batches: pure functions of the cuts, so that ranks, kills and reruns cannot change a result."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spear.errors import ConfigError, DataError
from spear.fs import sha256_json
from spear.seeds import derive
from spear.teachers.align import expected_frames, resampled_samples

_MIN_LENGTH_RATIO = 0.75


class Item(Protocol):
    """What extraction needs of an utterance (`spear.manifest.Item` has it)."""

    id: str
    path: Path
    start_seconds: float
    duration_seconds: float
    num_samples: int
    domain: str
    speed: float
    channel: int | None


@dataclass(frozen=True)
class Unit:
    """A group of consecutive cuts of one file, which becomes one shard.

    Attributes:
        name: `<name of the cuts file>-<number>`, the shard's prefix.
        items: the cuts.
    """

    name: str
    items: tuple[Item, ...]

    @property
    def seconds(self) -> float:
        """Audio of all items."""
        return sum(item.duration_seconds for item in self.items)

    def sha256(self, card_sha256: str) -> str:
        """Hash of the unit's inputs: which cuts, of which files, for which stream."""
        rows = [[i.id, i.path.name, i.start_seconds, i.duration_seconds, i.num_samples] for i in self.items]
        for row, item in zip(rows, self.items):
            # Shards of cuts as they were recorded keep their hash.
            row += [item.speed] if item.speed != 1 else []
            row += [] if item.channel is None else ["channel", item.channel]
            row += [] if item.gain == 1 else ["gain", item.gain]
        return sha256_json([card_sha256, rows])


def read_cuts(paths: Sequence[str | Path], refused: list[dict] | None = None) -> dict[str, list[Item]]:
    """Items of each cuts file, by the file's name without suffix.

    Args:
        paths: JSONL, gzipped or not.
        refused: receives {id, path, reason} of the cuts that cannot be used.

    Raises:
        ConfigError: two files of the same name, since shards are named after them.
        DataError: an id that occurs twice (named with both files).
    """
    from spear.manifest import read_items  # lhotse takes a second to import, which --help need not wait for

    files: dict[str, list[Item]] = {}
    owner: dict[str, Path] = {}
    for path in map(Path, paths):
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        if name in files:
            raise ConfigError(f"two cuts files named {path.name}", "different names", "rename one of them")
        files[name] = read_items(path, refused)
        for item in files[name]:
            if item.id in owner:
                raise DataError(
                    f"cut '{item.id}' in {owner[item.id]} and again in {path}", "unique ids", "remove one of the two"
                )
            owner[item.id] = path
    return files


def plan_units(files: dict[str, list[Item]], unit_seconds: float) -> list[Unit]:
    """Cuts each file into units of about `unit_seconds` of audio, in the order of the file.

    Units never span files: adding a corpus leaves the units of the others, and their shards, as they are.
    """
    units = []
    for name, items in files.items():
        group: list[Item] = []
        total, number = 0.0, 0
        for item in items:
            if group and total + item.duration_seconds > unit_seconds:
                units.append(Unit(f"{name}-{number:05d}", tuple(group)))
                group, total, number = [], 0.0, number + 1
            group.append(item)
            total += item.duration_seconds
        if group:
            units.append(Unit(f"{name}-{number:05d}", tuple(group)))
    return units


def plan_batches(items: Iterable[Item], max_seconds: float, max_items: int = 128) -> list[list[Item]]:
    """Batches of similar length whose padded seconds (longest x count) never exceed `max_seconds`.

    The longest come first, so memory that does not suffice shows at once, and no item of a batch is shorter than 3/4 of
    its longest, so padding stays small also where a unit holds few cuts. Items longer than the limit are not in any
    batch; the caller lists them.
    """
    batches: list[list[Item]] = []
    kept = [item for item in items if item.duration_seconds <= max_seconds]
    for item in sorted(kept, key=lambda item: (-item.num_samples, item.id)):
        if batches and len(batches[-1]) < max_items:
            longest = batches[-1][0].duration_seconds
            if longest * (len(batches[-1]) + 1) <= max_seconds and item.duration_seconds >= _MIN_LENGTH_RATIO * longest:
                batches[-1].append(item)
                continue
        batches.append([item])
    return batches


def item_frames(item: Item, teacher) -> int:
    """Frames that a teacher (or the fingerprint of one) makes of an item."""
    rate = teacher["sample_rate_hz"] if isinstance(teacher, Mapping) else teacher.sample_rate
    return expected_frames(resampled_samples(item.num_samples, rate), teacher)


def sample_items(files: dict[str, list[Item]], max_frames: int, teacher, seed: int) -> list[Item]:
    """A seeded sample of cuts with at most `max_frames` teacher frames in total.

    Whether a cut is early or late in the draw depends on its id and the seed alone, so a larger cap only adds cuts,
    and the order of the files does not matter.

    Raises:
        DataError: not one cut fits.
    """
    items = [item for group in files.values() for item in group]
    items.sort(key=lambda item: (derive(seed, "embedding_sample", item.id), item.id))
    chosen, total = [], 0
    for item in items:
        frames = item_frames(item, teacher)
        if not 0 < frames <= max_frames:
            continue
        total += frames
        if total > max_frames:
            break
        chosen.append(item)
    if not chosen:
        raise DataError(f"no cut of at most {max_frames} frames among {len(items)}", "one", "raise --max-frames")
    return chosen


def ids_sha256(ids: Iterable[str]) -> str:
    """Hash of a set of ids, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(ids), ensure_ascii=False).encode()).hexdigest()
