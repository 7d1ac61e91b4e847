"""Files that are either whole or absent: temporary name, sync, rename; and text, read as it was written."""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
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
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # nobody knows the temporary name
        raise
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
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name):
            error.filename = str(path)  # a full disk does not say what was written
        raise


@contextlib.contextmanager
def together() -> Iterator[Callable[[str | Path], Path]]:
    """Files that appear together or not at all: yields a function from a path to the temporary one to write to.

    They are renamed when the block ends, the one that was asked for first at last.
    """
    with contextlib.ExitStack() as stack:
        yield lambda path: stack.enter_context(atomic(path))


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


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON with sorted keys. File names that are not UTF-8 (surrogates in Python) become escapes, and stay readable."""
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False)
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, sort_keys=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON with sorted keys atomically, so that equal content gives equal bytes."""
    write_text(path, json_text(value) + "\n")


def parse_json(text: str, where: str, expected: str = "a complete JSON value", fix: str = "") -> Any:
    """A JSON value.

    Raises:
        DataError: it is none; `where` (a file, a line) is named.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # brackets in brackets by the thousand
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise DataError(
            f"{where} is not valid JSON ({reason})", expected, fix or "delete the file and run its stage again"
        ) from error


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        DataError: the file is missing, cannot be read or is not JSON; the message names it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"no file {path}", "a JSON file", "run the stage that writes it, or correct the path"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error})",
            "a JSON file in UTF-8",
            "correct the path or the rights, or write it again",
        ) from error
    return parse_json(text, str(path), "a complete JSON file", "delete it and run its stage again")


def write_jsonl(path: str | Path, items: Iterable[dict]) -> int:
    """Writes one JSON object a line atomically; returns how many."""
    count = 0
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as handle:
        for item in items:
            handle.write(json_text(item, indent=None) + "\n")
            count += 1
    return count


def read_jsonl(path: str | Path) -> list[dict]:
    """Reads a JSONL file.

    Raises:
        DataError: the file is missing, or a line is not JSON; the message names the file and the line.
    """
    return list(iter_jsonl(path))


def iter_jsonl(path: str | Path) -> Iterator[dict]:
    """The objects of a JSONL file (gzipped or not), one after the other, so that no more than one is in memory.

    Raises:
        DataError: see `read_jsonl`.
    """
    for number, line in iter_lines(path):
        where = f"line {number} of {path}"
        item = parse_json(line, where, "one JSON object on every line")
        if not isinstance(item, dict):
            raise DataError(
                f"{where} is JSON, but a {type(item).__name__}",
                "one JSON object on every line",
                "delete the file and run its stage again",
            )
        yield item


# What a file begins with when it is text in another encoding than UTF-8.
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_MAX_LINE_BYTES = 1 << 28


def iter_lines(path: str | Path, escape: bool = False) -> Iterator[tuple[int, str]]:
    """(number from 1 on, line) of a text file in UTF-8, without line ends.

    Lines end with \\n or \\r\\n alone: U+2028, U+0085, form feeds and the like are text. A byte order mark is dropped.
    Gzipped files are known by their content, whatever they are called.

    Args:
        path: of the file.
        escape: bytes that are not UTF-8 become surrogates, as in Python's file names, so that a caller can refuse one
            line by name and go on; False: the first one is an error.

    Raises:
        DataError: no such file, one that cannot be read, a damaged gzip, or another encoding; names file and line.
    """
    path, number = Path(path), 0
    try:
        with open(path, "rb") as plain:
            begin = plain.read(4)
            mark = next((name for mark, name in _BYTE_ORDER_MARKS.items() if begin.startswith(mark)), "")
            if not mark and len(begin) == 4 and any(begin[:2]):  # two ASCII characters, without a mark
                mark = {(1, 3): "UTF-16LE", (0, 2): "UTF-16BE"}.get(tuple(n for n in range(4) if not begin[n]), "")
            if mark:
                raise DataError(f"{path} is text in {mark}", "UTF-8", f"convert it: iconv -f {mark} -t UTF-8 FILE")
            plain.seek(0)
            with gzip.open(plain) if begin.startswith(b"\x1f\x8b") else contextlib.nullcontext(plain) as handle:
                while line := handle.readline(_MAX_LINE_BYTES):
                    number += 1
                    yield number, _decoded(line, number, path, escape)
    except FileNotFoundError as error:
        raise DataError(
            f"no file {path}", "a text file", "run the stage that writes it, or correct the path"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is a damaged gzip file, after line {number} ({error})", "a whole file", "fetch or write it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})", "a text file", "correct the path or the rights") from error


def _decoded(line: bytes, number: int, path: Path, escape: bool) -> str:
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        return line.decode("utf-8", "surrogateescape" if escape else "strict")
    except UnicodeDecodeError as error:
        raise DataError(
            f"line {number} of {path} is not UTF-8 (byte 0x{line[error.start]:02x} at place {error.start + 1})",
            "text in UTF-8",
            "convert it, for example: iconv -f CP1252 -t UTF-8 FILE",
        ) from error


def sha256_bytes(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a value's canonical JSON."""
    return sha256_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    # Large pieces: between two of them a thread waits for its turn, which other threads may hold for 5 ms.
    with open(path, "rb", buffering=0) as handle:
        piece = memoryview(bytearray(min(1 << 24, max(1 << 12, os.fstat(handle.fileno()).st_size))))
        while size := handle.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()


def state_of(path: str | Path) -> tuple[int, int]:
    """Bytes and time of change; zeros where there is no such file (any more), which is told when it is read."""
    try:
        state = os.stat(path)
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


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
