"""The format of packed recipes: a tar archive (USTAR, plain or gzipped) whose first member lists all the others.

The list, `PACK.json`, holds name, size and SHA-256 of every file, and is sealed. There are regular files only: no
folders, links or extended headers. Equal content gives equal bytes: names are sorted, times and owners are zero.
"""

import gzip
import hashlib
import io
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from spear import fs, records, seal
from spear.errors import DataError
from spear.recipe.inventory import shown

MANIFEST = "PACK.json"
FORMAT = "spear-pack-1"
MAX_FILES = 200_000
MAX_MANIFEST_BYTES = 64 << 20
MAX_FILE_BYTES = (1 << 33) - 1  # what a header of USTAR can state
# Names that Windows takes for devices.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}


@dataclass(frozen=True)
class PackedFile:
    """One file of an archive.

    Attributes:
        name: its path in the recipe, with slashes.
        size_bytes, sha256: of its content.
        executable: whether it may be run once unpacked.
    """

    name: str
    size_bytes: records.Count
    sha256: records.Sha256
    executable: bool = False


@dataclass(frozen=True)
class PackManifest:
    """What an archive says about itself.

    Attributes:
        format: of the archive.
        spear_version, commit: of the spear that packed it.
        audio: folders, relative to the data directory, in which the manifests' recordings are; none of them is packed.
        files: all files but the list itself, sorted by name.
    """

    format: Literal["spear-pack-1"]
    spear_version: str
    commit: str
    audio: list[str]
    files: list[PackedFile]


def name_problem(name: str) -> str:
    """Why a file may not have that name in an archive; empty when it may."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or ":" in name:
        return "an absolute path, or one of Windows"
    if ".." in parts:
        return "a path that leaves the folder (..)"
    if not name.isprintable() or any(part.strip(" .") != part or not part for part in parts):
        return "a hidden, empty or unprintable name"
    if any(part.split(".")[0].lower() in _DEVICES for part in parts):
        return "the name of a device"
    try:
        fits = len(name.encode()) <= 255 and tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError:
        fits = False
    return "" if fits else "too long a name, or not UTF-8"


def list_problem(names: Iterable[str]) -> tuple[str, str]:
    """The first name of a list that cannot be, and why; two empty texts when all can be.

    Names that some file systems take for one (upper and lower case, accents written differently) count as equal.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        if reason := name_problem(name):
            return name, reason
        key = unicodedata.normalize("NFC", name).casefold()
        above = {key[:place] for place, character in enumerate(key) if character == "/"}
        if key in files or key == MANIFEST.casefold():
            return name, "a name that comes twice"
        if key in folders or above & files:
            return name, "both a file and a folder"
        files.add(key)
        folders |= above
    return "", ""


class ArchiveWriter:
    """Writes an archive: first the list, then its files in this order.

    Args:
        path: of the archive; gzipped when it ends with .gz or .tgz.
        handle: the opened file to write to.
    """

    def __init__(self, path: str | Path, handle: BinaryIO):
        self._compressed = None
        if str(path).endswith((".gz", ".tgz")):  # without a name and a time, which would differ
            self._compressed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=handle, mtime=0)
        self._tar = tarfile.TarFile(
            fileobj=self._compressed or handle, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8"
        )

    def write_manifest(self, manifest: PackManifest) -> None:
        """The list, as the first member."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / MANIFEST
            seal.write_json(place, asdict(manifest))
            data = place.read_bytes()
        self._tar.addfile(_header(MANIFEST, len(data)), io.BytesIO(data))

    def write_file(self, file: PackedFile, source: Path) -> None:
        """One file.

        Raises:
            DataError: it is not what the list says any more.
        """
        changed = DataError(f"{source} changed while it was packed", "a recipe at rest", "pack it again")
        if source.stat().st_size != file.size_bytes:
            raise changed
        with open(source, "rb") as handle:
            hashing = _Hashing(handle)
            try:
                self._tar.addfile(_header(file.name, file.size_bytes, file.executable), hashing)
            except OSError as error:
                if error.errno is None:  # tarfile's own: the file became shorter
                    raise changed from error
                raise
        if hashing.digest.hexdigest() != file.sha256:
            raise changed

    def close(self) -> None:
        """Ends the archive."""
        self._tar.close()
        if self._compressed:
            self._compressed.close()


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, handle: BinaryIO):
        self._handle, self.digest = handle, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._handle.read(size)
        self.digest.update(data)
        return data


def _header(name: str, size_bytes: int, executable: bool = False) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size_bytes, 0o755 if executable else 0o644
    return header


def listed(name: str, path: Path) -> PackedFile:
    """The entry of a file in the list.

    Raises:
        DataError: it is larger than the format can state.
    """
    status = path.stat()
    if status.st_size > MAX_FILE_BYTES:
        raise DataError(f"{shown(name)} of {fs.human_bytes(status.st_size)}", "files below 8 GiB", "leave it out")
    runnable = bool(status.st_mode & 0o100) and name.endswith((".sh", ".py"))
    return PackedFile(name, status.st_size, fs.sha256_file(path), runnable)
