"""Corpora that come as JSONL lists: lhotse's manifests (also those of Libriheavy) and NeMo's."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

from spear.errors import DataError
from spear.manifest.item import DOMAIN_OF_KIND
from spear.manifest.scan import Entry, Scan

_HELD_OUT = ("dev", "test", "valid")


def _lines(path: Path) -> Iterator[dict]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise DataError(
                        f"line {number} of {path} is not JSON", "one JSON object a line", "copy the file again"
                    ) from error


def _files(raw: Path, word: str) -> list[Path]:
    return sorted(p for pattern in (f"*{word}*.jsonl", f"*{word}*.jsonl.gz") for p in raw.rglob(pattern))


def _below(raw: Path, manifest: Path, source: str) -> str:
    """A recording's path relative to `raw`: as written, or from where the manifest lies, wherever it is found.

    Lists name their audio from the directory in which somebody once ran a script (download/librilight/...), so leading
    folders are dropped until something is there.
    """
    parts = Path(source).parts
    for base in (raw, manifest.parent):
        for first in range(len(parts)):
            place = base.joinpath(*parts[first:])
            if place.is_file():
                return os.path.relpath(place, raw)
    return source.lstrip("/")


def lhotse(raw: Path, kind: str) -> Scan:
    """Cuts, or else recordings with supervisions, in JSONL files anywhere below the folder.

    Of a cut, id, recording, start, duration and the first supervision's speaker and text are taken; files whose names
    hold dev, test or valid are held out.

    Raises:
        DataError: neither is there, or an object lacks what it needs.
    """
    found = Scan([], [], has_manifest=True)
    cuts = _files(raw, "cuts")
    try:
        for path in cuts:
            for cut in _lines(path):
                if cut["recording"].get("transforms"):
                    reason = "not a recording as it is stored, but changed by lhotse's transforms (see --speed-perturb)"
                    found.refused.append({"id": cut["id"], "path": path.name, "reason": reason})
                else:
                    found.entries.append(_of_cut(raw, path, cut, kind))
        if not cuts:
            for path in _files(raw, "supervisions"):
                recordings = _recordings(raw, path)
                for segment in _lines(path):
                    recording = recordings[segment["recording_id"]]
                    found.entries.append(_of_cut(raw, path, segment | {"recording": recording}, kind, segment))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} with an object that is no cut ({type(error).__name__}: {error})",
            "lhotse cuts, or supervisions beside recordings, as JSONL",
            "write them again with lhotse",
        ) from error
    return found


def _recordings(raw: Path, supervisions: Path) -> dict[str, dict]:
    path = supervisions.with_name(supervisions.name.replace("supervisions", "recordings"))
    if not path.exists():
        raise DataError(f"{supervisions} without {path.name}", "both, as lhotse prepare writes them", "copy it there")
    return {recording["id"]: recording for recording in _lines(path)}


def _of_cut(raw: Path, manifest: Path, cut: dict, kind: str, supervision: dict | None = None) -> Entry:
    recording = cut["recording"]
    supervision = supervision or (cut.get("supervisions") or [{}])[0]
    whole = cut["start"] == 0 and abs(cut["duration"] - recording["duration"]) < 1e-3
    custom = {**(supervision.get("custom") or {}), **(cut.get("custom") or {})}
    texts = custom.get("texts")  # of Libriheavy: with punctuation and case, and without
    return Entry(
        cut["id"],
        _below(raw, manifest, recording["sources"][0]["source"]),
        custom["kind"] if custom.get("kind") in DOMAIN_OF_KIND else kind,
        duration_seconds=float(cut["duration"]),
        speaker=supervision.get("speaker"),
        text=supervision.get("text") or (texts[0] if texts else None),
        start_seconds=None if whole else float(cut["start"]),
        recording=recording["id"],
        heldout=any(word in manifest.name for word in _HELD_OUT),
    )


def nemo(raw: Path, kind: str) -> Scan:
    """NeMo's manifests: {"audio_filepath", "duration", "offset", "text"}, as YODAS-Granary has them.

    The id is the manifest's own (`id` or `utt_id`) or the audio's name with its offset in milliseconds.

    Raises:
        DataError: no such manifest, or a line lacks audio_filepath.
    """
    found = Scan([], [], has_manifest=True)
    for path in sorted(raw.rglob("*.json*")):
        if not path.name.endswith((".json", ".jsonl", ".jsonl.gz", ".json.gz")):
            continue
        for number, line in enumerate(_lines(path), 1):
            if not isinstance(line, dict) or "audio_filepath" not in line:
                raise DataError(
                    f"line {number} of {path} without audio_filepath", "a manifest of NeMo", "move other files away"
                )
            source, offset = line["audio_filepath"], line.get("offset")
            place = f"-{round(1000 * offset):08d}" if offset is not None else ""
            found.entries.append(
                Entry(
                    str(line.get("id") or line.get("utt_id") or Path(source).with_suffix("").as_posix() + place),
                    _below(raw, path, source),
                    kind,
                    duration_seconds=float(line["duration"]) if line.get("duration") else None,
                    speaker=line.get("speaker"),
                    text=line.get("text"),
                    start_seconds=None if offset is None else float(offset),
                    recording=source if offset is not None else None,
                    heldout=any(word in path.name for word in _HELD_OUT),
                )
            )
    return found
