"""Row shards: many short (rows, width) arrays in few immutable files, found by id.

A shard is `<prefix>.npy` (a plain NumPy file: `np.load` reads it anywhere) and `<prefix>.json` with the ids, the row
offsets and the checksums. The JSON is written last, so its presence means that the shard is whole. Writing the same
arrays again gives the same bytes. Tokens, sampled embeddings and stored features all use it; there is no HDF5 and no
compression to corrupt.
"""

import contextlib
import glob
import hashlib
import os
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spear import records, seal
from spear.errors import DataError
from spear.fs import atomic, finished, sha256_file

FORMAT = "spear-shard-1"
_HEADER_BYTES = 128
_NOT_SHARDS = ("card.json",)


@dataclass
class _Index:
    """What every shard index has; writers add values of their own."""

    dtype: str
    width: records.PositiveCount
    num_rows: records.Count
    sha256: records.Sha256
    ids: list[str]
    offsets: list[records.Count]
    crc32: list[records.Count]


def _header(dtype: np.dtype, rows: int, width: int) -> bytes:
    """The NumPy 1.0 file header at a fixed size, so that rows can be streamed before their number is known."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": (rows, width)})
    return (
        b"\x93NUMPY\x01\x00"
        + (_HEADER_BYTES - 10).to_bytes(2, "little")
        + text.ljust(_HEADER_BYTES - 11).encode()
        + b"\n"
    )


class ShardWriter(contextlib.AbstractContextManager):
    """Writes one shard; as a context manager it closes on success and leaves nothing behind on failure.

    Args:
        directory: where the shard goes; made when missing.
        prefix: the shard's name, unique in the directory.
        dtype: of the rows.
        width: columns of every row.
        extra: JSON values stored beside the index (a hash of the inputs, for example); may be changed until `close`.
    """

    def __init__(self, directory: str | Path, prefix: str, dtype, width: int, extra: dict[str, Any] | None = None):
        self.directory, self.prefix = Path(directory), prefix
        self.dtype, self.width, self.extra = np.dtype(dtype).newbyteorder("<"), int(width), dict(extra or {})
        self._ids: list[str] = []
        self._offsets = [0]
        self._crc32: list[int] = []
        self.directory.mkdir(parents=True, exist_ok=True)
        # What a killed writer of this very shard left. A second living writer would fail at its rename, not mix data.
        for stale in self.directory.glob(f".{glob.escape(prefix)}.npy.*"):
            stale.unlink(missing_ok=True)
        self._stack = contextlib.ExitStack()
        temporary = self._stack.enter_context(atomic(self.directory / f"{prefix}.npy"))
        self._handle = open(temporary, "wb")
        self._handle.write(_header(self.dtype, 0, self.width))

    def add(self, item_id: str, array: np.ndarray) -> None:
        """Appends one item of shape (rows, width); ids must be unique.

        Raises:
            DataError: another width, number of dimensions or dtype, or an id that is already there.
        """
        array = np.asarray(array)
        if array.ndim != 2 or array.shape[1] != self.width or array.dtype != self.dtype:
            raise DataError(
                f"an array of shape {array.shape} and dtype {array.dtype} for '{item_id}'",
                f"shape (rows, {self.width}) and dtype {self.dtype} for shard {self.directory / self.prefix}",
                "convert it before adding it",
            )
        data = np.ascontiguousarray(array).tobytes()
        self._handle.write(data)
        self._ids.append(item_id)
        self._offsets.append(self._offsets[-1] + len(array))
        self._crc32.append(zlib.crc32(data))

    @property
    def num_rows(self) -> int:
        """Rows added so far."""
        return self._offsets[-1]

    def close(self) -> dict:
        """Finishes the shard and returns its index, which is also the content of `<prefix>.json`.

        Raises:
            DataError: an id was added twice.
        """
        if len(set(self._ids)) != len(self._ids):
            seen: set[str] = set()
            twice = next(i for i in self._ids if i in seen or seen.add(i))
            self.abort()
            raise DataError(f"id '{twice}' twice in shard {self.prefix}", "unique ids", "remove the duplicate")
        index_path = self.directory / f"{self.prefix}.json"
        try:
            self._handle.seek(0)
            self._handle.write(_header(self.dtype, self._offsets[-1], self.width))
            self._handle.close()
            index_path.unlink(missing_ok=True)  # never an old index beside new rows
        except OSError as error:  # a full disk shows when the last rows leave the buffer
            self.abort(error)
            raise
        self._stack.close()
        index = {
            **self.extra,
            "format": FORMAT,
            "dtype": self.dtype.str,
            "width": self.width,
            "num_rows": self._offsets[-1],
            "sha256": sha256_file(self.directory / f"{self.prefix}.npy"),
            "ids": self._ids,
            "offsets": self._offsets,
            "crc32": self._crc32,
        }
        seal.write_json(index_path, index, indent=None)
        return index

    def abort(self, error: BaseException | None = None) -> None:
        """Drops what was written; an `error` of the disk gets the name of the file."""
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(self.directory / f"{self.prefix}.npy")
        with contextlib.suppress(OSError):
            self._handle.close()
        # atomic() removes its temporary file when an exception passes through it.
        with contextlib.suppress(InterruptedError):
            self._stack.__exit__(InterruptedError, InterruptedError(), None)

    def __exit__(self, kind, value, trace) -> None:
        if kind is None:
            self.close()
        else:
            self.abort(value)


def read_index(directory: str | Path, prefix: str) -> dict:
    """The index of one shard, checked for form; the rows are not read.

    Raises:
        DataError: missing, foreign or inconsistent; names the file.
    """
    path = Path(directory) / f"{prefix}.json"
    index = seal.read_json(path, _again(path))
    if index.get("format") != FORMAT:
        raise DataError(f"{path} is not a shard index", f'"format": "{FORMAT}"', "move the foreign file elsewhere")
    checked = records.convert(index, _Index, str(path), _again(path))
    offsets = np.asarray(checked.offsets)
    whole = len(offsets) == len(checked.ids) + 1 == len(checked.crc32) + 1 and offsets[0] == 0
    whole = whole and offsets[-1] == checked.num_rows and bool((offsets[1:] >= offsets[:-1]).all())
    if not whole or not re.fullmatch(r"[|<][uif][1248]", checked.dtype):
        raise DataError(f"{path} contradicts itself", "as many offsets as ids, ascending", _again(path))
    return index


def is_complete(directory: str | Path, prefix: str, **extra: Any) -> bool:
    """Whether the shard is there, whole in size, and was written with these `extra` values."""
    try:
        index = read_index(directory, prefix)
        _check_file(Path(directory) / f"{prefix}.npy", index)
    except DataError:
        return False
    return all(index.get(key) == value for key, value in extra.items())


def _again(path: Path) -> str:
    return f"delete {path.with_suffix('.json')} and run the stage that writes it again"


def _check_file(path: Path, index: dict) -> None:
    """Refuses a row file whose size or header differs from its index."""
    if not path.exists():
        raise DataError(f"no file {path}", f"the rows of {path.with_suffix('.json').name}", _again(path))
    dtype, rows, width = np.dtype(index["dtype"]), index["num_rows"], index["width"]
    size = _HEADER_BYTES + rows * width * dtype.itemsize
    if path.stat().st_size != size:
        raise DataError(f"{path} has {path.stat().st_size} bytes (truncated?)", f"{size} bytes", _again(path))
    with open(path, "rb") as handle:
        if handle.read(_HEADER_BYTES) != _header(dtype, rows, width):
            raise DataError(
                f"{path} has another header than its index", f"{rows} rows of {width} x {dtype}", _again(path)
            )


def shard_names(directory: str | Path) -> list[str]:
    """Names of the finished shards of a directory, sorted.

    Raises:
        DataError: no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"no directory {directory}", "a directory of shards", "run the stage that writes it")
    return [path.stem for path in finished(directory, "*.json") if path.name not in _NOT_SHARDS]


