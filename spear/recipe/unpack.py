"""`spear recipe unpack`: an archive from somebody else becomes a folder, whole or not at all; nothing in it is run.

The archive is read once, from its begin to its end, by the strict rules of `spear.recipe.archive`: each member must be
the next file of the list that comes first, with its size and digest. Nothing else is tolerated, and no more is read or
written than the list states, which itself must fit the archive and the disk.
"""

import contextlib
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from spear import fs, records, seal
from spear.errors import ConfigError, DataError
from spear.recipe.archive import MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES, PackedFile, PackManifest, list_problem
from spear.recipe.inventory import shown
from spear.recipe.new import whole

DEFAULT_GIGABYTES = 100.0
_BLOCK_BYTES = 512
_MAX_PADDING_BYTES = 20 * _BLOCK_BYTES
_PIECE_BYTES = 1 << 20
_MAX_RATIO = 200  # of what is unpacked to the archive: manifests of similar lines reach 30
_TYPES = {
    **dict.fromkeys((tarfile.LNKTYPE, tarfile.SYMTYPE), "a link"),
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE), "a device"),
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder of its own",
    **dict.fromkeys((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE), "an extended header"),
    **dict.fromkeys((tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK), "an extended header"),
    tarfile.GNUTYPE_SPARSE: "a file with holes",
}


def unpack_recipe(archive: str | Path, directory: str | Path, max_gigabytes: float = DEFAULT_GIGABYTES) -> PackManifest:
    """Unpacks an archive of `pack_recipe` into a new directory, and returns its list.

    Args:
        archive: the file.
        directory: to make; an empty one will do.
        max_gigabytes: that the files may have together.

    Raises:
        ConfigError: something is in the directory already. DataError: the archive is cut off, damaged, or not what
            `pack_recipe` writes; the member and what is wrong with it are named, and nothing is left behind.
    """
    place, archive = Path(directory), Path(archive)
    if place.is_symlink() or (place.exists() and any(place.iterdir() if place.is_dir() else [place])):
        raise ConfigError(f"{place}, which exists", "a new directory", "choose another, or remove it")
    if not archive.is_file():
        raise DataError(f"no file {archive}", "an archive of `spear recipe pack`", "correct the path")
    with whole(place) as draft:
        return extract(archive, draft, max_gigabytes)


def extract(archive: Path, draft: Path, max_gigabytes: float = DEFAULT_GIGABYTES) -> PackManifest:
    """Unpacks into an empty directory that the caller removes when this raises DataError, see `unpack_recipe`."""
    with open(archive, "rb") as handle, _opened(handle) as stream:
        reader = _Reader(stream, str(archive))
        manifest = _manifest(reader, draft, archive.stat().st_size, max_gigabytes)
        expected = {file.name: file for file in manifest.files}
        for name, size in reader.members():
            file = expected.pop(name, None)
            if file is None:
                listed = any(name == other.name for other in manifest.files)
                raise reader.refused(name, "a name that comes twice" if listed else f"not in {MANIFEST}")
            if size != file.size_bytes:
                raise reader.refused(name, f"{size} bytes, {file.size_bytes} in {MANIFEST}")
            _write(reader, draft / name, file)
        if expected:
            raise reader.refused(next(iter(expected)), f"missing, and in {MANIFEST}")
    return manifest


@contextlib.contextmanager
def _opened(handle: BinaryIO) -> Iterator[BinaryIO]:
    begin = handle.read(2)
    handle.seek(0)
    with gzip.GzipFile(fileobj=handle) if begin == b"\x1f\x8b" else contextlib.nullcontext(handle) as stream:
        yield stream


