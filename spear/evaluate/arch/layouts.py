"""The twelve corpora of ARCH as they are distributed, one reader each; see `listed`.

A reader gives the parts or folds that a corpus itself states. Where there are none, the suite draws them.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from spear import fs, records
from spear.errors import DataError
from spear.evaluate.esc50 import CORPUS as ESC50
from spear.evaluate.listed import Clip, Corpus
from spear.manifest.corpora.tables import read_records
from spear.manifest.scan import Scan

_FIX = "copy it again"
_SPLITS = {"training": "train", "train": "train", "validation": "dev", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class ArchCorpus(Corpus):
    """A corpus and how it is divided.

    Attributes:
        short: the column of tables.
        tags: any number of labels; mean average precision.
        dev_share: of training that is held out for selection, where the corpus has no part for it; 0: it has, or the
            next fold is.
        legacy_dev_share: the same where the published code differs.
        test_share: of all that is drawn for test; 0: the corpus states it.
        legacy_test_share: the same where the published code differs.
    """

    short: str = ""
    tags: bool = False
    dev_share: float = 0.0
    legacy_dev_share: float | None = None
    test_share: float = 0.0
    legacy_test_share: float | None = None

    def shares(self, legacy: bool) -> tuple[float, float]:
        """Of test and of dev."""
        pairs = (self.legacy_test_share, self.test_share), (self.legacy_dev_share, self.dev_share)
        test, dev = (old if legacy and old is not None else new for old, new in pairs)
        return test, dev


def _names(folder: Path, pattern: str, suffix: str = "wav") -> Iterator[tuple[str, list[str]]]:
    """Paths below a folder that match, with the parts of their names between - and _."""
    for path in sorted(folder.glob(pattern)):
        if path.suffix.lower() == f".{suffix}":
            yield path.relative_to(folder).as_posix(), re.split(r"[-_]", path.stem)


def _urban_sounds(folder: Path, found: Scan) -> Iterator[Clip]:
    table = folder / "metadata" / "UrbanSound8K.csv"
    for row in read_records(table, found, ["slice_file_name", "fsID", "fold", "class"]):
        path = f"audio/fold{row['fold']}/{row['slice_file_name']}"
        yield Clip(path, row["class"], fold=row["fold"], group=row["fsID"])


def fsd50k(folder: Path, found: Scan) -> Iterator[Clip]:
    """FSD50K: its own parts."""
    for part, columns in (("dev", ["fname", "labels", "split"]), ("eval", ["fname", "labels"])):
        for row in read_records(folder / "FSD50K.ground_truth" / f"{part}.csv", found, columns):
            split = _SPLITS.get(row.get("split", "test"), "train")
            labels = [label for label in row["labels"].split(",") if label]
            yield Clip(f"FSD50K.{part}_audio/{row['fname']}.wav", labels, split)


def _vivae(folder: Path, found: Scan) -> Iterator[Clip]:
    for path, parts in _names(folder, "full_set/*"):
        if len(parts) > 2 and re.fullmatch(r"S\d\d", parts[0]):
            yield Clip(path, parts[1], fold=parts[0])


def _fma(folder: Path, found: Scan) -> Iterator[Clip]:
    path = folder / "fma_metadata" / "tracks.csv"
    rows = csv.reader(line + "\n" for _, line in fs.iter_lines(path))  # texts of albums go over several lines
    try:
        columns = list(zip(next(rows, []), next(rows, [])))
        places = [columns.index(pair) for pair in (("set", "split"), ("set", "subset"), ("track", "genre_top"))]
        next(rows, None)  # says what the first column is
        for row in rows:
            if len(row) > max(places) and row[places[1]] == "small":
                number, split = row[0].zfill(6), _SPLITS.get(row[places[0]], "train")
                yield Clip(f"fma_small/{number[:3]}/{number}.mp3", row[places[2]], split)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: {error}", "set/split, set/subset and track/genre_top", _FIX) from error


_TAGS = (
    "guitar,classical,slow,techno,strings,drums,electronic,rock,fast,piano,ambient,beat,violin,vocal,synth,female,"
    "indian,opera,male,singing,vocals,no vocals,harpsichord,loud,quiet,flute,woman,male vocal,no vocal,pop,soft,sitar,"
    "solo,man,classic,choir,voice,new age,dance,male voice,female vocal,beats,harp,cello,no voice,weird,country,metal,"
    "female voice,choral"
).split(",")
"""The fifty that are usual of MagnaTagATune's 188."""


