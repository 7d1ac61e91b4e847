"""Layouts of corpora: what a corpus lists, found from its own files. What is missing or damaged, stage 1 finds out.

A reader takes the corpus' folder and returns a `Scan` with an entry for everything the corpus lists, whether or not its
audio is there: partial copies are normal, and coverage is reported. Ids are those that the corpus gives its utterances,
so that tokens made elsewhere are found; where it has none, they are paths below the corpus' name.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spear.errors import ConfigError, DataError
from spear.manifest.corpora import lists, segmented, tables
from spear.manifest.scan import Scan, scan


@dataclass(frozen=True)
class Corpus:
    """A layout.

    Attributes:
        reader: folder, kind -> what the corpus lists.
        kind: speech, event or music, of entries whose kind is not stated.
        about: what it is and what its folder holds, in a line.
        own_ids: ids come from the corpus; else the corpus' name is put before them.
    """

    reader: Callable[[Path, str], Scan]
    kind: str
    about: str
    own_ids: bool = True


CORPORA: dict[str, Corpus] = {
    "folder": Corpus(scan, "speech", "any folder of audio files, or one with manifest.tsv", False),
    "lhotse": Corpus(lists.lhotse, "speech", "lhotse cuts, or recordings and supervisions, as JSONL (.gz) files"),
    "nemo": Corpus(lists.nemo, "speech", "JSONL manifests of NeMo: audio_filepath, duration, offset, text"),
    "librispeech": Corpus(segmented.librispeech, "speech", "train-clean-100/103/1240/103-1240.trans.txt and .flac"),
    "gigaspeech": Corpus(segmented.gigaspeech, "speech", "GigaSpeech.json and audio/"),
    "libriheavy": Corpus(lists.lhotse, "speech", "libriheavy_cuts_*.jsonl.gz, beside the LibriLight audio they name"),
    "voxpopuli": Corpus(scan, "speech", "unlabelled_data/ or raw_audios/ of ogg files by language and year", False),
    "yodas_granary": Corpus(lists.nemo, "speech", "JSONL manifests of NeMo beside the audio that they name"),
    "audioset": Corpus(tables.audioset, "event", "*_segments.csv and clips named by YouTube id, in any folders"),
    "vggsound": Corpus(tables.vggsound, "event", "vggsound.csv and clips named ID_000123, in any folders"),
    "fsd50k": Corpus(tables.fsd50k, "event", "FSD50K.ground_truth/*.csv and FSD50K.*_audio/"),
    "freesound": Corpus(scan, "event", "a folder of sounds", False),
    "bbc": Corpus(scan, "event", "a folder of BBC sound effects", False),
    "mtg_jamendo": Corpus(tables.mtg_jamendo, "music", "raw*.tsv and 00/ to 99/ with mp3 files, or only those", False),
    "music4all": Corpus(tables.music4all, "music", "id_information.csv and audios/"),
}


def scan_corpus(corpus: str, raw: str | Path, kind: str = "", name: str = "") -> Scan:
    """What a corpus lists, sorted by id.

    Args:
        corpus: layout, one of `CORPORA`.
        raw: its folder.
        kind: of its entries, where the corpus does not state it; empty: the layout's own.
        name: put before ids that are not the corpus' own; none when empty.

    Raises:
        ConfigError: unknown layout (with the nearest one). DataError: the folder does not have this layout.
    """
    if corpus not in CORPORA:
        near = difflib.get_close_matches(corpus, CORPORA, n=1)
        raise ConfigError(
            f"corpus '{corpus}'",
            f"one of {', '.join(CORPORA)}",
            f"did you mean '{near[0]}'?" if near else "correct --corpus; folder takes any folder of audio files",
        )
    layout, raw = CORPORA[corpus], Path(raw)
    if not raw.is_dir():
        raise DataError(f"no folder {raw}", f"corpus '{corpus}': {layout.about}", "correct the path")
    found = layout.reader(raw, kind or layout.kind)
    if not found.entries and not found.refused:
        raise DataError(f"nothing of corpus '{corpus}' in {raw}", layout.about, "correct the path or --corpus")
    taken: set[str] = set()
    entries = []
    for entry in found.entries:
        if name and not layout.own_ids:
            entry.id = f"{name}/{entry.id}"
        if entry.id in taken:
            found.refused.append({"id": entry.id, "path": entry.path, "reason": "duplicate id"})
        else:
            taken.add(entry.id)
            entries.append(entry)
    found.entries = sorted(entries, key=lambda entry: entry.id)
    return found
