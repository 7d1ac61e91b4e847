"""Finding the recordings of a folder: its manifest.tsv, or simply all audio files below it. Nothing is opened here."""

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from spear import fs
from spear.errors import DataError
from spear.log import get_logger
from spear.manifest.item import DOMAIN_OF_KIND
from spear.manifest.words import is_held_out

logger = get_logger(__name__)

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
        channel: which of the file's channels, from 0; None: their mean.
        speed: how many times as fast the recording is played; start and duration are of what is heard.
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
    channel: int | None = None
    speed: float = 1.0

    def to_dict(self) -> dict:
        """JSON-able fields."""
        return asdict(self)


@dataclass
class Scan:
    """What was found: entries to examine, entries refused with a reason, and whether a manifest listed them.

    `failed` has an error for each of the corpus' own lists that cannot be read.
    """

    entries: list[Entry]
    refused: list[dict]
    has_manifest: bool
    ignored_files: int = 0
    failed: list[DataError] = field(default_factory=list)

    def leave_out(self, path: Path, error: DataError) -> None:
        """Refuses a list that cannot be read, by name; the corpus' others go on."""
        logger.warning("%s is left out: %s", path.name, error.found)
        self.refused.append({"id": path.name, "path": path.name, "reason": f"a list that is left out: {error.found}"})
        self.failed.append(error)


def scan(raw: str | Path, kind: str = "speech") -> Scan:
    """Lists the recordings of a folder, sorted by id.

    Args:
        raw: a folder with manifest.tsv, or with audio files anywhere below it (links to files and folders are
            followed).
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


def files_below(raw: Path) -> tuple[list[str], list[dict]]:
    """Files of a folder and all below it, without hidden ones, and the folders that cannot be looked into.

    Links to folders are followed, but no folder is entered twice, so that loops end and no recording has two ids; those
    that are reached without a link come first. A link to a folder that holds `raw` is such a loop.

    Returns:
        sorted paths relative to `raw`, and {id, path, reason} of what was refused.
    """
    paths, refused, entered, tops = [], [], set(), [str(raw)]

    def refuse(error: OSError) -> None:
        place = os.path.relpath(error.filename, raw)
        refused.append({"id": place, "path": place, "reason": f"folder that cannot be read: {error.strerror}"})

    while tops:
        links = []
        for top in tops:
            for folder, folders, names in os.walk(top, onerror=refuse):
                if (key := os.path.realpath(folder)) in entered:
                    folders.clear()
                    continue
                entered.add(key)
                below = os.path.relpath(folder, raw)
                paths += [name if below == "." else f"{below}/{name}" for name in names if not name.startswith(".")]
                folders[:] = [name for name in folders if not name.startswith(".")]
                linked = [path for name in folders if os.path.islink(path := os.path.join(folder, name))]
                links += [path for path in linked if not _holds(path, raw)]
        tops = sorted(links)
    return sorted(paths), refused


def _holds(folder: str, raw: Path) -> bool:
    return Path(os.path.realpath(raw)).is_relative_to(os.path.realpath(folder))


def _walk(raw: Path, kind: str) -> Scan:
    paths, refused = files_below(raw)
    found = Scan([], refused, has_manifest=False)
    taken: set[str] = set()
    for path in paths:
        suffix = PurePosixPath(path).suffix.lower()
        if suffix not in READABLE | UNREADABLE:
            found.ignored_files += 1
            continue
        item_id = path[: -len(suffix)]
        item_id = path if item_id in taken else item_id  # a.wav beside a.flac
        taken.add(item_id)
        if suffix in UNREADABLE:
            reason = f"format {suffix} is not read; convert it, for example: ffmpeg -i IN OUT.flac"
            found.refused.append({"id": item_id, "path": path, "reason": reason})
        else:
            found.entries.append(Entry(item_id, path, kind, heldout=is_held_out(os.path.dirname(path))))
    return found


def _read_manifest(raw: Path, kind: str) -> Scan:
    path = raw / "manifest.tsv"
    lines = fs.iter_lines(path, escape=True)
    _, first = next(lines, (1, ""))
    header = first.split("\t")
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing or not is_text(first) or "\r" in first:
        wrong = f"has no column {', '.join(missing)} in its first line" if missing else "has a first line in no UTF-8"
        wrong = "has lines that end with a carriage return alone" if "\r" in first else wrong
        raise DataError(
            f"{path} {wrong}",
            "a tab-separated header in UTF-8: id path duration kind speaker text label ...",
            "add the header, or remove the file to take every audio file in the folder",
        )
    found = Scan([], [], has_manifest=True)
    taken: set[str] = set()
    for number, line in lines:
        if not line.strip():
            continue
        values = line.split("\t")
        row = dict(zip(header, values))
        reason = not_utf8(line) or _refusal(row, len(values), len(header), taken)
        if reason:
            found.refused.append(
                {"id": row.get("id", ""), "path": row.get("path", ""), "reason": f"line {number}: {reason}"}
            )
            continue
        taken.add(row["id"])
        found.entries.append(_entry(row, kind))
    return found


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: it has no surrogates, which stand for bytes that are no UTF-8."""
    try:
        value.encode()
        return True
    except UnicodeEncodeError:
        return False


def not_utf8(line: str) -> str:
    """Why a line that `fs.iter_lines` read with escapes cannot be used; empty when it can."""
    if is_text(line):
        return ""
    place = next(place for place, character in enumerate(line) if "\ud800" <= character <= "\udfff")
    return f"not UTF-8 (byte 0x{ord(line[place]) & 0xFF:02x} at character {place + 1}); iconv -f CP1252 may convert it"


def _refusal(row: dict[str, str], num_values: int, num_columns: int, taken: set[str]) -> str:
    """Why a line of the manifest cannot be used; empty when it can.

    Paths are judged as written: links inside the folder may point anywhere, since its owner made them.
    """
    if num_values != num_columns:
        return f"{num_values} values for {num_columns} columns"
    if not row["id"] or not row["path"]:
        return "no id or no path"
    if row["id"] in taken:
        return f"duplicate id: {row['id']}"
    if os.path.isabs(row["path"]) or ".." in PurePosixPath(row["path"].replace("\\", "/")).parts:
        return "path leaves the folder"
    if _is_no_length(row.get("duration") or "0"):
        return f"duration '{row['duration']}' is no length"
    if row.get("kind") and row["kind"] not in DOMAIN_OF_KIND:
        return f"kind '{row['kind']}' is none of {', '.join(DOMAIN_OF_KIND)}"
    return ""


def _is_no_length(text: str) -> bool:
    try:
        return not 0 <= float(text) < math.inf
    except ValueError:
        return False  # a note of somebody's, as in `_entry`


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
