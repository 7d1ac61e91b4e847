"""Large manifests are parsed once: their columns are kept beside them and memory-mapped from then on.

`.cuts.jsonl.index/` beside `cuts.jsonl` holds the arrays of `spear.data.cuts.Columns`, the cuts that cannot be used
(`refused.json`) and, in `index.json`, what the manifest was like when it was parsed. It is made anew when that has
changed, and may be deleted at any time, as may the empty `.cuts.jsonl.index.lock`.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from spear import fs, records, seal
from spear.data.cuts import Columns
from spear.errors import DataError
from spear.log import get_logger

logger = get_logger(__name__)
FORMAT_VERSION = 4
# Smaller manifests are parsed in less than half a second.
SMALLEST_BYTES = 4_000_000
_END_BYTES = 65536


def read_columns(path: str | Path) -> Columns:
    """The cuts of a manifest; see `spear.manifest.iter_items` for its form.

    Raises:
        DataError: a line is not JSON, or no line is a cut that can be used.
    """
    path = Path(path).absolute()
    if path.stat().st_size < SMALLEST_BYTES:
        return _parse(path)
    directory = path.with_name(f".{path.name}.index")
    wanted = _identity(path)
    columns = _load(directory, wanted)
    if columns is not None:
        return columns
    with contextlib.ExitStack() as stack:
        try:
            # All ranks of a run come here at once: the first parses, the others wait and find its index.
            stack.enter_context(fs.locked(directory.with_name(f"{directory.name}.lock")))
            columns = _load(directory, wanted, quiet=True)
        except OSError:
            pass  # a folder that cannot be written to
        if columns is None:
            columns = _parse(path)
            try:
                _write(columns, directory, wanted)
            except OSError as error:
                logger.warning("the index of %s could not be kept, so every start parses it again: %s", path, error)
    return columns


def _load(directory: Path, wanted: dict, quiet: bool = False) -> Columns | None:
    """The columns of an index made from what is wanted, None where there is none."""
    try:
        found = seal.read_json(directory / "index.json") if (directory / "index.json").exists() else {}
        files = found.pop("files", {})
        if found == wanted:
            seal.check_files(directory, records.convert(files, dict[str, str], str(directory / "index.json")))
            columns = Columns.load(directory)
            columns.refused = fs.read_json(directory / "refused.json")
            if columns.refused:
                logger.warning("%s: %d cuts are left out, see %s", wanted["manifest"], len(columns.refused), directory)
            return columns
    except (OSError, EOFError, ValueError, DataError) as error:
        if not quiet:
            logger.warning("the index %s cannot be used and is made again: %s", directory, error)
    return None


def _parse(path: Path) -> Columns:
    from spear.manifest import iter_items  # imports lhotse, which takes seconds; only where it is needed

    refused: list[dict] = []
    columns = Columns(iter_items(path, refused))
    columns.refused = refused
    return columns


def _identity(path: Path) -> dict:
    """What an index was made from. Paths of recordings are relative to the manifest, so its place belongs to it."""
    state, digest = path.stat(), hashlib.sha256()
    with open(path, "rb") as handle:
        digest.update(handle.read(_END_BYTES))
        handle.seek(-min(_END_BYTES, state.st_size), os.SEEK_END)
        digest.update(handle.read())
    return {
        "format": FORMAT_VERSION,
        "manifest": str(path),
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "sha256_of_ends": digest.hexdigest(),
    }


def _write(columns: Columns, directory: Path, identity: dict) -> None:
    """Under a temporary name first, so that a reader never sees half an index."""
    temporary = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", suffix=".tmp", dir=directory.parent))
    try:
        columns.save(temporary)
        fs.write_json(temporary / "refused.json", columns.refused)
        files = seal.digests(temporary, sorted(path.name for path in temporary.iterdir()))
        seal.write_json(temporary / "index.json", {**identity, "files": files})
        temporary.chmod(directory.parent.stat().st_mode & 0o777)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
