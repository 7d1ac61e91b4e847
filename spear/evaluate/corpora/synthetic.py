"""All ten tasks, and SS, from the embedded synthetic corpus (`spear synthesize`); some recordings are made here.

KS, IC, SID, PR, ASR and SF use the corpus's own recordings and splits; SF's slots are the places and objects said in
commands. ASV trains on the speakers whose keywords are training material and is tested on pairs of the others. QbE
looks for keywords of held-out speakers in sentences and commands. SD gets dialogues of two talkers, SS two talkers at
once with each of them alone, ER four manners of speaking, and SED sounds one after the other, which overlap or not.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.audio.load import load_audio, save_audio
from spear.audio.synthesis.dialogue import dialogue
from spear.audio.synthesis.emotion import emotional_speech
from spear.audio.synthesis.espeak import SAMPLE_RATE_HZ, speakers
from spear.audio.synthesis.text import KEYWORDS
from spear.errors import DataError
from spear.evaluate.corpora.writing import Rows, random_trials, read_entries, share, write_task, write_trials
from spear.executor import run_units
from spear.seeds import numpy_rng

_OBJECTS = ("lights", "music", "heat", "temperature", "volume", "sound")
_DIALOGUES = {"train": 120, "dev": 20, "test": 40}
_TURNS = 4
_SCENES, _SOUNDS = {"train": 90, "dev": 20, "test": 40}, 3
_EMOTION_SPEAKERS, _EMOTION_SENTENCES, _SESSIONS = 24, 3, 4
_QUERIES, _DOCUMENTS, _TRIALS = 24, 160, 400


def prepare(raw: Path, data_dir: Path, seed: int = 42, num_jobs: int = 0) -> dict[str, dict[str, int]]:
    """Writes the manifests of all tasks; returns the number of rows by task and split.

    Args:
        raw: the folder of `spear synthesize`.

    Raises:
        DataError: it has no manifest, or is not such a folder.
    """
    fix = "run spear synthesize first"
    if not (raw / "corpus.json").exists():
        raise DataError(f"no synthetic corpus in {raw}", "manifest.tsv and corpus.json", fix)
    entries = read_entries(raw, "the synthetic corpus", fix, ("split", "phones"))
    sets = ("keyword", "command", "sentence", "event")
    part = {name: [e for e in entries if e["labels"].get("set") == name] for name in sets}
    said = part["sentence"] + part["command"]
    counts = {
        "KS": write_task(data_dir, "KS", (_row(e, e["labels"]["keyword"]) for e in part["keyword"])),
        "SID": write_task(data_dir, "SID", (_row(e, e["speaker"]) for e in part["sentence"])),
        "IC": write_task(data_dir, "IC", (_row(e, _intent(e)) for e in part["command"])),
        "PR": write_task(data_dir, "PR", (_row(e, e["phones"].split()) for e in said)),
        "ASR": write_task(data_dir, "ASR", (_row(e, e["text"]) for e in said)),
        "SF": write_task(data_dir, "SF", (_row(e, slots_of_command(e["text"])) for e in part["command"])),
        "QbE": write_task(data_dir, "QbE", _queries(part["keyword"]) + _documents(said)),
    }
    counts["ASV"] = _verification(data_dir, part["keyword"], said)
    counts["SD"] = write_task(data_dir, "SD", _dialogues(data_dir, part["sentence"], seed, num_jobs))
    counts["SS"] = write_task(data_dir, "SS", _pairs(data_dir, part["sentence"], seed, num_jobs))
    counts["ER"] = write_task(data_dir, "ER", _emotions(data_dir, seed, num_jobs))
    if part["event"]:  # a corpus may have none
        scenes = _made(_make_dialogue, scenes_of(part["event"], seed), data_dir, "scenes", num_jobs)
        counts["SED"] = write_task(data_dir, "SED", scenes)
    return counts


def _row(entry: dict, target, split: str = "") -> dict:
    row = {"id": entry["id"], "path": entry["path"], "split": split or entry["split"]}
    return row | {"duration": float(entry["duration"]), "speaker": entry["speaker"], "target": target}


def _intent(entry: dict) -> dict[str, str]:
    return {slot: entry["labels"][slot] for slot in ("intent", "object", "location")}


def slots_of_command(text: str) -> list[list]:
    """[slot or None, words] parts of a command: the object where it is said, and the place after "in the"."""
    parts: list[list] = []
    words = text.split()
    for place, word in enumerate(words):
        slot = "object" if word in _OBJECTS else None
        if place > 1 and words[place - 2 : place] == ["in", "the"]:
            slot = "location"
        if slot is None and parts and parts[-1][0] is None:
            parts[-1][1] += f" {word}"
        else:
            parts.append([slot, word])
    return parts


def _queries(keywords: list[dict]) -> Rows:
    """Keywords of dev and of test speakers, `_QUERIES` of each, every keyword about equally often."""
    rows = []
    for split in ("dev", "test"):
        mine = sorted((e for e in keywords if e["split"] == split), key=lambda e: share(e["id"], "query"))
        ranks: dict[str, int] = {}
        for entry in mine:
            ranks[entry["id"]] = sum(1 for other in ranks if other.endswith(entry["text"]))
        mine.sort(key=lambda e: (ranks[e["id"]], share(e["id"], "query")))
        rows += [_row(e, e["text"]) | {"role": "query"} for e in mine[:_QUERIES]]
    return rows


def _documents(said: list[dict]) -> Rows:
    """Sentences and commands with the keywords in them; half of them hold one."""
    rows = []
    for entry in said:
        terms = sorted(set(entry["text"].split()) & set(KEYWORDS))
        rows.append(_row(entry, terms, split="all") | {"role": "document"})
    rows.sort(key=lambda row: share(row["id"], "document"))
    holding = [row for row in rows if row["target"]][: _DOCUMENTS // 2]
    return holding + [row for row in rows if not row["target"]][: _DOCUMENTS - len(holding)]


def _verification(data_dir: Path, keywords: list[dict], said: list[dict]) -> dict[str, int]:
    split_of = {entry["speaker"]: entry["split"] for entry in keywords}
    rows = [_row(entry, entry["speaker"], split=split_of[entry["speaker"]]) for entry in said]
    trials = []
    for split in ("dev", "test"):
        speaker_of = {row["id"]: row["target"] for row in rows if row["split"] == split}
        trials += random_trials(speaker_of, split, _TRIALS)
    return write_task(data_dir, "ASV", rows) | write_trials(data_dir, trials)


# Recordings made here ------------------------------------------------------------------------------------------------


def _dialogues(data_dir: Path, sentences: list[dict], seed: int, num_jobs: int) -> Rows:
    return _made(_make_dialogue, _of_two("dialogue", _TURNS, sentences, seed), data_dir, "dialogues", num_jobs)


def _pairs(data_dir: Path, sentences: list[dict], seed: int, num_jobs: int) -> Rows:
    return _made(_make_pair, _of_two("pair", 2, sentences, seed), data_dir, "pairs", num_jobs)


def _of_two(kind: str, num_turns: int, sentences: list[dict], seed: int) -> list[dict]:
    """Units of work: sentences of two speakers of one split in turn, drawn by seed."""
    units = []
    for split, count in _DIALOGUES.items():
        pool = [entry for entry in sentences if entry["split"] == split]
        for number in range(count):
            rng = numpy_rng(seed, kind, split, number)
            first, second = rng.choice(sorted({e["speaker"] for e in pool}), size=2, replace=False)
            turns = []
            for turn in range(num_turns):
                mine = [e for e in pool if e["speaker"] == (first, second)[turn % 2]]
                chosen = mine[rng.integers(len(mine))]
                turns.append([chosen["speaker"], chosen["path"]])
            units.append({"name": f"{kind}-{split}-{number:03d}", "split": split, "turns": turns, "seed": seed})
    return units


def scenes_of(events: list[dict], seed: int) -> list[dict]:
    """Units of work: sounds of one split, drawn by seed; what takes its turn is a sound instead of a speaker."""
    units = []
    for split, count in _SCENES.items():
        pool = [entry for entry in events if entry["split"] == split]
        for number in range(count if len(pool) >= _SOUNDS else 0):
            drawn = numpy_rng(seed, "scene", split, number).choice(len(pool), size=_SOUNDS, replace=False)
            turns = [[pool[place]["labels"]["class"], pool[place]["path"]] for place in drawn]
            units.append({"name": f"scene-{split}-{number:03d}", "split": split, "turns": turns, "seed": seed})
    return units


def _make_pair(unit: dict) -> dict:
    """Two talkers at once, as long as the shorter of the two, with levels up to 5 dB apart."""
    rng = numpy_rng(unit["seed"], "levels", unit["name"])
    waves = [load_audio(path) for _, path in unit["turns"]]
    size = min(map(len, waves))
    sources = [0.35 * wave[:size] * 10 ** (rng.uniform(-2.5, 2.5) / 20) for wave in waves]
    names = [f"{unit['name']}-s{number}" for number in (1, 2)]
    for name, source in zip(names, sources):
        _saved(unit, name, source, None)
    row = _saved(unit, unit["name"], sources[0] + sources[1], [f"{name}.flac" for name in names])
    return {"rows": [row | {"split": unit["split"]}]}


def _make_dialogue(unit: dict) -> dict:
    turns = [(speaker, load_audio(path)) for speaker, path in unit["turns"]]
    wave, segments = dialogue(turns, numpy_rng(unit["seed"], "turns", unit["name"]))
    return {"rows": [_saved(unit, unit["name"], wave, segments) | {"split": unit["split"]}]}


def _emotions(data_dir: Path, seed: int, num_jobs: int) -> Rows:
    units = [
        {"name": speaker.name, "speaker": vars(speaker), "seed": seed, "session": f"session{number % _SESSIONS}"}
        for number, speaker in enumerate(speakers(_EMOTION_SPEAKERS, seed))
    ]
    return _made(_make_emotions, units, data_dir, "emotions", num_jobs)


def _make_emotions(unit: dict) -> dict:
    from spear.audio.synthesis.espeak import Speaker

    rows = []
    spoken = emotional_speech(Speaker(**unit["speaker"]), _EMOTION_SENTENCES, unit["seed"])
    for number, (manner, _, wave) in enumerate(spoken):
        row = _saved(unit, f"{unit['name']}-{manner}-{number:02d}", wave, manner)
        rows.append(row | {"split": "all", "session": unit["session"], "speaker": unit["name"]})
    return {"rows": rows}


def _saved(unit: dict, name: str, wave: np.ndarray, target) -> dict:
    path = Path(unit["directory"]) / f"{name}.flac"
    save_audio(path, wave, SAMPLE_RATE_HZ)
    place = f"superb/audio/{path.parent.name}/{path.name}"
    return {"id": name, "path": place, "duration": round(wave.size / SAMPLE_RATE_HZ, 4), "target": target}


def _made(make, units: Sequence[dict], data_dir: Path, folder: str, num_jobs: int) -> Rows:
    """Runs units that write audio below `superb/audio/FOLDER`; what is done already is kept."""
    directory = data_dir / "superb" / "audio" / folder
    units = [{**unit, "directory": str(directory.absolute())} for unit in units]
    # Another seed or version of the corpus gives other units and so another folder of done-files.
    done = data_dir / "superb" / ".done" / f"{folder}-{fs.sha256_json(units)[:12]}"
    results = run_units(make, units, done, num_jobs=num_jobs, label=folder)
    return [row for result in results for row in result["rows"]]
