"""Audio corpora that come as tables of clips: AudioSet, VGGSound, FSD50K, MTG-Jamendo, Music4All.

What a table lists and the disk lacks is listed too, and becomes "missing file": nobody has AudioSet whole.
"""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from spear import fs
from spear.errors import DataError
from spear.manifest.scan import READABLE, Entry, Scan, files_below, not_utf8, scan
from spear.manifest.words import is_held_out

_YOUTUBE = re.compile(r"Y?(?P<id>[\w-]{11})(?:_(?P<start>\d+(?:\.\d+)?))?(?:_\d+(?:\.\d+)?)?")


def _clips(raw: Path) -> dict[str, str]:
    """Path below `raw` of every audio file, by its name without suffix."""
    clips: dict[str, str] = {}
    for path in files_below(raw)[0]:
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix.lower() in READABLE:
            clips.setdefault(stem, path)
    return clips


def _by_video(clips: dict[str, str]) -> dict[str, str]:
    """Clips by YouTube id: of names such as ID, YID, ID_30000_40000, ID_30.000_40.000 and ID_000030."""
    return {match["id"]: path for stem, path in clips.items() if (match := _YOUTUBE.fullmatch(stem))}


def _tables(raw: Path, pattern: str, expected: str) -> list[Path]:
    paths = [raw / path for path in files_below(raw)[0] if PurePosixPath(path).match(pattern)]
    if not paths:
        names = ", ".join(sorted(path.name for path in raw.iterdir())[:6]) or "nothing"
        raise DataError(f"{raw} with {names}", expected, "put the corpus' own tables beside its audio")
    return paths


