"""PR and ASR from LibriSpeech as it is distributed: train-clean-100, dev-clean, test-clean (SUPERB, arXiv 2105.01051).

Phones are those of the first pronunciation in the lexicons, which are looked up in the order given; a word that none
of them has becomes SPN, as in Kaldi, and the words are counted in a warning. Lexicons may have probabilities behind
the words, as Kaldi's lexiconp.txt has, and blank lines.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from spear import fs
from spear.errors import DataError
from spear.evaluate.corpora.writing import (
    Rows,
    check_layout,
    is_usable_name,
    logger,
    with_durations,
    write_task,
)

_SPLITS = {"train-clean-100": "train", "dev-clean": "dev", "test-clean": "test"}
_HOW = (
    "download train-clean-100, dev-clean, test-clean and librispeech-lexicon.txt (CC BY 4.0) from openslr.org/12 and "
    "/11, or run stage 0 of egs/librispeech/superb/prepare.sh; DATA_ROOT names the folder that holds LibriSpeech/"
)
UNKNOWN = "SPN"
_NUMBER = re.compile(r"\d*\.?\d+(?:[eE][-+]?\d+)?")


def prepare(raw: Path, data_dir: Path, lexicon: Sequence[Path] = ()) -> dict[str, dict[str, int]]:
    """Writes the manifests of PR and ASR; returns the number of rows by task and split.

    Args:
        raw: the folder LibriSpeech, or the one that holds it.
        lexicon: files of lines WORD [PROBABILITY...] PHONE PHONE...; without any, `librispeech-lexicon.txt` in or
            beside `raw`.

    Raises:
        DataError: a split or every lexicon is missing.
    """
    root = raw / "LibriSpeech" if (raw / "LibriSpeech").is_dir() else raw
    check_layout(root, list(_SPLITS), "LibriSpeech", _HOW)
    rows = [row for folder, split in _SPLITS.items() for row in _utterances(root, folder, split)]
    rows = with_durations(rows, root, "LibriSpeech")
    counts = {"ASR": write_task(data_dir, "ASR", [{**row, "target": row["text"]} for row in rows])}
    files = list(lexicon) or [
        f for f in (folder / "librispeech-lexicon.txt" for folder in (raw, root, root.parent)) if f.exists()
    ]
    if not files:
        raise DataError(f"no lexicon in {root} or beside it (ASR has been written)", "librispeech-lexicon.txt", _HOW)
    pronunciations = read_lexicons(files)
    unknown: Counter[str] = Counter()
    spelled = [{**row, "target": _phones(row["text"], pronunciations, unknown)} for row in rows]
    if unknown:
        logger.warning(
            "%d words (%d running) are in no lexicon and become %s, such as %s",
            len(unknown), unknown.total(), UNKNOWN, ", ".join(word for word, _ in unknown.most_common(5)),
        )  # fmt: skip
    return counts | {"PR": write_task(data_dir, "PR", spelled)}


def _utterances(root: Path, folder: str, split: str) -> Rows:
    """Rows from the transcripts; an utterance without a recording keeps its row and is listed later."""
    rows = []
    for path in sorted((root / folder).glob("*/*/*.trans.txt")):
        for number, line in fs.iter_lines(path):
            name, _, text = line.strip().partition(" ")
            if not name or not is_usable_name(name, f"line {number} of {path}", "/\\"):
                continue
            place = path.parent.relative_to(root) / f"{name}.flac"
            speaker = name.split("-")[0]
            rows.append({"id": name, "path": str(place), "split": split, "speaker": speaker, "text": text})
    if not rows:
        raise DataError(f"no transcript below {root / folder}", "SPEAKER/CHAPTER/*.trans.txt", _HOW)
    return rows


def read_lexicons(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Word -> phones of its first pronunciation in the first lexicon that has it."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if not Path(path).exists():
            raise DataError(f"no file {path}", "a lexicon with lines WORD PHONE PHONE...", _HOW)
        entries = [line.split() for _, line in fs.iter_lines(path) if line.strip()]
        # Numbers between word and phones are probabilities: all those with a point, and whole ones (a phone may be
        # called 1) where every line has one.
        always = all(len(words) > 2 and _NUMBER.fullmatch(words[1]) for words in entries)
        for word, *phones in entries:
            while len(phones) > 1 and _NUMBER.fullmatch(phones[0]) and (always or not phones[0].isdigit()):
                phones = phones[1:]
            if phones:
                found.setdefault(word.upper(), phones)
    return found


def _phones(text: str, pronunciations: dict[str, list[str]], unknown: Counter) -> list[str]:
    phones: list[str] = []
    for word in text.upper().split():
        if word not in pronunciations:
            unknown[word] += 1
        phones += pronunciations.get(word, [UNKNOWN])
    return phones