def _magnatagatune(folder: Path, found: Scan) -> Iterator[Clip]:
    split_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}_gt_mtt.tsv"
        for _, line in fs.iter_lines(path) if path.exists() else ():
            split_of[line.partition("\t")[0]] = _SPLITS[split]
    path = folder / "annotations_final.csv"
    try:
        for row in csv.DictReader((line for _, line in fs.iter_lines(path)), delimiter="\t"):
            name, tags = row["mp3_path"], [tag for tag in _TAGS if row[tag] == "1"]
            if name is None:  # the last column
                found.refused.append(
                    {"id": row["clip_id"] or "", "path": path.name, "reason": "a line that ends early"}
                )
                continue
            # Without lists the parts are those of the sixteen folders: twelve, one and three.
            usual = "train" if name[:1] in "0123456789ab" else "dev" if name[:1] == "c" else "test"
            split = split_of.get(row["clip_id"], "") if split_of else usual
            if tags and split:
                yield Clip(name, tags, split, group="-".join(name.split("-")[:-2]))
    except (KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: {error!r}", "clip_id, mp3_path and a column for each tag", _FIX) from error


def _irmas(folder: Path, found: Scan) -> Iterator[Clip]:
    for path in sorted(folder.glob("IRMAS-TrainingData/*/*.wav")):
        group = path.stem.rpartition("__")[0].rpartition("]")[2]  # excerpts of one recording
        yield Clip(path.relative_to(folder).as_posix(), [path.parent.name], "train", group=group)
    for path in sorted(folder.glob("IRMAS-TestingData-Part*/Part*/*.wav")):
        text, name = path.with_suffix(".txt"), path.relative_to(folder).as_posix()
        try:
            lines = [line.strip() for _, line in fs.iter_lines(text)] if text.is_file() else []
        except DataError as error:
            found.refused.append({"id": name, "path": name, "reason": error.found})
            continue
        yield Clip(name, [line for line in lines if line], "test")


def _medley_solos(folder: Path, found: Scan) -> Iterator[Clip]:
    place = "audio/" if (folder / "audio").is_dir() else ""
    columns = ["subset", "instrument", "instrument_id", "song_id", "uuid4"]
    for row in read_records(folder / "Medley-solos-DB_metadata.csv", found, columns):
        name = f"{place}Medley-solos-DB_{row['subset']}-{row['instrument_id']}_{row['uuid4']}.wav"
        yield Clip(name, row["instrument"], _SPLITS.get(row["subset"], "train"), group=row["song_id"])


def _ravdess(folder: Path, found: Scan) -> Iterator[Clip]:
    for path, parts in _names(folder, "Actor_*/*"):
        if len(parts) == 7:
            yield Clip(path, parts[2], group=parts[6])


_SPEAKERS = (
    (12, 47, 59, 15, 27, 41, 4, 11, 21, 31, 44, 50),
    (26, 52, 60, 18, 32, 42, 5, 13, 22, 33, 45, 51),
    (28, 56, 7, 19, 35, 1, 6, 16, 23, 34, 46, 53),
    (36, 57, 9, 24, 37, 2, 8, 17, 29, 39, 48, 54),
    (43, 58, 14, 25, 38, 3, 10, 20, 30, 40, 49, 55),
)
"""The folds of AudioMNIST (Becker et al., 2018)."""


def _audio_mnist(folder: Path, found: Scan) -> Iterator[Clip]:
    fold_of = {f"{speaker:02d}": str(number) for number, fold in enumerate(_SPEAKERS) for speaker in fold}
    for path, parts in _names(folder, "data/*/*"):
        if len(parts) == 3 and parts[1] in fold_of:
            yield Clip(path, parts[0], fold=fold_of[parts[1]], group=parts[1])


@dataclass
class _Recording:
    file: str


@dataclass
class _Sentence:
    """A line of SLURP's tables."""

    slurp_id: int | str
    intent: Annotated[str, msgspec.Meta(min_length=1)]
    recordings: list[_Recording]


def _slurp(folder: Path, found: Scan) -> Iterator[Clip]:
    place = next((p for p in (folder, folder / "dataset" / "slurp") if (p / "train.jsonl").exists()), folder)
    for split, name in (("train", "train"), ("dev", "devel"), ("test", "test")):
        for _, line in records.iterate(place / f"{name}.jsonl", _Sentence, fix=_FIX):
            for recording in line.recordings:
                yield Clip(f"slurp_real/{recording.file}", line.intent, split, group=str(line.slurp_id))


def _emovo(folder: Path, found: Scan) -> Iterator[Clip]:
    for path, parts in _names(folder, "[fm][123]/*"):
        yield Clip(path, parts[0], fold=path.partition("/")[0])


CORPORA = (
    ArchCorpus(ESC50.name, ESC50.title, ESC50.mark, ESC50.read, 5.0, short="ESC", dev_share=0.2),
    ArchCorpus(
        "us8k", "UrbanSound8K", "metadata/UrbanSound8K.csv", _urban_sounds, 5.0, short="US8K", dev_share=0.2
    ),
    ArchCorpus("fsd50k", "FSD50K", "FSD50K.ground_truth/dev.csv", fsd50k, 10.0, short="FSD", tags=True),
    ArchCorpus("vivae", "VIVAE", "full_set", _vivae, 5.0, short="VIV"),
    ArchCorpus(
        "fma_small", "FMA-small", "fma_metadata/tracks.csv", _fma, 30.0, short="FMA", legacy_dev_share=1 / 9,
        legacy_test_share=0.1,
    ),
    ArchCorpus("mtt", "MagnaTagATune", "annotations_final.csv", _magnatagatune, 30.0, short="MTT", tags=True),
    ArchCorpus("irmas", "IRMAS", "IRMAS-TrainingData", _irmas, 5.0, short="IRM", tags=True, dev_share=0.2),
    ArchCorpus("msdb", "Medley-solos-DB", "Medley-solos-DB_metadata.csv", _medley_solos, 3.0, short="MSDB"),
    ArchCorpus("ravdess", "RAVDESS", "Actor_01", _ravdess, 5.0, short="RAV", dev_share=0.2, test_share=0.2),
    ArchCorpus("audio_mnist", "AudioMNIST", "data/01", _audio_mnist, 5.0, short="AMN"),
    ArchCorpus("slurp", "SLURP", "slurp_real", _slurp, 10.0, short="SLU"),
    ArchCorpus("emovo", "EMOVO", "f1", _emovo, 5.0, short="EMO", legacy_dev_share=0.1),
)  # fmt: skip
