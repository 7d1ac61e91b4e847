"""Tables of cuts in a few NumPy arrays: workers share them, and ten million cuts are no ten million objects."""

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spear.manifest.item import original_id
from spear.seeds import derive
from spear.shards import id_key

SAMPLE_RATE_HZ = 16000
DOMAINS = ("speech", "audio")
NUM_DRAWS = 10_000


@dataclass(frozen=True)
class Cut:
    """One row of the table: a stretch of a recording. `domain` is one of `DOMAINS`, `speed`, `channel` and `gain` are
    those of `load_audio`."""

    id: str
    path: Path
    start_seconds: float
    duration_seconds: float
    domain: str
    source: int
    speed: float = 1.0
    channel: int | None = None
    gain: float = 1.0

    @property
    def num_samples(self) -> int:
        """Length at 16 kHz."""
        return round(self.duration_seconds * SAMPLE_RATE_HZ)


class Columns:
    """All cuts of one manifest, by row.

    Args:
        items: `spear.manifest.Item` or anything with id, path, start_seconds, duration_seconds and domain; and
            speed, channel, gain and of_people, where they are not 1, None, 1 and what the domain says.

    Attributes (all but the first of them arrays, which may be memory-mapped):
        refused: {id, path, reason} of what the manifest has besides these cuts, where it was read from one.
        duration: seconds.
        speed: see `spear.audio.load_audio`.
        channel: see there; -1 for None.
        gain: see there.
        people: whether a person is heard, by domain, transcript and labels (`spear.manifest.Item.of_people`).
        domain: index into `DOMAINS`.
        key: `spear.shards.id_key` of the id; two ids with the same one are not to be expected.
        draw: 0 to `NUM_DRAWS` - 1, from the id alone: not from the seed, the order or other cuts. A copy at another
            speed (lhotse's NAME_sp0.9) has that of NAME: neither is trained on where the other is held out.
    """

    ARRAYS = ("ids", "id_offsets", "folders", "folder_offsets", "names", "name_offsets")
    ARRAYS += ("folder", "start", "duration", "speed", "domain", "key", "draw", "channel", "gain", "people")

    def __init__(self, items: Iterable):
        ids, names, folders, offsets = bytearray(), bytearray(), {}, [array("q", [0]), array("q", [0])]
        columns = [array(code) for code in "idddBQHhfB"]  # the gain meets float32 samples
        for item in items:
            # Recordings lie in few folders: those are stored once.
            folder, name = os.path.split(item.path)
            ids += _bytes(item.id)
            names += _bytes(name)
            offsets[0].append(len(ids))
            offsets[1].append(len(names))
            values = [folders.setdefault(folder, len(folders)), item.start_seconds, item.duration_seconds]
            speed = getattr(item, "speed", 1.0)
            original = item.id if speed == 1 else original_id(item.id)
            values += [speed, DOMAINS.index(item.domain), id_key(item.id), derive(0, "valid", original) % NUM_DRAWS]
            channel = getattr(item, "channel", None)
            people = bool(getattr(item, "of_people", item.domain == "speech"))
            values += [-1 if channel is None else channel, getattr(item, "gain", 1.0), people]
            for column, value in zip(columns, values):
                column.append(value)
        encoded = [_bytes(folder) for folder in folders]
        self.ids, self.id_offsets = _array(ids), np.asarray(offsets[0], dtype=np.int64)
        self.names, self.name_offsets = _array(names), np.asarray(offsets[1], dtype=np.int64)
        self.folders = _array(b"".join(encoded))
        self.folder_offsets = np.asarray([0, *np.cumsum([len(folder) for folder in encoded])], dtype=np.int64)
        self.folder, self.start, self.duration, self.speed, *rest = map(np.asarray, columns)
        self.domain, self.key, self.draw, self.channel, self.gain, self.people = rest
        self.refused: list[dict] = []

    def __len__(self) -> int:
        return len(self.duration)

    def id(self, row: int) -> str:
        """The id of a cut."""
        return _text(self.ids, self.id_offsets, row)

    def path(self, row: int) -> Path:
        """The recording of a cut."""
        folder = _text(self.folders, self.folder_offsets, self.folder[row])
        return Path(folder, _text(self.names, self.name_offsets, row))

    def save(self, directory: Path) -> None:
        """Writes every array as a NumPy file."""
        for name in self.ARRAYS:
            np.save(directory / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, directory: Path) -> "Columns":
        """Memory-maps what `save` wrote."""
        columns = cls([])
        for name in cls.ARRAYS:
            # An empty array cannot be mapped.
            path = directory / f"{name}.npy"
            setattr(columns, name, np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None))
        return columns


class CutTable:
    """The cuts that are used, by index.

    Args:
        items: see `Columns`.
        source: number of the source that they come from.
    """

    def __init__(self, items: Iterable, source: int = 0):
        columns = items if isinstance(items, Columns) else Columns(items)
        self._choose({source: columns}, {source: np.arange(len(columns))}, {source: columns.domain})

    @classmethod
    def chosen(
        cls, columns: dict[int, Columns], rows: dict[int, np.ndarray], domains: dict[int, np.ndarray]
    ) -> "CutTable":
        """Some rows of the columns of each source, one source after the other.

        Args:
            columns: by number of the source.
            rows: indexes into them.
            domains: of each of these rows.
        """
        table = cls.__new__(cls)
        table._choose(columns, rows, domains)
        return table

    def _choose(self, columns: dict, rows: dict, domains: dict) -> None:
        self._columns = columns
        self._row = np.concatenate([rows[number] for number in columns]).astype(np.int32)
        self._source = np.repeat(np.asarray(list(columns), dtype=np.int16), [len(rows[number]) for number in columns])
        seconds = np.concatenate([columns[number].duration[rows[number]] for number in columns])
        self._num_samples = np.round(seconds * SAMPLE_RATE_HZ).astype(np.uint32)
        self._domain = np.concatenate([domains[number] for number in columns]).astype(np.uint8)

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: int) -> Cut:
        source, row = int(self._source[index]), int(self._row[index])
        columns = self._columns[source]
        channel = int(columns.channel[row])
        return Cut(
            id=columns.id(row),
            path=columns.path(row),
            start_seconds=float(columns.start[row]),
            duration_seconds=float(columns.duration[row]),
            domain=DOMAINS[self._domain[index]],
            source=source,
            speed=float(columns.speed[row]),
            channel=None if channel < 0 else channel,
            gain=float(columns.gain[row]),
        )

    @property
    def durations_seconds(self) -> np.ndarray:
        """(num_cuts,) durations rounded to samples, which is what batches are made of."""
        return self._num_samples / SAMPLE_RATE_HZ

    @property
    def keys(self) -> np.ndarray:
        """(num_cuts,) `spear.shards.id_key` of the ids."""
        keys = np.zeros(len(self), dtype=np.uint64)
        for number, columns in self._columns.items():
            of_source = self._source == number
            keys[of_source] = columns.key[self._row[of_source]]
        return keys

    @property
    def is_speech(self) -> np.ndarray:
        """(num_cuts,) whether a cut is speech."""
        return self._domain == DOMAINS.index("speech")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(bytes(data), dtype=np.uint8)


def _text(data: np.ndarray, offsets: np.ndarray, index: int) -> str:
    return data[offsets[index] : offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")