def _rows(path: Path, found: Scan, least: int, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, row) of the rows of a table that have `least` values; others are refused.

    Every line is a row, so that a quote that is never closed costs one row and not all that follow. Tables with tabs
    have no quotes: there, they are characters of a title.
    """
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    for number, line in _lines(path, found):
        if not line.strip() or line.startswith("#"):
            continue
        row, reason = [line.partition(delimiter)[0]], not_utf8(line)
        if not reason:
            try:
                (row,) = csv.reader([line], delimiter=delimiter, quoting=quoting, skipinitialspace=True, strict=True)
                reason = "" if len(row) >= least else f"{len(row)} values, {least} expected"
            except (csv.Error, ValueError) as error:
                reason = f"not a row of a table ({error})"
        if reason:
            found.refused.append({"id": row[0], "path": path.name, "reason": f"line {number}: {reason}"})
        else:
            yield number, row


def _lines(path: Path, found: Scan) -> Iterator[tuple[int, str]]:
    try:
        yield from fs.iter_lines(path, escape=True)
    except DataError as error:
        found.leave_out(path, error)


def read_records(path: Path, found: Scan, columns: Sequence[str], delimiter: str = ",") -> Iterator[dict[str, str]]:
    """The rows of a table with a header, by its names; more values than names are left aside.

    Raises:
        DataError: the header lacks one of `columns`.
    """
    rows = _rows(path, found, 1, delimiter)
    _, header = next(rows, (0, []))
    if not header and found.failed:  # it cannot be read
        return
    if missing := [name for name in columns if name not in header]:
        raise DataError(
            f"{path} without the column {', '.join(missing)}",
            f"a first line with {', '.join(columns)}",
            "copy it again",
        )
    least = 1 + max(header.index(name) for name in columns)
    for number, row in rows:
        if len(row) < least:
            reason = f"line {number}: {len(row)} values, {least} expected"
            found.refused.append({"id": row[0], "path": path.name, "reason": reason})
        else:
            yield dict(zip(header, row))


def audioset(raw: Path, kind: str) -> Scan:
    """AudioSet: the clips of *_segments.csv (id, start, end, labels); those of eval_segments.csv are held out.

    Clips are found by YouTube id, however they were named and wherever they lie. Ids are the YouTube ids after `as-`.

    Raises:
        DataError: no table.
    """
    found, clips = Scan([], [], has_manifest=True), _by_video(_clips(raw))
    for path in _tables(raw, "*_segments.csv", "balanced_train_segments.csv, unbalanced_..., eval_segments.csv"):
        part = path.name.removesuffix("_segments.csv")
        for _, row in _rows(path, found, 4):
            video, start, end, labels = row[:4]
            entry = Entry(f"as-{video}", clips.get(video, f"{part}/{video}"), kind, columns={"part": part})
            entry.labels = {"labels": labels, "clip": f"{start}-{end}"}
            entry.heldout = is_held_out(part)
            found.entries.append(entry)
    return found


def vggsound(raw: Path, kind: str) -> Scan:
    """VGGSound: the clips of vggsound.csv (id, start, label, split), named ID_000123; the test split is held out.

    Raises:
        DataError: no table.
    """
    found, clips = Scan([], [], has_manifest=True), _clips(raw)
    for path in _tables(raw, "vggsound*.csv", "vggsound.csv"):
        for number, row in _rows(path, found, 4):
            if not (row[1].isascii() and row[1].isdigit() and len(row[1]) < 10):
                found.refused.append(
                    {"id": row[0], "path": path.name, "reason": f"line {number}: not id, start, label, split"}
                )
                continue
            name = f"{row[0]}_{int(row[1]):06d}"
            entry = Entry(f"vgg-{name}", clips.get(name, f"video/{name}"), kind, labels={"class": row[2]})
            entry.heldout = is_held_out(row[3])
            found.entries.append(entry)
    return found


def fsd50k(raw: Path, kind: str) -> Scan:
    """FSD50K: dev.csv (fname, labels, mids, split) and eval.csv; eval and the validation split are held out.

    Raises:
        DataError: no table.
    """
    found = Scan([], [], has_manifest=True)
    for path in _tables(raw, "FSD50K.ground_truth/*.csv", "FSD50K.ground_truth/dev.csv and eval.csv"):
        if path.stem not in ("dev", "eval"):
            continue
        folder = (path.parents[1] / f"FSD50K.{path.stem}_audio").relative_to(raw).as_posix()
        for row in read_records(path, found, ["fname"]):
            clip = f"{folder}/{row['fname']}.wav"
            heldout = path.stem == "eval" or is_held_out(row.get("split", ""))
            labels = {"labels": row.get("labels", "")}
            found.entries.append(Entry(f"fsd-{row['fname']}", clip, kind, labels=labels, heldout=heldout))
    return found


def mtg_jamendo(raw: Path, kind: str) -> Scan:
    """MTG-Jamendo: the tracks of raw*.tsv (TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION, TAGS), or all audio files."""
    tables = [raw / path for path in files_below(raw)[0] if PurePosixPath(path).match("raw*.tsv")]
    if not tables:
        return scan(raw, kind)
    found, listed = Scan([], [], has_manifest=True), set()
    clips = _clips(raw)
    for table in tables:
        for row in read_records(table, found, ["PATH"], "\t"):  # tags may go on beyond the header's last column
            track = row["PATH"]
            if track not in listed:
                listed.add(track)
                stem = Path(track).stem
                path = next((clips[name] for name in (stem, f"{stem}.low") if name in clips), track)
                found.entries.append(Entry(os.path.splitext(track)[0], path, kind, speaker=row.get("ARTIST_ID")))
    return found


def music4all(raw: Path, kind: str) -> Scan:
    """Music4All: the clips of id_information.csv (id, artist, song, album; tab-separated), in audios/.

    Raises:
        DataError: no table.
    """
    found, clips = Scan([], [], has_manifest=True), _clips(raw)
    for path in _tables(raw, "id_information.csv", "id_information.csv and audios/"):
        for row in read_records(path, found, ["id"], "\t"):
            clip = clips.get(row["id"], f"audios/{row['id']}.mp3")
            found.entries.append(Entry(f"m4a-{row['id']}", clip, kind, speaker=row.get("artist")))
    return found
