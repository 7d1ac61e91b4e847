"""SID and ASV from VoxCeleb1 as it is unpacked, `wav/SPEAKER/VIDEO/NUMBER.wav`, with its lists.

SID: `iden_split.txt`; training recordings longer than 8 s come as up to three crops of 8 s, drawn by seed. ASV: trains
on the development speakers but for `_DEV_SPEAKERS`, drawn by hash, whose trials serve the clean selection; test is the
cleaned list `veri_test2.txt`. Silence is cut as sox does it in the published protocol, after the level is lowered by
3 dB; of the development speakers' recordings, those with less than 2 s left are not used.
"""

from pathlib import Path

import numpy as np

from spear import fs
from spear.audio.load import load_audio
from spear.errors import DataError, SpearError
from spear.evaluate.corpora.writing import (
    Rows,
    check_layout,
    is_usable_name,
    random_trials,
    share,
    with_durations,
    write_task,
    write_trials,
)
from spear.evaluate.excerpt import sounding
from spear.evaluate.protocol import settings_of
from spear.executor import run_units
from spear.seeds import numpy_rng

_CROP_SECONDS, _CROPS = 8.0, 3
_RATE_HZ, _LEAST_SECONDS, _UNIT_ROWS = 16000, 2.0, 500
_DEV_SPEAKERS, _DEV_TRIALS = 40, 5000
_SPLIT_NAMES = {"1": "train", "2": "dev", "3": "test"}
_HOW = (
    "VoxCeleb1 needs a form (robots.ox.ac.uk/~vgg/data/voxceleb; research only, no redistribution), so nothing is "
    "downloaded here: unpack the audio to wav/ and put iden_split.txt and veri_test2.txt beside it; DATA_ROOT names "
    "the folder"
)


def prepare(raw: Path, data_dir: Path, seed: int = 0, num_jobs: int = 0) -> dict[str, dict[str, int]]:
    """Writes the manifests of SID and ASV; returns the number of rows by task and split.

    Args:
        raw: holds `wav/` (or dev/wav and test/wav), `iden_split.txt` and `veri_test2.txt`.
        num_jobs: processes that look for silence; 0: one for each core.

    Raises:
        DataError: a part is missing, or a list does not have its form.
    """
    check_layout(raw, ["iden_split.txt", "veri_test2.txt"], "VoxCeleb1", _HOW)
    places = [p for p in ("wav", "dev/wav", "test/wav") if (raw / p).is_dir()]
    if not places:
        raise DataError(f"no wav/ in {raw}", "wav/ or dev/wav and test/wav", _HOW)
    listed = _identification(raw, places)
    counts = {"SID": write_task(data_dir, "SID", _with_crops(listed, seed))}
    return counts | {"ASV": _verification(raw, data_dir, listed, num_jobs)}


def _find(raw: Path, places: list[str], name: str) -> str:
    """Where a recording is, relative to `raw`; in the first place when it is nowhere."""
    return next((f"{p}/{name}" for p in places if (raw / p / name).exists()), f"{places[0]}/{name}")


def _identification(raw: Path, places: list[str]) -> Rows:
    rows = []
    for number, line in fs.iter_lines(raw / "iden_split.txt"):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in _SPLIT_NAMES:
            raise DataError(f"line {number} of iden_split.txt: '{line}'", "1, 2 or 3 and a path", _HOW)
        if not is_usable_name(words[1], f"line {number} of iden_split.txt"):
            continue
        speaker = words[1].split("/")[0]
        row = {"id": words[1], "path": _find(raw, places, words[1]), "split": _SPLIT_NAMES[words[0]]}
        rows.append({**row, "speaker": speaker, "target": speaker})
    return with_durations(rows, raw, "SID")


def _with_crops(rows: Rows, seed: int) -> Rows:
    found = []
    for row in rows:
        excess = row["duration"] - _CROP_SECONDS
        if row["split"] != "train" or excess <= 0:
            found.append(row)
            continue
        starts = numpy_rng(seed, "sid-crops", row["id"]).uniform(0, excess, _CROPS)
        for number, start in enumerate(starts):
            crop = {"id": f"{row['id']}#{number}", "crop_of": row["id"], "start": round(float(start), 4)}
            found.append({**row, **crop, "duration": _CROP_SECONDS})
    return found


