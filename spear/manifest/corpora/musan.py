"""MUSAN: music, speech and noise for mixing; only its noise is taken."""

from pathlib import Path

from spear.errors import DataError
from spear.manifest.scan import Scan, scan


def musan(raw: Path, kind: str) -> Scan:
    """The recordings of musan/noise, each labelled as noise; music and speech are left out.

    Takes the folder with music/, noise/ and speech/, or the one above it. Ids are the names of the files.

    Raises:
        DataError: no folder noise.
    """
    root = raw / "musan" if (raw / "musan").is_dir() else raw
    if not (root / "noise").is_dir():
        names = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise DataError(f"{root} with {names}", "MUSAN's folders music, noise and speech", "correct the path")
    found = scan(root / "noise", kind)
    for entry in found.entries:
        entry.path = (root / "noise" / entry.path).relative_to(raw).as_posix()
        entry.id, entry.labels = Path(entry.path).stem, {"class": "noise"}
    for refused in found.refused:
        refused["path"] = (root / "noise" / refused["path"]).relative_to(raw).as_posix()
    return Scan(found.entries, found.refused, has_manifest=False, ignored_files=found.ignored_files)
