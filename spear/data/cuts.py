"""A table of cuts in a few NumPy arrays: workers share it, and ten million cuts are no ten million objects."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE_HZ = 16000
DOMAINS = ("speech", "audio")


@dataclass(frozen=True)
class Cut:
    """One row of the table: a stretch of a recording. `domain` is one of `DOMAINS`."""

    id: str
    path: Path
    start_seconds: float
    duration_seconds: float
    domain: str
    source: int

    @property
    def num_samples(self) -> int:
        """Length at 16 kHz."""
        return round(self.duration_seconds * SAMPLE_RATE_HZ)


class _Strings:
    """Strings as one byte array with offsets."""

    def __init__(self, texts: list[str]):
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded], dtype=np.int64)]).astype(np.int64)
        self.data = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __getitem__(self, index: int) -> str:
        piece = self.data[self.offsets[index] : self.offsets[index + 1]]
        return piece.tobytes().decode("utf-8", "surrogateescape")


class CutTable:
    """Cuts by index.

    Args:
        items: `spear.manifest.Item` or anything with id, path, start_seconds, duration_seconds and domain.
        source: number of the source that they come from, one for all or one each.
    """

    def __init__(self, items: Iterable, source: int | Iterable[int] = 0):
        items = list(items)
        self._ids = _Strings([item.id for item in items])
        # Recordings lie in few folders: those are stored once.
        folders: dict[str, int] = {}
        paths = [os.path.split(item.path) for item in items]
        self._folder = np.asarray([folders.setdefault(folder, len(folders)) for folder, _ in paths], dtype=np.int32)
        self._folders = _Strings(list(folders))
        self._names = _Strings([name for _, name in paths])
        self._start = np.asarray([item.start_seconds for item in items], dtype=np.float64)
        self._duration = np.asarray([item.duration_seconds for item in items], dtype=np.float64)
        self._domain = np.asarray([DOMAINS.index(item.domain) for item in items], dtype=np.uint8)
        self._source = np.broadcast_to(np.asarray(source, dtype=np.int16), (len(items),)).copy()

    def __len__(self) -> int:
        return len(self._duration)

    def __getitem__(self, index: int) -> Cut:
        return Cut(
            id=self._ids[index],
            path=Path(self._folders[self._folder[index]], self._names[index]),
            start_seconds=float(self._start[index]),
            duration_seconds=float(self._duration[index]),
            domain=DOMAINS[self._domain[index]],
            source=int(self._source[index]),
        )

    @property
    def durations_seconds(self) -> np.ndarray:
        """(num_cuts,) durations rounded to samples, which is what batches are made of."""
        return np.round(self._duration * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ

    @property
    def is_speech(self) -> np.ndarray:
        """(num_cuts,) whether a cut is speech."""
        return self._domain == DOMAINS.index("speech")