def _verification(raw: Path, data_dir: Path, listed: Rows, num_jobs: int) -> dict[str, int]:
    trials = []
    for number, line in fs.iter_lines(raw / "veri_test2.txt"):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise DataError(f"line {number} of veri_test2.txt: '{line}'", "0 or 1 and two paths", _HOW)
        trials.append({"split": "test", "first": words[1], "second": words[2], "same": words[0] == "1"})
    tested = {trial[side] for trial in trials for side in ("first", "second")}
    test_speakers = {name.split("/")[0] for name in tested}
    by_id = {row["id"]: row for row in listed}
    unknown = sorted(tested - set(by_id))
    if unknown:
        raise DataError(
            f"{len(unknown)} recordings of veri_test2.txt are not in iden_split.txt, such as {unknown[0]}",
            "two lists of the same corpus",
            _HOW,
        )
    others = sorted({row["speaker"] for row in listed} - test_speakers, key=lambda name: share(name, "asv-dev"))
    held = set(others[: min(_DEV_SPEAKERS, len(others) // 3)])
    rows = [{**by_id[name], "split": "test"} for name in sorted(tested)]
    for row in listed:
        if row["speaker"] not in test_speakers:
            rows.append({**row, "split": "dev" if row["speaker"] in held else "train"})
    rows = _without_silence(rows, data_dir, num_jobs)
    speaker_of = {row["id"]: row["speaker"] for row in rows if row["split"] == "dev" and not row.get("unused")}
    trials = random_trials(_thinned(speaker_of), "dev", _DEV_TRIALS) + trials
    used = {trial[side] for trial in trials for side in ("first", "second")}
    rows = [row for row in rows if row["split"] == "train" or row["id"] in used]
    return write_task(data_dir, "ASV", rows) | write_trials(data_dir, trials)


def _thinned(speaker_of: dict[str, str], most: int = 30) -> dict[str, str]:
    """At most so many recordings of each speaker."""
    counts: dict[str, int] = {}
    kept = {}
    for name in sorted(speaker_of, key=lambda name: share(name, "asv-dev")):
        speaker = speaker_of[name]
        counts[speaker] = counts.get(speaker, 0) + 1
        if counts[speaker] <= most:
            kept[name] = speaker
    return kept


def _without_silence(rows: Rows, data_dir: Path, num_jobs: int) -> Rows:
    """The rows with what is left of them (`kept`), its duration, and the reason where it is too little (`unused`)."""
    units = []
    for start in range(0, len(rows), _UNIT_ROWS):
        part = [[row["path"], row["duration"]] for row in rows[start : start + _UNIT_ROWS]]
        units.append({"name": f"silence-{start // _UNIT_ROWS:05d}", "recordings": part})
    done = data_dir / "superb" / ".done" / f"silence-{fs.sha256_json(units)[:12]}"
    results = run_units(_find_silence, units, done, num_jobs=num_jobs, label="silence")
    found = []
    for row, kept in zip(rows, (kept for result in results for kept in result["kept"])):
        if kept is None:  # unreadable: every run file lists it
            found.append(row)
            continue
        seconds = sum(stop - start for start, stop in kept) / _RATE_HZ
        if not kept:
            row = {**row, "unused": "silence alone"}
        elif row["split"] != "test" and seconds < _LEAST_SECONDS:
            row = {**row, "unused": f"less than {_LEAST_SECONDS:g} s without silence"}
        found.append({**row, "kept": kept, "duration": round(seconds, 4)})
    return found


def _find_silence(unit: dict) -> dict:
    """Unit of work: what is left of some recordings; None for one that cannot be read."""
    gain = np.float32(10 ** (settings_of("superb", "ASV").gain_db / 20))
    found: list[list[tuple[int, int]] | None] = []
    for path, _ in unit["recordings"]:
        try:
            found.append(sounding(gain * load_audio(path, _RATE_HZ)))
        except SpearError:
            found.append(None)
    return {"kept": found}
