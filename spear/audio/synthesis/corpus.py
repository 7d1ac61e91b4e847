"""The embedded default corpus: what is in it, and writing it as FLAC files with a manifest.

Everything is synthetic: espeak-ng voices, and sounds and notes computed here. It is a function of the seed, made of
units (a speaker, a group of sounds) that processes make side by side and that survive an interruption.

Manifest columns: id, path, duration (seconds), kind (speech | event | music), speaker, text, label (`key=value;...`),
phones (space separated), split (train | dev | test), two_talker (the split of tasks that are tested on mixtures of two
talkers alone). The label `set` names the part of the corpus:

- keyword: one word; split by speaker, so that test speakers are never heard in training.
- command: labels intent, object, location; split at random within each speaker.
- sentence: text, phones and speaker (also as label `talker`); split at random within each speaker.
- noisy: a further sentence (training material) mixed with a sound event at 0-10 dB; `sources` names it.
- two_talker: a held-out keyword or sentence with a held-out sentence of another speaker below it; test only.
- event, note: label class; notes also pitch (such as C#4). Split at random within each class.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import spear
from spear import fs, log, ranges, records
from spear.audio.load import load_audio, save_audio
from spear.audio.synthesis import events, music, text
from spear.audio.synthesis.channel import Conditions, limited, through_channel
from spear.audio.synthesis.espeak import SAMPLE_RATE_HZ, Speaker, restyled, speak, speakers
from spear.errors import ConfigError, DataError
from spear.executor import run_units
from spear.seeds import numpy_rng

COLUMNS = ("id", "path", "duration", "kind", "speaker", "text", "label", "phones", "split", "two_talker")
SPEECH = Conditions(equaliser_db=5.0, snr_db=(15.0, 30.0), reverberation_seconds=0.3)
SOUND = Conditions(equaliser_db=4.0, snr_db=(10.0, 30.0), reverberation_seconds=0.3)
NOTE = Conditions(equaliser_db=8.0, snr_db=(0.0, 25.0), reverberation_seconds=0.6)
MAX_SPEAKERS, FULL_SPEECH_MINUTES = 48, 45.0
# Mean seconds of each part (measured), from which the numbers of items follow, and its share of the minutes.
_SECONDS = {"keyword": 0.9, "command": 1.8, "sentence": 2.6, "noisy": 2.6, "event": 2.5, "note": 1.4}
_SHARE = {"keyword": 0.22, "command": 0.32, "sentence": 0.46, "noisy": 0.04, "event": 0.66, "note": 0.38}
# Per speaker, class or pitch: with fewer, some class of some task has no two test items or no two for training.
_LEAST = {"keyword": len(text.KEYWORDS), "command": 5, "sentence": 5, "noisy": 1}
_LEAST_SOUNDS = 5
_SOUNDS_PER_UNIT = 64
logger = log.get_logger("synthesis")


@dataclass
class CorpusConfig:
    """Settings of the synthetic corpus.

    Attributes:
        output: the folder to write; it gets audio/, manifest.tsv, README.md and corpus.json.
        seed: another seed gives other speakers, texts and sounds.
        speech_minutes: about how much speech; 0 for none. Below 45 minutes there are fewer than 48 speakers, and never
            less than about 4 minutes by 6 speakers, so that every task can be made.
        audio_minutes: about how much general audio (sound events and notes); 0 for none, else at least about 7.
        num_jobs: processes; 0 means one per core.
    """

    output: str
    seed: int = 42
    speech_minutes: records.NotNegative = FULL_SPEECH_MINUTES
    audio_minutes: records.NotNegative = 35.0
    num_jobs: ranges.Jobs = 0


def synthesise_corpus(config: CorpusConfig) -> dict:
    """Makes the corpus and returns {items, speech_minutes, audio_minutes, speakers, ids_sha256}.

    Raises:
        ConfigError: nothing to make, or the folder holds a manifest of something else.
        MissingPackageError: `espeakng-loader` is not installed.
    """
    output = Path(config.output)
    if config.speech_minutes < 0 or config.audio_minutes < 0 or config.speech_minutes + config.audio_minutes <= 0:
        raise ConfigError(
            f"{config.speech_minutes} minutes of speech and {config.audio_minutes} of audio",
            "positive minutes",
            "correct --speech-minutes or --audio-minutes",
        )
    if (output / "manifest.tsv").exists() and not (output / "corpus.json").exists():
        raise ConfigError(
            f"{output} holds a corpus that spear did not make", "a new or empty folder", "choose another --output"
        )
    directory = str(output.absolute())
    units = _speech_units(config, directory) + _sound_units(config, directory)
    made = run_units(make_unit, units, output / ".done", num_jobs=config.num_jobs, label="synthesis")
    rows = [row for result in made for row in result["rows"]]
    mixtures = _mixture_units(config, directory, rows)
    made = run_units(mix_unit, mixtures, output / ".done", num_jobs=config.num_jobs, label="mixtures")
    rows += [row for result in made for row in result["rows"]]
    return _finish(output, config, rows)


# What is made ------------------------------------------------------------------------------------------------------


def _speech_units(config: CorpusConfig, directory: str) -> list[dict]:
    """One unit per speaker, with its share of the parts and the split of its keywords."""
    count = round(MAX_SPEAKERS * min(1.0, config.speech_minutes / FULL_SPEECH_MINUTES))
    count = max(count, 6) if config.speech_minutes > 0 else 0
    seconds = 60 * config.speech_minutes / max(count, 1)
    amounts = {part: round(_SHARE[part] * seconds / _SECONDS[part]) for part in _LEAST}
    amounts = {part: max(amounts[part], least) for part, least in _LEAST.items()}
    order = numpy_rng(config.seed, "speaker_split").permutation(count)
    test, dev = math.ceil(0.25 * count), math.ceil(0.1 * count)
    units = []
    for number, speaker in enumerate(speakers(count, config.seed)):
        place = int(np.flatnonzero(order == number)[0])
        split = "test" if place < test else "dev" if place < test + dev else "train"
        units.append(
            {"name": speaker.name, "seed": config.seed, "directory": directory, "speaker": vars(speaker)}
            | {"amounts": amounts, "split": split, "version": spear.__version__}
        )
    return units


def _sound_units(config: CorpusConfig, directory: str) -> list[dict]:
    """Units of sounds; each sound is (part, class, number of it within its class, number of its class)."""
    seconds = 60 * config.audio_minutes
    sounds = []
    parts = {"event": list(events.CLASSES)}
    parts["note"] = [str(music.LOWEST_MIDI + number) for number in range(music.NUM_PITCHES)]
    for part, names in parts.items() if seconds else ():
        amount = max(round(_SHARE[part] * seconds / _SECONDS[part] / len(names)), _LEAST_SOUNDS)
        sounds += [(part, name, number, amount) for name in names for number in range(amount)]
    pieces = [sounds[start : start + _SOUNDS_PER_UNIT] for start in range(0, len(sounds), _SOUNDS_PER_UNIT)]
    common = {"seed": config.seed, "directory": directory, "version": spear.__version__}
    return [{"name": f"sounds{number:03d}", "sounds": piece, **common} for number, piece in enumerate(pieces)]


def _mixture_units(config: CorpusConfig, directory: str, rows: list[dict]) -> list[dict]:
    """Noisy speech, and two-talker mixtures of test items; who is mixed with whom is decided here."""
    part = {
        name: [row for row in rows if row["label"]["set"] == name] for name in ("keyword", "sentence", "noisy", "event")
    }
    below = [row for row in part["sentence"] if row["split"] == "test"]
    sounds = [row for row in part["event"] if row["split"] == "train"]
    rng = numpy_rng(config.seed, "mixtures")
    jobs = []
    for row in part["noisy"]:
        if sounds:
            jobs.append((row, sounds[rng.integers(len(sounds))], float(rng.uniform(0, 10)), "noisy"))
    tested = [row for name in ("keyword", "sentence") for row in part[name] if row["split"] == "test"]
    for row in tested:
        others = [other for other in below if other["speaker"] != row["speaker"]]
        if others:
            jobs.append((row, others[rng.integers(len(others))], float(rng.uniform(0, 6)), "two_talker"))
    common = {"seed": config.seed, "directory": directory, "version": spear.__version__}
    pieces = [jobs[start : start + 64] for start in range(0, len(jobs), 64)]
    return [{"name": f"mixtures{number:03d}", "jobs": piece, **common} for number, piece in enumerate(pieces)]


# Making it ---------------------------------------------------------------------------------------------------------


def make_unit(unit: dict) -> dict:
    """Renders one unit of speech or sounds: writes its files, returns its manifest rows."""
    return {"rows": _render_speaker(unit) if "speaker" in unit else _render_sounds(unit)}


def _render_speaker(unit: dict) -> list[dict]:
    speaker, seed = Speaker(**unit["speaker"]), unit["seed"]
    rng = numpy_rng(seed, "texts", speaker.name)
    planned: list[tuple[str, str, dict]] = []
    words = list(rng.permutation(text.KEYWORDS))
    for number in range(unit["amounts"]["keyword"]):
        word = str(words[number % len(words)])
        planned.append(("keyword", word, {"keyword": word}))
    for _ in range(unit["amounts"]["command"]):
        planned.append(("command", *text.command(rng)))
    for part in ("sentence", "noisy"):
        planned += [(part, text.sentence(rng), {"talker": speaker.name}) for _ in range(unit["amounts"][part])]
    spoken = speak([(restyled(speaker, rng), words) for _, words, _ in planned])
    drawn = {part: iter(_random_splits(unit["amounts"][part], rng)) for part in ("command", "sentence")}
    rows = []
    for number, ((part, words, label), speech) in enumerate(zip(planned, spoken)):
        row = {"id": f"{speaker.name}-{part}-{number:03d}", "kind": "speech", "speaker": speaker.name, "text": words}
        row |= {"label": {"set": part, **label}, "phones": " ".join(speech.phones)}
        row["split"] = next(drawn[part]) if part in drawn else {"keyword": unit["split"], "noisy": "train"}[part]
        own = numpy_rng(seed, "channel", row["id"])
        wave = np.pad(speech.samples, [int(own.uniform(0.05, 0.3) * SAMPLE_RATE_HZ) for _ in range(2)])
        rows.append(_save(unit, row, through_channel(wave, own, SPEECH)))
    return rows


def _random_splits(count: int, rng: np.random.Generator) -> list[str]:
    """One fifth test (at least two), one tenth dev (at least one), the rest train, in random order."""
    test, dev = max(2, round(0.2 * count)), max(1, round(0.1 * count))
    names = ["test"] * test + ["dev"] * dev + ["train"] * (count - test - dev)
    return [names[place] for place in rng.permutation(count)]


def _render_sounds(unit: dict) -> list[dict]:
    rows = []
    for part, name, number, of in unit["sounds"]:
        item = f"{part}-{name}-{number:03d}"
        rng = numpy_rng(unit["seed"], "sound", item)
        split = _random_splits(of, numpy_rng(unit["seed"], "sound_split", part, name))[number]
        if part == "event":
            wave = events.event(name, rng.uniform(1.5, 3.5), rng)
            row = {"kind": "event", "label": {"set": part, "class": name}}
        else:
            timbre = music.TIMBRES[number % len(music.TIMBRES)]
            wave = music.note(int(name), timbre, rng.uniform(0.7, 1.6), rng)
            row = {"kind": "music", "label": {"set": part, "class": timbre, "pitch": music.note_name(int(name))}}
        row |= {"id": item, "speaker": "", "text": "", "phones": "", "split": split}
        rows.append(_save(unit, row, through_channel(wave, rng, SOUND if part == "event" else NOTE)))
    return rows


def mix_unit(unit: dict) -> dict:
    """Renders one unit of mixtures. Noisy speech replaces its clean recording, mixtures of talkers are new items."""
    rows = []
    for row, other, snr_db, part in unit["jobs"]:
        item = f"{row['id']}-with-{other['id']}" if part == "two_talker" else row["id"]
        rng = numpy_rng(unit["seed"], "mixture", item)
        first, second = (load_audio(Path(unit["directory"]) / one["path"]) for one in (row, other))
        length = first.size
        if second.size < length:
            second = np.pad(second, (0, length - second.size))
        start = int(rng.integers(0, second.size - length + 1))
        second = second[start : start + length]
        gain = np.sqrt(np.mean(first**2) / (np.mean(second**2) + 1e-10) / 10 ** (snr_db / 10))
        label = {**row["label"], "set": part, "sources": f"{row['id']}+{other['id']}", "snr_db": f"{snr_db:.1f}"}
        # Only the louder talker's words and name are the targets; both speakers are named.
        speaker = f"{row['speaker']}+{other['speaker']}" if part == "two_talker" else row["speaker"]
        new = {**row, "id": item, "label": label, "speaker": speaker}
        new["path"] = f"audio/{part}/{item}.flac"
        rows.append(_save(unit, new, limited(first + gain * second)))
    return {"rows": rows}


def _save(unit: dict, row: dict, wave: np.ndarray) -> dict:
    """Writes the recording and completes its row."""
    group = row["speaker"] if row["label"]["set"] in ("keyword", "command", "sentence", "noisy") else row["kind"]
    row.setdefault("path", f"audio/{group}/{row['id']}.flac")
    save_audio(Path(unit["directory"]) / row["path"], wave, SAMPLE_RATE_HZ)
    return {**row, "duration": round(wave.size / SAMPLE_RATE_HZ, 4)}


# The manifest ------------------------------------------------------------------------------------------------------


def _finish(output: Path, config: CorpusConfig, rows: list[dict]) -> dict:
    """Writes README.md, manifest.tsv and corpus.json. A mixture's row replaces a clean row of the same id."""
    known = {row["path"] for row in rows}  # also the clean sides of noisy speech, which a rerun may need
    present = {path.relative_to(output).as_posix() for path in (output / "audio").rglob("*.flac")}
    for path in present - known:  # left from other settings
        (output / path).unlink()
    if known - present:
        raise DataError(
            f"{len(known - present)} recordings of {output} are missing, such as {min(known - present)}",
            "every recording that was made",
            f"delete {output / '.done'} and run the command again",
        )
    rows = sorted({row["id"]: row for row in rows}.values(), key=lambda row: row["id"])
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        part = row["label"]["set"]
        row["two_talker"] = row["split"] if (part == "two_talker") == (row["split"] == "test") else ""
        label = ";".join(f"{key}={value}" for key, value in row["label"].items())
        lines.append("\t".join(str({**row, "label": label}[column]) for column in COLUMNS))
    minutes = {
        kind: sum(row["duration"] for row in rows if row["kind"] == kind) / 60 for kind in ("speech", "event", "music")
    }
    summary = {
        "synthetic": True,
        "items": len(rows),
        "speech_minutes": round(minutes["speech"], 2),
        "audio_minutes": round(minutes["event"] + minutes["music"], 2),
        "speakers": len({row["speaker"] for row in rows if row["speaker"] and "+" not in row["speaker"]}),
        "ids_sha256": fs.sha256_json([row["id"] for row in rows]),
        "seed": config.seed,
        "spear_version": spear.__version__,
    }
    fs.write_text(output / "README.md", _readme(summary, minutes))
    fs.write_json(output / "corpus.json", summary)
    fs.write_text(output / "manifest.tsv", "\n".join(lines) + "\n")
    return summary


def _readme(summary: dict, minutes: dict[str, float]) -> str:
    return f"""# Synthetic corpus

Everything in this folder is synthetic: no recording of a person or of a real sound is in it. Speech is by espeak-ng
({summary["speakers"]} voices), sounds and notes are computed; each item passes a random filter, room, background noise
and level. Results on it say how parts of a pipeline compare, not how well anything works on real audio.

{summary["items"]} recordings, 16 kHz mono FLAC: speech {minutes["speech"]:.1f} min, events {minutes["event"]:.1f} min,
notes {minutes["music"]:.1f} min. Made by `spear synthesize`, seed {summary["seed"]}, spear {summary["spear_version"]}.
`manifest.tsv` lists the items; the label `set` names the part of the corpus.
"""
