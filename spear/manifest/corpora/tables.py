"""Audio corpora that come as tables of clips: AudioSet, VGGSound, FSD50K, MTG-Jamendo, Music4All.

What a table lists and the disk lacks is listed too, and becomes "missing file": nobody has AudioSet whole.
"""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from spear.errors import DataError
from spear.manifest.scan import READABLE, Entry, Scan, scan

_YOUTUBE = re.compile(r"Y?(?P<id>[\w-]{11})(?:_(?P<start>\d+(?:\.\d+)?))?(?:_\d+(?:\.\d+)?)?")


def _clips(raw: Path) -> dict[str, str]:
    """Path below `raw` of every audio file, by its name without suffix."""
    clips = {}
    for folder, folders, names in os.walk(raw, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in READABLE and not name.startswith("."):
                clips.setdefault(stem, (Path(folder) / name).relative_to(raw).as_posix())
    return clips


def _by_video(clips: dict[str, str]) -> dict[str, str]:
    """Clips by YouTube id: of names such as ID, YID, ID_30000_40000, ID_30.000_40.000 and ID_000030."""
    return {match["id"]: path for stem, path in clips.items() if (match := _YOUTUBE.fullmatch(stem))}


def _tables(raw: Path, pattern: str, expected: str) -> list[Path]:
    paths = sorted(raw.rglob(pattern))
    if not paths:
        names = ", ".join(sorted(path.name for path in raw.iterdir())[:6]) or "nothing"
        raise DataError(f"{raw} with {names}", expected, "put the corpus' own tables beside its audio")
    return paths


def _rows(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    with open(path, encoding="utf-8-sig", newline="") as handle:
        for row in csv.reader(
            (line for line in handle if not line.startswith("#")), delimiter=delimiter, skipinitialspace=True
        ):
            if row:
                yield row


def audioset(raw: Path, kind: str) -> Scan:
    """AudioSet: the clips of *_segments.csv (id, start, end, labels); those of eval_segments.csv are held out.

    Clips are found by YouTube id, however they were named and wherever they lie. Ids are the YouTube ids after `as-`.

    Raises:
        DataError: no table.
    """
    found, clips = Scan([], [], has_manifest=True), _by_video(_clips(raw))
    for path in _tables(raw, "*_segments.csv", "balanced_train_segments.csv, unbalanced_..., eval_segments.csv"):
        part = path.name.removesuffix("_segments.csv")
        for row in _rows(path):
            if len(row) < 4:
                found.refused.append({"id": row[0], "path": path.name, "reason": f"{len(row)} values, 4 expected"})
                continue
            video, start, end, labels = row[:4]
            entry = Entry(f"as-{video}", clips.get(video, f"{part}/{video}"), kind, columns={"part": part})
            entry.labels = {"labels": labels, "clip": f"{start}-{end}"}
            entry.heldout = part.startswith("eval")
            found.entries.append(entry)
    return found


def vggsound(raw: Path, kind: str) -> Scan:
    """VGGSound: the clips of vggsound.csv (id, start, label, split), named ID_000123; the test split is held out.

    Raises:
        DataError: no table.
    """
    found, clips = Scan([], [], has_manifest=True), _clips(raw)
    for path in _tables(raw, "vggsound*.csv", "vggsound.csv"):
        for row in _rows(path):
            if len(row) < 4 or not row[1].isdigit():
                found.refused.append({"id": row[0], "path": path.name, "reason": "not id, start, label, split"})
                continue
            name = f"{row[0]}_{int(row[1]):06d}"
            entry = Entry(f"vgg-{name}", clips.get(name, f"video/{name}"), kind, labels={"class": row[2]})
            entry.heldout = row[3] == "test"
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
        folder = path.parents[1] / f"FSD50K.{path.stem}_audio"
        header, *rows = _rows(path)
        for values in rows:
            row = dict(zip(header, values))
            clip = (folder / f"{row['fname']}.wav").relative_to(raw).as_posix()
            heldout = path.stem == "eval" or row.get("split") == "val"
            labels = {"labels": row.get("labels", "")}
            found.entries.append(Entry(f"fsd-{row['fname']}", clip, kind, labels=labels, heldout=heldout))
    return found


def mtg_jamendo(raw: Path, kind: str) -> Scan:
    """MTG-Jamendo: the tracks of raw*.tsv (TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION, TAGS), or all audio files."""
    tables = sorted(raw.rglob("raw*.tsv"))
    if not tables:
        return scan(raw, kind)
    found, listed = Scan([], [], has_manifest=True), set()
    clips = _clips(raw)
    for header, *rows in (list(_rows(path, "\t")) for path in tables):
        for values in rows:
            row = dict(zip(header, values))  # tags may go on beyond the header's last column
            track = row["PATH"]
            if track not in listed:
                listed.add(track)
                path = next(
                    (clips[stem] for stem in (Path(track).stem, f"{Path(track).stem}.low") if stem in clips), track
                )
                found.entries.append(
                    Entry(Path(track).with_suffix("").as_posix(), path, kind, speaker=row.get("ARTIST_ID"))
                )
    return found


def music4all(raw: Path, kind: str) -> Scan:
    """Music4All: the clips of id_information.csv (id, artist, song, album; tab-separated), in audios/.

    Raises:
        DataError: no table.
    """
    found, clips = Scan([], [], has_manifest=True), _clips(raw)
    for path in _tables(raw, "id_information.csv", "id_information.csv and audios/"):
        header, *rows = _rows(path, "\t")
        for values in rows:
            row = dict(zip(header, values))
            clip = clips.get(row["id"], f"audios/{row['id']}.mp3")
            found.entries.append(Entry(f"m4a-{row['id']}", clip, kind, speaker=row.get("artist")))
    return found
