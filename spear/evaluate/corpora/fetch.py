"""Archives of the corpora: where they are, their checksums and licences; download with resumption, check, unpack."""

import gzip
import hashlib
import tarfile
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from spear import fs
from spear.errors import DataError
from spear.log import Progress, get_logger

logger = get_logger(__name__)
_BLOCK_BYTES = 1 << 20
_CONTENT_PER_ARCHIVE = 2  # bytes of audio and lists for one of the archive, at most


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        urls: the first that works is used.
        checksum: `md5:...` or `sha256:...`; empty where its publisher gives none.
        unpacked: what is there once it is unpacked, relative to the corpus folder; of a plain file, the file.
        into: the folder it is unpacked in.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str
    unpacked: str
    into: str = "."


def _openslr(number: int, name: str) -> tuple[str, ...]:
    hosts = ("www.openslr.org", "openslr.trmal.net", "openslr.elda.org", "openslr.magicdatatech.com")
    return tuple(f"https://{host}/resources/{number}/{name}" for host in hosts)


def _librispeech(split: str, md5: str) -> Archive:
    return Archive(f"{split}.tar.gz", _openslr(12, f"{split}.tar.gz"), f"md5:{md5}", f"LibriSpeech/{split}")


def _speech_commands(name: str, checksum: str) -> Archive:
    hosts = ("storage.googleapis.com/download.tensorflow.org", "download.tensorflow.org")
    urls = tuple(f"https://{host}/data/{name}.tar.gz" for host in hosts)
    return Archive(f"{name}.tar.gz", urls, checksum, f"{name}/yes", name)


ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "librispeech": (
        _librispeech("dev-clean", "42e2234ba48799c1f50f24a7926300a1"),
        _librispeech("test-clean", "32fa31d27d2e1cad72775fee3f4849a9"),
        _librispeech("train-clean-100", "2a93770f6d5c6c964bc36631d331a522"),
        Archive("librispeech-lexicon.txt", _openslr(11, "librispeech-lexicon.txt"), "", "librispeech-lexicon.txt"),
    ),
    "speech_commands": (
        _speech_commands(
            "speech_commands_v0.01", "sha256:743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d"
        ),
        _speech_commands("speech_commands_test_set_v0.01", ""),
    ),
    "voxceleb": (),
    "hear": (),
    "esc50": (),
    "arch": (),
    "tags": (),
}
LICENCES = {
    "librispeech": "LibriSpeech is CC BY 4.0 (Panayotov et al., 2015); about 7 GB are downloaded",
    "speech_commands": "Speech Commands is CC BY 4.0 (Warden, 2018); about 1.6 GB are downloaded",
    "voxceleb": "VoxCeleb1 is for research alone and needs a form; it is not downloaded here",
    "arch": "ARCH: each of the twelve corpora has its own licence; none is downloaded here",
    "tags": "AudioSet's clips are YouTube's, FSD50K's have their own licences; none is downloaded here",
    "esc50": "ESC-50: CC BY-NC 3.0; it is not downloaded here",
    "hear": "HEAR 2021: each task has its own licence (most CC BY, some for research); it is not downloaded here",
}


def fetch(corpus: str, raw: Path, archives: tuple[Archive, ...] | None = None) -> list[str]:
    """Downloads and unpacks what is missing of a corpus; an interrupted download continues where it was.

    Returns:
        Names of the archives that were missing.

    Raises:
        DataError: no mirror works, or a file differs from its checksum.
    """
    logger.info("licence: %s", LICENCES.get(corpus, "see the corpus"))
    missing = [a for a in (archives or ARCHIVES[corpus]) if not (raw / a.unpacked).exists()]
    raw.mkdir(parents=True, exist_ok=True)
    for archive in missing:
        path = raw / archive.name
        if not path.exists():
            _download(archive, path)
        elif not _matches(path, archive.checksum):
            raise DataError(
                f"{path} of {fs.human_bytes(path.stat().st_size)}, which differs from its checksum",
                f"the published file, {archive.checksum}",
                "delete it and run again, which downloads it, or put a whole copy there",
            )
        if path == raw / archive.unpacked:
            continue
        (raw / archive.into).mkdir(exist_ok=True)
        unpack(path, raw / archive.into)
        if not (raw / archive.unpacked).exists():
            raise DataError(
                f"{path} without {archive.unpacked}", "the published archive", f"delete {path} and run again"
            )
        path.unlink()
    return [archive.name for archive in missing]


def unpack(path: Path, directory: Path) -> None:
    """Unpacks an archive, none of whose members may lie outside of the directory.

    Raises:
        DataError: it is damaged, has a member that may not be unpacked (outside, a device, a link to elsewhere), or the
            disk has no room for it.
    """
    needed, free = _CONTENT_PER_ARCHIVE * path.stat().st_size, fs.free_bytes(directory)
    if free < needed:
        raise DataError(
            f"{path}, and {fs.human_bytes(free)} of free disk",
            f"{fs.human_bytes(needed)} for its content",
            "make room, or choose another output",
        )
    try:
        with tarfile.open(path) as tar:
            _unpack(tar, path, directory)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise DataError(f"{path} cannot be unpacked ({error})", "a whole archive", "fetch it again") from error


def _unpack(tar: tarfile.TarFile, path: Path, directory: Path) -> None:
    if hasattr(tarfile, "data_filter"):
        tar.extractall(directory, filter="data")
    else:
        # Python before 3.10.12 and 3.11.4.
        root = directory.resolve()
        for member in tar.getmembers():
            if not (member.isfile() or member.isdir()) or not (root / member.name).resolve().is_relative_to(root):
                raise DataError(
                    f"{path} with the member {member.name}, a link or outside of {directory}",
                    "files and folders inside it, with this version of Python",
                    "unpack it by hand, or use Python 3.10.12, 3.11.4 or later",
                )
        tar.extractall(directory)


def _download(archive: Archive, path: Path) -> None:
    partial = path.with_suffix(path.suffix + ".part")
    reasons = []
    for url in archive.urls:
        try:
            _continue(url, partial)
        except (OSError, urllib.error.URLError) as error:
            reasons.append(f"{url}: {error}")
            continue
        if _matches(partial, archive.checksum):
            partial.rename(path)
            return
        reasons.append(f"{url}: another checksum than {archive.checksum}")
        partial.unlink()
    raise DataError(
        f"{archive.name} could not be downloaded ({'; '.join(reasons)})",
        "a mirror that answers with the published file",
        f"try again later, or put the file into {path.parent} yourself",
    )


def _continue(url: str, partial: Path) -> None:
    """Appends to what is there already; starts again where the server cannot continue."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            return
        raise
    with response:
        continued = response.status == 206
        total = int(response.headers.get("Content-Length") or 0)
        needed = total * (1 if Path(partial.stem).suffix == ".txt" else 1 + _CONTENT_PER_ARCHIVE)
        if fs.free_bytes(partial) < needed:
            raise OSError(f"{fs.human_bytes(needed)} of disk are needed for {fs.human_bytes(total)} and its content")
        progress = Progress(max(total, 1), partial.stem, "bytes")
        with open(partial, "ab" if continued else "wb") as handle:
            while block := response.read(_BLOCK_BYTES):
                handle.write(block)
                progress.update(len(block))
    if total and partial.stat().st_size != total + (have if continued else 0):
        raise OSError(f"{partial.stat().st_size} bytes of {total}")


def _matches(path: Path, checksum: str) -> bool:
    if not checksum:
        logger.warning("%s: its publisher gives no checksum; only its size was compared", path.stem)
        return True
    kind, _, expected = checksum.partition(":")
    digest = hashlib.new(kind)
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == expected
