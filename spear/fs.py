"""Files that are either whole or absent: temporary name, sync, rename."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from spear.errors import DataError

try:
    import fcntl
except ImportError:
    fcntl = None


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed, on failure removed.

    A reader therefore never sees half a file, whatever moment the writer is killed at.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; give the result the mode that open() would have given it.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def finished(directory: str | Path, pattern: str) -> list[Path]:
    """Sorted paths below a directory that fit a pattern, without what `atomic` is writing or was killed in."""
    return sorted(path for path in Path(directory).glob(pattern) if not path.name.startswith("."))


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Waits until no other process holds the lock file `path`, and holds it inside the block.

    The kernel gives the lock back when its process ends, however that happens. The file stays. Where there are no such
    locks (Windows), nobody waits.
    """
    with open(path, "w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON with sorted keys atomically, so that equal content gives equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        DataError: the file is missing or is not JSON; the message names it.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"no file {path}", "a JSON file", "run the stage that writes it, or correct the path"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON ({error})", "a complete JSON file", "delete it and run its stage again"
        ) from error


def write_jsonl(path: str | Path, items: Iterable[dict]) -> int:
    """Writes one JSON object a line atomically; returns how many."""
    count = 0
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for item in items:
            handle.write(json.dumps(item, sort_keys=True, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: str | Path) -> list[dict]:
    """Reads a JSONL file.

    Raises:
        DataError: the file is missing, or a line is not JSON; the message names the file and the line.
    """
    return list(iter_jsonl(path))


def iter_jsonl(path: str | Path) -> Iterator[dict]:
    """The objects of a JSONL file, one after the other, so that no more than one is in memory.

    Raises:
        DataError: see `read_jsonl`.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no file {path}", "a JSONL file", "run the stage that writes it, or correct the path")
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            try:
                item = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"line {number} of {path} is not JSON ({error})",
                    "one JSON object on every line",
                    "delete the file and run its stage again",
                ) from error
            yield item


def sha256_bytes(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a value's canonical JSON."""
    return sha256_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(handle)


def _slow(handle) -> str:
    # hashlib.file_digest came with Python 3.11.
    digest = hashlib.sha256()
    while piece := handle.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def free_bytes(path: str | Path) -> int:
    """Free bytes on the disk that holds `path` (which need not exist yet)."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def human_bytes(count: float) -> str:
    """1234567 -> '1.2 MB' (decimal units, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