class _Reader:
    """The members of a tar archive, in their order, and never more of them in memory than a piece."""

    def __init__(self, stream: BinaryIO, name: str):
        self._stream, self._name, self._unread = stream, name, 0

    def refused(self, member: str, reason: str) -> DataError:
        """The error that names a member."""
        found = f"{self._name}: {shown(member)}: {reason}"
        return DataError(found, "an archive as `spear recipe pack` writes it", "ask for another copy; use none of it")

    def take(self, size: int, member: str = "the archive") -> bytes:
        """The next `size` bytes."""
        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise self.refused(member, f"cut off or damaged ({error})") from error
        if len(data) != size:
            raise self.refused(member, "cut off")
        return data

    def members(self) -> Iterator[tuple[str, int]]:
        """(name, bytes) of each file; the content has to be taken (`content`) before the next one."""
        while True:
            block = self.take(_BLOCK_BYTES)
            if not any(block):
                self._end()
                return
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.TarError, ValueError) as error:
                raise self.refused("the archive", f"a damaged header ({error})") from error
            if header.type != tarfile.REGTYPE:
                raise self.refused(header.name, f"{_TYPES.get(header.type, 'an unknown kind of member')}")
            if header.mode & 0o7000:
                raise self.refused(header.name, "rights of another user (setuid)")
            yield header.name, header.size

    def content(self, member: str, size: int) -> Iterator[bytes]:
        """The content of a member, in pieces."""
        unread = size
        while unread:
            piece = self.take(min(unread, _PIECE_BYTES), member)
            unread -= len(piece)
            yield piece
        if any(self.take(-size % _BLOCK_BYTES, member)):
            raise self.refused(member, "more bytes than its size")

    def _end(self) -> None:
        try:
            rest = self._stream.read(_MAX_PADDING_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise self.refused("the end", f"cut off or damaged ({error})") from error
        if any(rest) or len(rest) > _MAX_PADDING_BYTES or len(rest) < _BLOCK_BYTES:
            raise self.refused("the end", "cut off" if len(rest) < _BLOCK_BYTES else "more than the archive's members")


def _manifest(reader: _Reader, draft: Path, archive_bytes: int, max_gigabytes: float) -> PackManifest:
    """Reads the list, and refuses one that cannot be what it says before anything else is read."""
    name, size = next(reader.members(), ("", 0))
    if name != MANIFEST:
        raise reader.refused(name or "the archive", f"first, where {MANIFEST} should be")
    if size > MAX_MANIFEST_BYTES:
        raise reader.refused(MANIFEST, f"{fs.human_bytes(size)}, a giant header")
    with open(draft / MANIFEST, "wb") as handle:
        for piece in reader.content(MANIFEST, size):
            handle.write(piece)
    try:
        manifest = records.convert(seal.read_json(draft / MANIFEST), PackManifest, MANIFEST)
    except DataError as error:
        raise reader.refused(MANIFEST, error.found.replace(str(draft / MANIFEST), "it")) from error
    if len(manifest.files) > MAX_FILES:
        raise reader.refused(MANIFEST, f"{len(manifest.files)} files, over {MAX_FILES}")
    wrong, reason = list_problem(file.name for file in manifest.files)
    if reason:
        raise reader.refused(wrong, reason)
    total = sum(file.size_bytes for file in manifest.files)
    text = fs.human_bytes(total)
    if total > max_gigabytes * 1e9:
        raise reader.refused(MANIFEST, f"{text} of files, over the limit of {max_gigabytes:g} GB (--max-gigabytes)")
    if total > _MAX_RATIO * archive_bytes + (1 << 20):
        raise reader.refused(MANIFEST, f"{text} of files in {fs.human_bytes(archive_bytes)}: a bomb")
    if total > fs.free_bytes(draft):
        raise DataError(f"{text} in {MANIFEST}", "room on the disk for it", "make room, or unpack elsewhere")
    return manifest


def _write(reader: _Reader, path: Path, file: PackedFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    digest = hashlib.sha256()
    with open(os.open(path, flags, 0o777 if file.executable else 0o666), "wb") as handle:
        for piece in reader.content(file.name, file.size_bytes):
            digest.update(piece)
            handle.write(piece)
    if digest.hexdigest() != file.sha256:
        raise reader.refused(file.name, f"another content than {MANIFEST} says (SHA-256)")
