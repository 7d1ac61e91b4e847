"""Finding the recordings of a folder: its manifest.tsv, or simply all audio files below it. Nothing is opened here."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from spear.errors import DataError
from spear.manifest.item import DOMAIN_OF_KIND

READABLE = {
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
    ".snd",
    ".sph",
    ".caf",
    ".w64",
}
UNREADABLE = {".m4a", ".aac", ".wma", ".mp4", ".webm", ".amr", ".mka", ".ape"}
REQUIRED_COLUMNS = ("id", "path")


@dataclass
class Entry:
    """One recording, or segment of one, that the corpus claims to have.

    Attributes:
        id, path, kind: of the item; the path is relative to the corpus' folder.
        duration_seconds: as the corpus states it.
        speaker, text, phones, labels: what is known.
        columns: the manifest's further columns, such as split.
        start_seconds: where a segment starts in its recording; None for a whole recording.
        recording: id of a segment's recording.
        heldout: the corpus itself keeps it for development or test.
    """

    id: str
    path: str
    kind: str
    duration_seconds: float | None = None
    speaker: str | None = None
    text: str | None = None
    phones: list[str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    start_seconds: float | None = None
    recording: str | None = None
    heldout: bool = False

    def to_dict(self) -> dict:
        """JSON-able fields."""
        return asdict(self)


@dataclass
class Scan:
    """What was found: entries to examine, entries refused with a reason, and whether a manifest listed them."""

    entries: list[Entry]
    refused: list[dict]
    has_manifest: bool
    ignored_files: int = 0


def scan(raw: str | Path, kind: str = "speech") -> Scan:
    """Lists the recordings of a folder, sorted by id.

    Args:
        raw: a folder with manifest.tsv, or with audio files anywhere below it (links to files are followed).
        kind: of recordings whose kind is not stated.

    Raises:
        DataError: no such folder, no audio in it, or a manifest without its header.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise DataError(f"no folder {raw}", "a folder with manifest.tsv or audio files", "correct the path")
    found = _read_manifest(raw, kind) if (raw / "manifest.tsv").is_file() else _walk(raw, kind)
    if not found.entries and not found.refused:
        raise DataError(
            f"no audio file in {raw}",
            "files ending in " + ", ".join(sorted(READABLE)),
            "correct the path, or convert the recordings (for example: ffmpeg -i IN OUT.flac)",
        )
    found.entries.sort(key=lambda entry: entry.id)
    return found


def _walk(raw: Path, kind: str) -> Scan:
    found = Scan([], [], has_manifest=False)
    taken: set[str] = set()
    for folder, folders, names in os.walk(raw):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(names):
            path = (Path(folder) / name).relative_to(raw).as_posix()
            suffix = PurePosixPath(name).suffix.lower()
            if name.startswith(".") or suffix not in READABLE | UNREADABLE:
                found.ignored_files += 1
                continue
            item_id = path[: -len(suffix)]
            item_id = path if item_id in taken else item_id  # a.wav beside a.flac
            taken.add(item_id)
            if suffix in UNREADABLE:
                reason = f"format {suffix} is not read; convert it, for example: ffmpeg -i IN OUT.flac"
                found.refused.append({"id": item_id, "path": path, "reason": reason})
            else:
                found.entries.append(Entry(item_id, path, kind))
    return found


def _read_manifest(raw: Path, kind: str) -> Scan:
    path = raw / "manifest.tsv"
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    header = lines[0].split("\t") if lines else []
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)} in its first line",
            "a tab-separated header: id path duration kind speaker text label ...",
            "add the header, or remove the file to take every audio file in the folder",
        )
    found = Scan([], [], has_manifest=True)
    taken: set[str] = set()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        values = line.split("\t")
        row = dict(zip(header, values))
        reason = _refusal(row, len(values), len(header), taken)
        if reason:
            found.refused.append(
                {"id": row.get("id", ""), "path": row.get("path", ""), "reason": f"line {number}: {reason}"}
            )
            continue
        taken.add(row["id"])
        found.entries.append(_entry(row, kind))
    return found


def _refusal(row: dict[str, str], num_values: int, num_columns: int, taken: set[str]) -> str:
    """Why a line of the manifest cannot be used; empty when it can.

    Paths are judged as written: links inside the folder may point anywhere, since its owner made them.
    """
    if num_values != num_columns:
        return f"{num_values} values for {num_columns} columns"
    if not row["id"] or not row["path"]:
        return "no id or no path"
    if row["id"] in taken:
        return f"duplicate id {row['id']}"
    if os.path.isabs(row["path"]) or ".." in PurePosixPath(row["path"].replace("\\", "/")).parts:
        return "path leaves the folder"
    if row.get("kind") and row["kind"] not in DOMAIN_OF_KIND:
        return f"kind '{row['kind']}' is none of {', '.join(DOMAIN_OF_KIND)}"
    return ""


def _entry(row: dict[str, str], kind: str) -> Entry:
    try:
        duration = float(row["duration"]) if row.get("duration") else None
    except ValueError:
        duration = None  # only used to notice recordings that lost their end
    labels: dict[str, str] = {}
    for part in filter(None, row.get("label", "").split(";")):
        key, equals, value = part.partition("=")
        if equals:
            labels[key.strip()] = value.strip()
        else:  # a bare word says something, but nothing that a task can be made of
            labels["note"] = "; ".join(filter(None, [labels.get("note"), part.strip()]))
    known = {"id", "path", "duration", "kind", "speaker", "text", "label", "phones"}
    return Entry(
        id=row["id"],
        path=row["path"],
        kind=row.get("kind") or kind,
        duration_seconds=duration,
        speaker=row.get("speaker") or None,
        text=row.get("text") or None,
        phones=row["phones"].split() if row.get("phones") else None,
        labels=labels,
        columns={key: value for key, value in row.items() if key not in known and value},
    )
