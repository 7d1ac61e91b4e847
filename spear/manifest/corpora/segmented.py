"""Speech corpora with transcripts beside the audio: LibriSpeech, GigaSpeech."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from spear import fs, records
from spear.errors import DataError
from spear.manifest.scan import Entry, Scan, not_utf8
from spear.manifest.words import is_held_out
from spear.records import Finite, NotNegative

_AGAIN = "download GigaSpeech.json again"


class _Listing(msgspec.Struct):
    audios: list[Any]


class _Audio(msgspec.Struct):
    aid: str
    path: str
    segments: list[Any]


class _Segment(msgspec.Struct):
    sid: str
    begin_time: NotNegative
    end_time: Finite
    text_tn: str | None = None
    subsets: list[str] = []


def librispeech(raw: Path, kind: str) -> Scan:
    """LibriSpeech: every utterance of the parts that are there, from their transcripts; dev and test are held out.

    Takes the folder of the parts or the one above it. `lhotse.recipes.prepare_librispeech` gives the same utterances of
    a whole copy (a test compares them), but stops at a damaged file and does not list missing ones.

    Raises:
        DataError: no part in the folder.
    """
    root = raw / "LibriSpeech" if (raw / "LibriSpeech").is_dir() else raw
    begins = re.compile(r"(train|dev|test)(?![a-z])", re.IGNORECASE)  # some copies spell them Train or train_clean_100
    parts = sorted(path for path in root.iterdir() if begins.match(path.name))
    found = Scan([], [], has_manifest=True)
    for part in parts:
        for transcript in sorted(part.glob("*/*/*.trans.txt")):
            place = transcript.relative_to(raw).as_posix()
            try:
                found.entries += _utterances(transcript, place, kind, part.name, found.refused)
            except DataError as error:  # one that is cut off, or in another encoding, does not end the others
                found.refused.append({"id": transcript.name, "path": place, "reason": error.found})
    if not found.entries and not found.refused:
        names = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise DataError(
            f"{root} with {names}", "parts such as train-clean-100/SPEAKER/CHAPTER/*.trans.txt", "correct the path"
        )
    return found


def _utterances(transcript: Path, place: str, kind: str, part: str, refused: list[dict]) -> list[Entry]:
    entries = []
    for number, line in fs.iter_lines(transcript, escape=True):
        item, _, text = line.partition(" ")
        if reason := not_utf8(line):
            refused.append({"id": item, "path": place, "reason": f"line {number}: {reason}"})
        elif item:
            entry = Entry(
                item, f"{PurePosixPath(place).parent}/{item}.flac", kind, speaker=item.split("-")[0], text=text
            )
            entry.columns, entry.heldout = {"part": part}, is_held_out(part)
            entries.append(entry)
    return entries


def gigaspeech(raw: Path, kind: str) -> Scan:
    """GigaSpeech: the segments of every recording in GigaSpeech.json; those of {DEV} and {TEST} are held out.

    Recordings and segments that are not of its form are refused one by one.

    Raises:
        DataError: no GigaSpeech.json, or one without a list of recordings.
    """
    path = raw / "GigaSpeech.json"
    listing = fs.read_json(path)
    found = Scan([], [], has_manifest=True)
    for number, value in enumerate(records.convert(listing, _Listing, str(path), _AGAIN).audios):
        where = f"recording {number} of {path.name}"
        try:
            audio = records.convert(value, _Audio, where)
        except DataError as error:
            found.refused.append({"id": "", "path": path.name, "reason": error.found})
            continue
        for value in audio.segments:
            try:
                segment = records.convert(value, _Segment, f"a segment of {where}")
            except DataError as error:
                name = value.get("sid") if isinstance(value, dict) else ""
                found.refused.append({"id": str(name or ""), "path": audio.path, "reason": error.found})
                continue
            found.entries.append(
                Entry(
                    segment.sid,
                    audio.path,
                    kind,
                    duration_seconds=round(segment.end_time - segment.begin_time, 6),
                    text=segment.text_tn,
                    start_seconds=segment.begin_time,
                    recording=audio.aid,
                    heldout=any(name in ("{DEV}", "{TEST}") for name in segment.subsets),
                )
            )
    return found
