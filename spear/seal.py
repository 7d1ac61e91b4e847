"""Sealed JSON: small files that say what else there is, and that notice when a byte of them is another one.

A sealed file holds, at its top level, the SHA-256 of its own text (with an empty seal in its place). Files that belong
to it are listed by name with their digests, so that one mechanism covers checkpoints, models, plans, shards, quantizers
and cards. What older versions wrote without a seal can still be read; that is said once for each directory.
"""

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spear import fs, log
from spear.errors import DataError

KEY = "seal_sha256"
_SEALED = re.compile(rf'"{KEY}": "([0-9a-f]*)"')
_told: set[Path] = set()
logger = log.get_logger(__name__)


def write_json(path: str | Path, values: Mapping[str, Any], indent: int | None = 2) -> None:
    """Writes JSON with its seal, atomically; equal values give equal bytes.

    Raises:
        ValueError: the values hold a seal somewhere below the top level.
    """
    text = fs.json_text({**values, KEY: ""}, indent) + "\n"
    if len(_SEALED.findall(text)) != 1:
        raise ValueError(f"values for {path} that hold sealed values of others")
    digest = fs.sha256_bytes(text.encode())
    fs.write_text(path, _SEALED.sub(f'"{KEY}": "{digest}"', text))


def read_json(path: str | Path, fix: str = "copy it again, or run the stage that writes it") -> dict[str, Any]:
    """Reads a sealed JSON object; the seal itself is not among the values.

    Raises:
        DataError: missing, not a JSON object, or not as it was written; names the file.
    """
    path = Path(path)
    values = fs.read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a JSON {type(values).__name__}", "a JSON object", fix)
    if values.pop(KEY, None) is None:
        if any(_is_nearly_key(name) for name in values):
            raise DataError(
                f"{path} was changed or damaged after it was written (in the name of its seal)", "the file", fix
            )
        if path.parent not in _told:
            _told.add(path.parent)
            logger.info("%s has no seal (an older version wrote it): whether it was changed is not known", path)
        return values
    text = path.read_text(encoding="utf-8")
    found = _SEALED.findall(text)
    if len(found) != 1 or fs.sha256_bytes(_SEALED.sub(f'"{KEY}": ""', text).encode()) != found[0]:
        raise DataError(f"{path} was changed or damaged after it was written (its seal does not fit)", "the file", fix)
    return values


def _is_nearly_key(name: str) -> bool:
    """Whether a name is that of the seal but for a letter or two: damaged files are no older version's."""
    return len(name) == len(KEY) and sum(a != b for a, b in zip(name, KEY)) <= 2


@contextlib.contextmanager
def while_reading(path: str | Path, digest: str | None, fix: str = "copy the directory again") -> Iterator[None]:
    """Compares a file with its digest in a thread of its own, while the block reads it.

    Args:
        path: of the file.
        digest: its SHA-256; None when nobody knows it: then nothing is compared.
        fix: what to do about another file.

    Raises:
        DataError: after the block, or instead of an error in it: the file is not the one that was written.
    """
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(fs.sha256_file(path)), name="checksum")
    if digest is not None:
        thread.start()
    error = None
    try:
        yield
    except Exception as raised:  # what is wrong with a damaged file is its damage
        error = raised
    if digest is not None:
        thread.join()
        if found != [digest]:
            raise DataError(f"{path} is truncated or altered", f"the file with SHA-256 {digest[:12]}", fix) from error
    if error is not None:
        raise error


def digests(directory: str | Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of a directory by name, to be listed in a sealed file beside them."""
    return {name: fs.sha256_file(Path(directory) / name) for name in names}


def check_files(directory: str | Path, files: Mapping[str, str], fix: str = "copy the directory again") -> None:
    """Compares files with the digests that a sealed file lists.

    Raises:
        DataError: a file is missing, cut off or another one (it is named), or a name leads out of the directory.
    """
    for name, digest in files.items():
        path = Path(directory) / name
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
            raise DataError(f"a file named {name!r} in what describes {directory}", "names without folders", fix)
        if not path.is_file() or fs.sha256_file(path) != digest:
            state = "missing" if not path.is_file() else "truncated or altered"
            raise DataError(f"{path} is {state}", f"the file with SHA-256 {str(digest)[:12]}", fix)
