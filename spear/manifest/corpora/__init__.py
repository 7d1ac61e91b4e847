"""Layouts of corpora: what a corpus lists, found from its own files. What is missing or damaged, stage 1 finds out.

A reader takes the corpus' folder and returns a `Scan` with an entry for everything the corpus lists, whether or not its
audio is there: partial copies are normal, and coverage is reported. Ids are those that the corpus gives its utterances,
so that tokens made elsewhere are found; where it has none, they are paths below the corpus' name.
"""

import difflib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spear.errors import ConfigError, DataError
from spear.manifest.corpora import lists, segmented, tables
from spear.manifest.corpora.musan import musan
from spear.manifest.scan import Entry, Scan, is_text, scan
from spear.names import id_problem


@dataclass(frozen=True)
class Corpus:
    """A layout.

    Attributes:
        reader: folder, kind -> what the corpus lists.
        kind: speech, event or music, of entries whose kind is not stated.
        about: what it is and what its folder holds, in a line.
        own_ids: ids come from the corpus; else the corpus' name is put before them.
        outside: its lists may name recordings outside its folder.
        only_noise: it is mixed in as noise, and never trained on.
    """

    reader: Callable[[Path, str], Scan]
    kind: str
    about: str
    own_ids: bool = True
    outside: bool = False
    only_noise: bool = False


CORPORA: dict[str, Corpus] = {
    "folder": Corpus(scan, "speech", "any folder of audio files, or one with manifest.tsv", False),
    "lhotse": Corpus(
        lists.lhotse, "speech", "lhotse cuts, or recordings and supervisions, as JSONL (.gz) files", outside=True
    ),
    "nemo": Corpus(
        lists.nemo, "speech", "JSONL manifests of NeMo: audio_filepath, duration, offset, text", outside=True
    ),
    "librispeech": Corpus(segmented.librispeech, "speech", "train-clean-100/103/1240/103-1240.trans.txt and .flac"),
    "gigaspeech": Corpus(segmented.gigaspeech, "speech", "GigaSpeech.json and audio/"),
    "libriheavy": Corpus(
        lists.lhotse, "speech", "libriheavy_cuts_*.jsonl.gz, beside the LibriLight audio they name", outside=True
    ),
    "voxpopuli": Corpus(scan, "speech", "unlabelled_data/ or raw_audios/ of ogg files by language and year", False),
    "yodas_granary": Corpus(
        lists.nemo, "speech", "JSONL manifests of NeMo beside the audio that they name", outside=True
    ),
    "audioset": Corpus(tables.audioset, "event", "*_segments.csv and clips named by YouTube id, in any folders"),
    "vggsound": Corpus(tables.vggsound, "event", "vggsound.csv and clips named ID_000123, in any folders"),
    "fsd50k": Corpus(tables.fsd50k, "event", "FSD50K.ground_truth/*.csv and FSD50K.*_audio/"),
    "freesound": Corpus(scan, "event", "a folder of sounds", False),
    "bbc": Corpus(scan, "event", "a folder of BBC sound effects", False),
    "mtg_jamendo": Corpus(tables.mtg_jamendo, "music", "raw*.tsv and 00/ to 99/ with mp3 files, or only those", False),
    "music4all": Corpus(tables.music4all, "music", "id_information.csv and audios/"),
    "musan": Corpus(musan, "event", "MUSAN: noise/, beside music/ and speech/, which are left out", only_noise=True),
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
    if not found.entries and found.failed:
        raise found.failed[0]
    if not found.entries and not found.refused:
        raise DataError(f"nothing of corpus '{corpus}' in {raw}", layout.about, "correct the path or --corpus")
    taken: set[str] = set()
    entries = []
    for entry in found.entries:
        if name and not layout.own_ids:
            entry.id = f"{name}/{entry.id}"
        reason = _problem(entry, layout.outside) or ("duplicate id" if entry.id in taken else "")
        if reason:
            found.refused.append({"id": entry.id, "path": entry.path, "reason": reason})
        else:
            taken.add(entry.id)
            entries.append(entry)
    found.entries = sorted(entries, key=lambda entry: entry.id)
    return found


def _problem(entry: Entry, outside: bool) -> str:
    """Why what a corpus lists cannot be taken; empty when it can.

    Ids may be relative paths, as those of Libriheavy are, and keep their slashes, which `file_name` encodes;
    they may not be what leads out of a folder or breaks a line.
    """
    if isinstance(entry.id, str) and not is_text(entry.path):
        return "a file name that is not UTF-8; rename the file"
    if problem := id_problem(entry.id, separators="\\"):
        return problem
    if entry.id.startswith("/") or "//" in entry.id:
        return "an id that is an absolute path"
    parts = entry.path.replace("\\", "/").split("/")
    if not outside and (entry.path.startswith("/") or ".." in parts):
        return "path leaves the folder"
    if not entry.path.isprintable() and any(unicodedata.category(character) == "Cc" for character in entry.path):
        return "a file name with a control character; rename the file"
    texts = [entry.path, entry.text, entry.speaker, entry.recording, *(entry.phones or ())]
    texts += [text for pair in (entry.labels | entry.columns).items() for text in pair]
    if not all(is_text(text) for text in texts if isinstance(text, str)):
        return "text with half a character (a lone surrogate), which is not UTF-8"
    return ""