def verify_shards(directory: str | Path) -> list[str]:
    """Reads every byte of every shard; returns one line for each problem, naming the shard and the ids it touches."""
    problems, owner, kinds = [], {}, {}
    for name in shard_names(directory):
        path = Path(directory) / f"{name}.npy"
        try:
            index = read_index(directory, name)
            kinds[name] = (index["dtype"], index["width"])
            _check_file(path, index)
        except DataError as error:
            problems.append(f"shard {name}: {error.found}; expected {error.expected}")
            continue
        if kinds[name] != next(iter(kinds.values())):
            problems.append(f"shard {name}: {kinds[name]}; expected {next(iter(kinds.values()))} as in the first shard")
        twice = [item for item in index["ids"] if owner.setdefault(item, name) != name]
        if twice:
            problems.append(f"shard {name}: also in another shard: {_some(twice)}")
        if sha256_file(path) != index["sha256"]:
            rows = np.load(path, mmap_mode="r")
            spans = zip(index["ids"], index["offsets"], index["offsets"][1:], index["crc32"])
            damaged = [i for i, a, b, crc in spans if zlib.crc32(rows[a:b].tobytes()) != crc]
            problems.append(f"shard {name}: checksum differs; damaged ids: {_some(damaged)}")
    return problems


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


class ShardStore:
    """Reads items by id from a directory of shards.

    The index lives in a few NumPy arrays (about 44 bytes and the id for each item), which forked workers share and
    spawned ones receive by pickle. Items are read with `pread` from at most `max_open_files` descriptors: unlike pages
    of a memory map this adds nothing to a worker's resident memory, and a file cut short while we read it is an error
    with a name instead of a bus error. `memory_map` gives a whole shard where that is wanted.

    Raises:
        DataError: the directory is missing or empty, or holds truncated, foreign or mismatched shards (named).
    """

    def __init__(self, directory: str | Path, max_open_files: int = 32):
        self.directory, self.max_open_files = Path(directory), max_open_files
        self.shards = shard_names(directory)
        if not self.shards:
            raise DataError(f"no finished shard in {directory}", "at least one .npy with its .json", "run its stage")
        card = self.directory / "card.json"
        self.meta: dict = seal.read_json(card) if card.exists() else {}
        self._load_indexes()
        self._reset()

    def _load_indexes(self) -> None:
        names, offsets, starts, checksums, lengths = [], [], [], [], [0]
        for name in self.shards:
            index = read_index(self.directory, name)
            _check_file(self.directory / f"{name}.npy", index)
            kind = (np.dtype(index["dtype"]), index["width"])
            if not lengths[1:]:
                self.dtype, self.width = kind
            elif kind != (self.dtype, self.width):
                raise DataError(
                    f"shard {self.directory / name} has rows of {kind[1]} x {kind[0]}",
                    f"{self.width} x {self.dtype} as in shard {self.shards[0]}",
                    "keep one kind of rows in a directory",
                )
            names.extend(item.encode() for item in index["ids"])
            starts.append(np.asarray(index["offsets"][:-1], dtype=np.int64))
            offsets.append(np.asarray(index["offsets"][1:], dtype=np.int64))
            checksums.append(np.asarray(index["crc32"], dtype=np.uint32))
            lengths.append(lengths[-1] + len(index["ids"]))
        self._shard_starts = np.asarray(lengths, dtype=np.int64)
        self._row_starts, self._row_stops = np.concatenate(starts), np.concatenate(offsets)
        self._crc32 = np.concatenate(checksums)
        self._id_bytes = np.frombuffer(b"".join(names), dtype=np.uint8)
        self._id_offsets = np.concatenate([[0], np.cumsum([len(n) for n in names], dtype=np.int64)]).astype(np.int64)
        keys = np.asarray([_key(name) for name in names], dtype=np.uint64)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        for place in np.flatnonzero(self._keys[1:] == self._keys[:-1]):
            first, second = names[self._order[place]], names[self._order[place + 1]]
            if first == second:
                raise DataError(
                    f"id '{first.decode()}' twice in {self.directory}", "unique ids", "write the directory again"
                )

    def _reset(self) -> None:
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_files", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._reset()

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __len__(self) -> int:
        return len(self._keys)

    def _id(self, index: int) -> str:
        return self._id_bytes[self._id_offsets[index] : self._id_offsets[index + 1]].tobytes().decode()

    @property
    def ids(self) -> list[str]:
        """All ids in the order of the shards (a new list: keep it if you need it twice)."""
        return [self._id(index) for index in range(len(self))]

    @property
    def num_rows(self) -> int:
        """Rows of all items together."""
        return int((self._row_stops - self._row_starts).sum())

    def _find(self, item_id: str) -> int:
        key = np.uint64(_key(item_id.encode()))
        place = int(np.searchsorted(self._keys, key))
        while place < len(self._keys) and self._keys[place] == key:
            index = int(self._order[place])
            if self._id(index) == item_id:
                return index
            place += 1
        return -1

    def _require(self, item_id: str) -> int:
        index = self._find(item_id)
        if index < 0:
            raise DataError(
                f"no item '{item_id}' in {self.directory}", f"one of its {len(self)} ids", "run its stage again"
            )
        return index

    def __contains__(self, item_id: str) -> bool:
        return self._find(item_id) >= 0

    def contains_keys(self, keys: np.ndarray) -> np.ndarray:
        """(n,) whether an id with each of these `id_key`s is there, for millions of them at once."""
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._keys[places] == keys if len(self._keys) else np.zeros(len(keys), dtype=bool)

    def rows(self, item_id: str) -> int:
        """Number of rows of an item, without reading them.

        Raises:
            DataError: no such id.
        """
        index = self._require(item_id)
        return int(self._row_stops[index] - self._row_starts[index])

    def read(self, item_id: str) -> np.ndarray:
        """A writable copy of an item's (rows, width) array.

        Raises:
            DataError: no such id, or the file was cut short, removed, or changed since it was written (named).
        """
        index = self._require(item_id)
        start, stop = int(self._row_starts[index]), int(self._row_stops[index])
        shard = int(np.searchsorted(self._shard_starts, index, side="right")) - 1
        row_bytes = self.width * self.dtype.itemsize
        count = (stop - start) * row_bytes
        with self._lock:
            data = os.pread(self._descriptor(shard), count, _HEADER_BYTES + start * row_bytes)
        if len(data) != count:
            path = self.directory / f"{self.shards[shard]}.npy"
            raise DataError(f"{path} ends inside '{item_id}'", f"{count} bytes of it", _again(path))
        if zlib.crc32(data) != int(self._crc32[index]):
            path = self.directory / f"{self.shards[shard]}.npy"
            raise DataError(f"{path} is damaged at '{item_id}'", "the bytes that its checksum is of", _again(path))
        return np.frombuffer(bytearray(data), dtype=self.dtype).reshape(-1, self.width)

    def _descriptor(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        path = self.directory / f"{self.shards[shard]}.npy"
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise DataError(f"no file {path}", "the rows of a finished shard", _again(path)) from error
        self._files[shard] = descriptor
        while len(self._files) > self.max_open_files:
            os.close(self._files.popitem(last=False)[1])
        return descriptor

    def memory_map(self, shard: str) -> np.ndarray:
        """All rows of one shard, read-only and memory-mapped, shape (rows, width)."""
        if read_index(self.directory, shard)["num_rows"] == 0:
            return np.zeros((0, self.width), dtype=self.dtype)
        return np.load(self.directory / f"{shard}.npy", mmap_mode="r")

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """(id, array) of every item, in the order of the shards."""
        for index in range(len(self)):
            item_id = self._id(index)
            yield item_id, self.read(item_id)

    def verify(self) -> list[str]:
        """Reads everything and compares checksums; one line for each problem, naming shard and ids."""
        return verify_shards(self.directory)


def id_key(item_id: str) -> int:
    """A 64-bit number that stands for an id. Of ten million ids, two share one with a probability of 3 in a million."""
    return _key(item_id.encode("utf-8", "surrogateescape"))


def _key(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
