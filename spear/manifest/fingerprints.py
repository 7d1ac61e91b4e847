"""What a sample of a corpus' recordings was like when stage 1 decoded them, so that others in their place are noticed.

`recordings_sample.json` (`recordings_sample_NAME.json`) beside the cuts, sealed: size and digest of up to 64
recordings, chosen by their names, so that the same corpus gives the same sample.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from spear import fs, records, seal
from spear.errors import DataError

SIZE = 64
_WHOLE_BYTES = 16 << 20  # of larger files, this much in all is read at both ends


class _Recording(msgspec.Struct):
    bytes: records.Count
    sha256: records.Sha256


def write_sample(path: str | Path, root: Path, sources: Iterable[str]) -> None:
    """Writes the sample.

    Args:
        path: of the file.
        root: what relative names are below: the data directory.
        sources: names of all recordings, as the manifests have them.
    """
    names = sorted(set(sources), key=lambda name: hashlib.blake2b(name.encode("utf-8", "surrogateescape")).digest())
    sample = {name: {"bytes": (root / name).stat().st_size, "sha256": digest(root / name)} for name in names[:SIZE]}
    seal.write_json(path, {"of": len(names), "recordings": sample})


def compare_samples(manifests: str | Path) -> tuple[list[str], list[str], int]:
    """Compares the recordings of every sample in a directory of manifests with what they were.

    Returns:
        one line for each recording that is another one, the recordings that are gone (the loader leaves those out by
        name), and how many were looked at.

    Raises:
        DataError: a sample file itself was changed.
    """
    manifests = Path(manifests)
    problems, gone, number = [], [], 0
    for path in fs.finished(manifests, "recordings_sample*.json"):
        sample = records.convert(seal.read_json(path).get("recordings"), dict[str, _Recording], str(path))
        for name, recording in sample.items():
            file = manifests.absolute().parent / name
            number += 1
            if not file.is_file():
                gone.append(str(file))
            elif file.stat().st_size != recording.bytes:
                problems.append(f"{file} has {file.stat().st_size} bytes, {recording.bytes} when stage 1 decoded it")
            elif digest(file) != recording.sha256:
                problems.append(f"{file} is another recording than the one that stage 1 decoded")
    return problems, gone, number


def digest(path: Path) -> str:
    """SHA-256 of a file; of a large one, of its two ends."""
    try:
        size = path.stat().st_size
        if size <= _WHOLE_BYTES:
            return fs.sha256_file(path)
        found = hashlib.sha256()
        with open(path, "rb") as handle:
            found.update(handle.read(_WHOLE_BYTES // 2))
            handle.seek(-(_WHOLE_BYTES // 2), 2)
            found.update(handle.read())
        return found.hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})", "a recording", "correct its rights") from error
