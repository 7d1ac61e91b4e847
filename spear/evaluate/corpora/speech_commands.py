"""KS from Speech Commands v0.01: the training archive and the official test archive (SUPERB, arXiv 2105.01051).

Twelve classes: ten words, unknown, silence. Train and dev by the hash of the speaker, as the corpus prescribes: below
10 % dev, from 10 to 20 % left out, the rest train. Silence is one second of background noise: `_SILENCE_CROPS` crops of
each noise file, drawn by seed, where the published code draws new ones at every load. Test is the official archive.
"""

import hashlib
import re
from pathlib import Path

from spear.audio.load import probe
from spear.errors import DataError
from spear.evaluate.corpora.writing import Rows, check_layout, with_durations, write_task
from spear.seeds import numpy_rng

WORDS = "yes no up down left right on off stop go".split()
_NOISE = "_background_noise_"
_SILENCE_CROPS = {"train": 40, "dev": 10}
_MOST = 2**27 - 1
_HOW = (
    "unpack speech_commands_v0.01.tar.gz and speech_commands_test_set_v0.01.tar.gz (CC BY 4.0, download.tensorflow.org"
    "/data) side by side, or run stage 0 of egs/speech_commands/superb/prepare.sh; DATA_ROOT names the folder"
)


def prepare(raw: Path, data_dir: Path, seed: int = 0) -> dict[str, dict[str, int]]:
    """Writes the manifest of KS; returns the number of rows by split.

    Args:
        raw: holds `speech_commands_v0.01` and `speech_commands_test_set_v0.01`.

    Raises:
        DataError: one of them, a word, or the noise is missing.
    """
    train_name, test_name = "speech_commands_v0.01", "speech_commands_test_set_v0.01"
    check_layout(raw, [train_name, test_name], "Speech Commands v0.01", _HOW)
    check_layout(raw / train_name, [*WORDS, _NOISE], "the training archive", _HOW)
    check_layout(raw / test_name, [*WORDS, "_unknown_", "_silence_"], "the test archive", _HOW)
    rows = _spoken(raw, train_name) + _silence(raw, train_name, seed)
    for folder in (*WORDS, "_unknown_", "_silence_"):
        for path in sorted((raw / test_name / folder).glob("*.wav")):
            name = f"test-{folder.strip('_')}-{path.stem}"
            rows.append(_row(name, path, raw, "test", folder.strip("_")))
    return {"KS": write_task(data_dir, "KS", with_durations(rows, raw, "KS"))}


def split_of(name: str) -> str | None:
    """dev, train, or None for what would be test: by the SHA-1 hash of the speaker, the part before `_nohash_`."""
    speaker = re.sub(r"_nohash_.*$", "", Path(name).stem)
    place = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (_MOST + 1) * (100.0 / _MOST)
    return "dev" if place < 10 else None if place < 20 else "train"


def _row(name: str, path: Path, raw: Path, split: str, label: str) -> dict:
    speaker = re.sub(r"_nohash_.*$", "", path.stem)
    return {"id": name, "path": str(path.relative_to(raw)), "split": split, "speaker": speaker, "target": label}


def _spoken(raw: Path, train_name: str) -> Rows:
    rows = []
    for folder in sorted(p for p in (raw / train_name).iterdir() if p.is_dir() and p.name != _NOISE):
        for path in sorted(folder.glob("*.wav")):
            split = split_of(path.name)
            if split:
                label = folder.name if folder.name in WORDS else "unknown"
                rows.append(_row(f"{folder.name}-{path.stem}", path, raw, split, label))
    return rows


def _silence(raw: Path, train_name: str, seed: int) -> Rows:
    rows = []
    files = sorted((raw / train_name / _NOISE).glob("*.wav"))
    if not files:
        raise DataError(f"no noise in {raw / train_name / _NOISE}", "*.wav", _HOW)
    for path in files:
        seconds = probe(path).duration_seconds
        for split, count in _SILENCE_CROPS.items():
            starts = numpy_rng(seed, "silence", split, path.name).uniform(0, max(0.0, seconds - 1), count)
            for number, start in enumerate(starts):
                row = _row(f"silence-{split}-{path.stem}-{number:02d}", path, raw, split, "silence")
                rows.append(row | {"start": round(float(start), 4), "duration": min(1.0, round(seconds, 4))})
    return rows
