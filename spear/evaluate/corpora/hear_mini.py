"""Eighteen small tasks in the layout and of the kinds of HEAR 2021, from a small folder of real recordings.

None of them is a task of HEAR, and no number of theirs is one of the benchmark: they are for trying things out. Each
stands for one of the nineteen, all but musical genres:

| task | for | what it is |
| --- | --- | --- |
| digits, wake_words | Speech Commands 5h, full | spoken digits of unseen speakers; wake words |
| note_pitch, note_pitch_more | NSynth 5h, 50h | notes, of which many are played faster or slower to be other notes |
| drum_strokes, drum_tonics | Mridangam stroke, tonic | strokes of drums; drums at six speeds |
| percussion | Beijing Opera | four kinds of percussion, each fold another kit |
| emotions | CREMA-D | acted emotions, in German, unseen speakers |
| sounds, sound_tags, sound_kinds | ESC-50, FSD50K, Vocal Imitations | sounds; two at once; kinds of sounds by mAP |
| talkers | LibriCount | how many talk, none to three, mixed here |
| music_speech | GTZAN music/speech | notes against read speech |
| accents | VoxLingua107 | German, English, English of Mandarin speakers; each of one corpus, which tells as well |
| hums | Beehive | whether a faint tone is in the hum of a fridge, made here |
| microphones | Gunshot triangulation | which of four places a stroke is heard from; echo and filter are made here |
| hits_in_noise, notes_in_time | DCASE 2016 task 2, Maestro 5h | drums in noise, and notes, with times |
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from spear.audio.load import load_audio
from spear.errors import DataError
from spear.evaluate.corpora.writing import read_entries, share
from spear.evaluate.hear.writing import Clip, write_task
from spear.seeds import numpy_rng

RATE_HZ = 16000
_SOURCES = ("fsdd", "wakeword", "salamander", "freepats-guitar", "drumhits", "emodb", "esc10", "berklee", "pst-noise")
_READERS = "librispeech-test-other"
_JOINED = ("wakeword", "berklee", "speechocean762")
_KITS = ("drumhits", "pearl-drums", "sonic-pi")
_PERCUSSION = {"kick": "kick", "snare": "snare", "tom": "tom"}
_PERCUSSION |= dict.fromkeys(("cymbal", "crash", "ride", "splash", "hihat"), "cymbal")
_ACCENTS = {"emodb": "German", _READERS: "English", "speechocean762": "of Mandarin"}
_NOTES = {name: number for number, name in enumerate("C C# D D# E F F# G G# A A# B".split())}
_PITCHES = range(52, 77)
_FURTHEST = 4  # semitones that a note is moved
_ACCURACY = ["top1_acc", "mAP", "d_prime", "aucroc"]
_EVENTS = {"embedding_type": "event", "prediction_type": "multilabel"}
_SPLIT = {"split_mode": "trainvaltest"}

Entries = list[dict]


def prepare(raw: Path, data_dir: Path, seed: int = 0, max_clips: int = 0, more: str = "") -> dict[str, dict[str, int]]:
    """Writes `data_dir/tasks`; returns the clips of each task and split.

    Args:
        raw: the folder real-mini, or one with the same sources.
        more: a second folder, such as real-large, whose wake words, kinds of sounds and Mandarin speakers join in. Its
            sounds of ESC do not: their names hide which are parts of one recording.
        seed: of mixtures.
        max_clips: at most about so many of a task; 0: all.

    Raises:
        DataError: no manifest.tsv with the sources that the tasks need.
    """
    fix = "give the folder with all its sources"
    of: dict[str, Entries] = {}
    for entry in read_entries(raw, "a folder of recordings", fix):
        of.setdefault(Path(entry["path"]).parent.name, []).append(entry)
    for entry in read_entries(Path(more), "a folder of recordings", fix) if more else ():
        source = Path(entry["path"]).parent.name
        if source in _JOINED:
            of.setdefault(source, []).append(entry)
    needed = {*_SOURCES, *_KITS, *_ACCENTS}
    if not needed <= set(of):
        raise DataError(f"{raw} without {', '.join(sorted(needed - set(of)))}", f"recordings of {needed}", fix)
    return {
        name: write_task(data_dir / "tasks", f"{name}-v1-mini", _some(make(of, seed), max_clips), RATE_HZ, *rest)
        for name, (make, *rest) in _TASKS.items()
    }


def _some(clips: Iterable[Clip], most: int) -> Iterator[Clip]:
    """About `most` clips, as many of each split."""
    by_split: dict[str, list[Clip]] = {}
    for clip in clips:
        by_split.setdefault(clip.split, []).append(clip)
    each = -(-most // len(by_split)) if most and by_split else 0
    for found in by_split.values():
        found.sort(key=lambda clip: share(clip.name, "some"))
        yield from found[:each] if each else found


def _wave(entry: dict, speed: float = 1.0) -> np.ndarray:
    return load_audio(entry["path"], RATE_HZ, speed=speed)


def _fold(name: str, count: int) -> str:
    return f"fold{int(count * share(name, 'hear-mini')):02d}"


def _dealt(entries: Entries, count: int, label: Callable[[dict], str]) -> Iterator[Clip]:
    """Folds that have every label as often as can be."""
    numbers: dict[str, int] = {}
    for entry in sorted(entries, key=lambda e: share(e["id"], "hear-mini")):
        number = numbers[label(entry)] = numbers.get(label(entry), -1) + 1
        yield Clip(entry["id"], f"fold{number % count:02d}", partial(_wave, entry), [label(entry)])


def _digits(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    splits = {"fsdd-theo": "test", "fsdd-george": "valid"}
    for entry in of["fsdd"]:
        yield Clip(
            entry["id"], splits.get(entry["speaker"], "train"), partial(_wave, entry), [entry["labels"]["digit"]]
        )


def _wake_words(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    return _dealt(of["wakeword"], 3, lambda entry: entry["labels"]["keyword"])


def _strokes(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    return _dealt(of["drumhits"], 4, lambda entry: entry["labels"]["class"])


def _tonics(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    for entry in of["drumhits"]:
        for step in range(6):
            wave = partial(_wave, entry, 2 ** (step / 6))
            yield Clip(f"{entry['id']}-{step}", _fold(entry["id"], 3), wave, [str(step)])


def _emotions(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    speakers = {name: n for n, name in enumerate(sorted({entry["speaker"] for entry in of["emodb"]}))}
    for entry in of["emodb"]:
        fold = f"fold{speakers[entry['speaker']] % 5:02d}"
        yield Clip(entry["id"], fold, partial(_wave, entry), [entry["labels"]["emotion"]])


def _esc_folds(entries: Entries) -> dict[str, int]:
    """id -> one of five folds; clips of one recording are in one, and each fold has every class."""
    recordings: dict[str, dict[str, int]] = {}
    found = {}
    for entry in entries:
        name = re.sub(r"-[A-Z]$", "", entry["id"])
        numbers = recordings.setdefault(entry["labels"]["class"], {})
        found[entry["id"]] = numbers.setdefault(name, len(numbers)) % 5
    return found


def _sounds(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    folds = _esc_folds(of["esc10"])
    for entry in of["esc10"]:
        yield Clip(entry["id"], f"fold{folds[entry['id']]:02d}", partial(_wave, entry), [entry["labels"]["class"]])


def _two_sounds(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    rng, fold_of = numpy_rng(seed, "hear-mini", "tags"), _esc_folds(of["esc10"])
    for split, folds, count in (("train", (0, 1, 2), 120), ("valid", (3,), 40), ("test", (4,), 40)):
        mine = [entry for entry in of["esc10"] if fold_of[entry["id"]] in folds]
        for number in range(count):
            first, second = (mine[place] for place in rng.choice(len(mine), 2, replace=False))
            size = round(rng.uniform(2, 4) * RATE_HZ)
            wave_S = 0.5 * (_wave(first)[:size] + _wave(second)[:size])
            yield Clip(f"{number:03d}", split, wave_S, sorted({e["labels"]["class"] for e in (first, second)}))


def _kinds(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    counts: dict[str, int] = {}
    for entry in of["berklee"]:
        counts[entry["labels"]["class"]] = counts.get(entry["labels"]["class"], 0) + 1
    return _dealt([e for e in of["berklee"] if counts[e["labels"]["class"]] >= 3], 3, lambda e: e["labels"]["class"])


def _talkers(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    rng, size = numpy_rng(seed, "hear-mini", "talkers"), 2 * RATE_HZ
    speakers = sorted({entry["speaker"] for entry in of[_READERS]})
    for fold in range(3):
        mine = [entry for entry in of[_READERS] if speakers.index(entry["speaker"]) % 3 == fold]
        by_speaker = {name: [e for e in mine if e["speaker"] == name] for name in {e["speaker"] for e in mine}}
        for number in range(48):
            count = min(number % 4, len(by_speaker))
            wave_S = 1e-4 * rng.standard_normal(size)
            for name in rng.choice(sorted(by_speaker), count, replace=False):
                said = _wave(by_speaker[name][rng.integers(len(by_speaker[name]))])
                begin = rng.integers(max(1, len(said) - size))
                wave_S[: len(said[begin : begin + size])] += 0.3 * said[begin : begin + size]
            yield Clip(f"{number:03d}", f"fold{fold:02d}", wave_S.astype(np.float32), [str(count)])


def _music_or_speech(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    music = [entry for source in ("salamander", "freepats-guitar") for entry in of[source]]
    for label, entries in (("music", music), ("speech", of[_READERS])):
        for entry in entries:
            fold = _fold(entry["speaker"] if label == "speech" else entry["id"], 5)
            yield Clip(entry["id"], fold, partial(_wave, entry), [label])


def _percussion(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    for fold, kit in enumerate(_KITS):
        for entry in of[kit]:
            label = _PERCUSSION.get(entry["labels"]["class"])
            if label:
                yield Clip(entry["id"], f"fold{fold:02d}", partial(_wave, entry), [label])


def _accents(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    for source, label in _ACCENTS.items():
        speakers = {name: n for n, name in enumerate(sorted({entry["speaker"] for entry in of[source]}))}
        for entry in sorted(of[source], key=lambda e: share(e["id"], "accents"))[:70]:
            yield Clip(entry["id"], f"fold{speakers[entry['speaker']] % 3:02d}", partial(_wave, entry), [label])


def _hums(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    rng = numpy_rng(seed, "hear-mini", "hums")
    hum_S = _wave(next(entry for entry in of["pst-noise"] if "fridge" in entry["labels"]["class"]))
    times_S = np.arange(12 * RATE_HZ) / RATE_HZ
    for split, count in (("train", 24), ("valid", 12), ("test", 12)):
        for number in range(count):
            wave_S = np.resize(np.roll(hum_S, rng.integers(len(hum_S))), len(times_S))
            tone_S = np.sin(2 * np.pi * rng.uniform(350, 450) * times_S + rng.uniform(0, 6)) * (times_S % 1 < 0.6)
            loudness = (number % 2) * rng.uniform(0.3, 1.0) * float(np.sqrt(np.mean(np.square(hum_S))))
            yield Clip(f"{number:03d}", split, (wave_S + loudness * tone_S).astype(np.float32), [str(number % 2)])


def _microphones(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    """The farther, the weaker, the duller and the later the echo."""
    for number, entry in enumerate(of["drumhits"]):
        for place in range(4):
            yield Clip(f"{entry['id']}-{place}", f"fold{number % 3:02d}", partial(_from, entry, place), [str(place)])


def _from(entry: dict, place: int) -> np.ndarray:
    wave_S, kernel_K = _wave(entry), np.hanning(3 + 4 * place)
    dull_S = np.convolve(wave_S, kernel_K / kernel_K.sum(), mode="same") / (1 + place)
    delay = round((0.03 + 0.04 * place) * RATE_HZ)
    echo_S = np.concatenate([np.zeros(delay), dull_S])
    echo_S[: len(dull_S)] = dull_S + 0.4 * echo_S[: len(dull_S)]
    return echo_S.astype(np.float32)


# Notes and scenes ----------------------------------------------------------------------------------------------------


def _pitch(entry: dict) -> int:
    found = re.fullmatch(r"([A-G](?:#|s|b)?)(\d)", entry["labels"]["pitch"])
    if found is None:
        raise DataError(f"pitch {entry['labels']['pitch']} of {entry['id']}", "such as A4 or F#3", "correct that line")
    flat = found[1].endswith("b")
    return 12 * (int(found[2]) + 1) + _NOTES[found[1][0] + ("#" if found[1][1:] in ("#", "s") else "")] - flat


def _sources_of(of: dict[str, Entries], pitch: int, furthest: int = _FURTHEST) -> list[tuple[dict, float]]:
    """Notes that are near a pitch, and the speed at which they are it."""
    notes = [(entry, pitch - _pitch(entry)) for name in ("salamander", "freepats-guitar") for entry in of[name]]
    return [(entry, 2 ** (step / 12)) for entry, step in notes if abs(step) <= furthest]


def _note_pitches(of: dict[str, Entries], seed: int, furthest: int = _FURTHEST) -> Iterator[Clip]:
    for pitch in _PITCHES:
        for number, (entry, speed) in enumerate(_sources_of(of, pitch, furthest)):
            split = ("train", "valid", "train", "test")[number % 4]
            yield Clip(f"{entry['id']}-as-{pitch}", split, partial(_wave, entry, speed), [pitch])


def _scene(rng: np.random.Generator, sounds: list, seconds: float, most: float) -> tuple[np.ndarray, list[dict]]:
    """Sounds (label, wave) one after the other, some of them at once, with their times."""
    wave_S, events, time = np.zeros(round(seconds * RATE_HZ)), [], rng.uniform(0.2, 0.8)
    while time < seconds - most:
        label, sound = sounds[rng.integers(len(sounds))]
        begin, size = round(time * RATE_HZ), min(len(sound), round(rng.uniform(0.6, 1) * most * RATE_HZ))
        fade = np.minimum(1, np.arange(size, 0, -1) / (0.02 * RATE_HZ))
        wave_S[begin : begin + size] += 0.5 * sound[:size] * fade
        events.append({"label": label, "start": 1000 * time, "end": 1000 * (time + size / RATE_HZ)})
        time += rng.uniform(0.2, 1.0)
    return wave_S, events


def _hits(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    rng, noise_S = numpy_rng(seed, "hear-mini", "hits"), _wave(of["pst-noise"][0])
    for split, takes, count in (("train", (0, 1), 16), ("valid", (2,), 6), ("test", (3,), 6)):
        by_class: dict[str, Entries] = {}
        for entry in of["drumhits"]:
            by_class.setdefault(entry["labels"]["class"], []).append(entry)
        chosen = [(n, es[t]) for n, es in sorted(by_class.items())[:6] for t in takes if t < len(es)]
        sounds = [(name, _wave(entry)) for name, entry in chosen]
        for number in range(count):
            wave_S, events = _scene(rng, sounds, 8.0, 0.6)
            noise = np.resize(np.roll(noise_S, rng.integers(len(noise_S))), len(wave_S))
            yield Clip(f"{number:03d}", split, (wave_S + 0.1 * noise).astype(np.float32), events)


def _melodies(of: dict[str, Entries], seed: int) -> Iterator[Clip]:
    rng = numpy_rng(seed, "hear-mini", "melodies")
    for fold in range(3):
        found = [(str(pitch), *s) for pitch in _PITCHES for s in _sources_of(of, pitch)[fold::3][:1]]
        sounds = [(label, _wave(entry, speed)) for label, entry, speed in found]
        for number in range(8):
            wave_S, events = _scene(rng, sounds, 8.0, 0.8)
            yield Clip(f"{number:03d}", f"fold{fold:02d}", wave_S.astype(np.float32), events)


_OF_PITCHES = (2.0, _SPLIT | {"evaluation": ["pitch_acc", "chroma_acc"]}, list(map(str, _PITCHES)))
_TASKS = {
    "digits": (_digits, 1.0, _SPLIT | {"evaluation": _ACCURACY}),
    "wake_words": (_wake_words, 3.0, {"evaluation": _ACCURACY}),
    "note_pitch": (_note_pitches, *_OF_PITCHES),
    "note_pitch_more": (partial(_note_pitches, furthest=2 * _FURTHEST), *_OF_PITCHES),
    "drum_strokes": (_strokes, 1.5, {"evaluation": _ACCURACY}),
    "drum_tonics": (_tonics, 1.0, {"evaluation": _ACCURACY}),
    "emotions": (_emotions, 3.0, {"evaluation": _ACCURACY}),
    "sounds": (_sounds, 5.0, {"evaluation": _ACCURACY}),
    "sound_tags": (_two_sounds, None, _SPLIT | {"evaluation": ["mAP", "d_prime"], "prediction_type": "multilabel"}),
    "sound_kinds": (_kinds, 3.0, {"evaluation": ["mAP", "top1_acc"]}),
    "talkers": (_talkers, 2.0, {"evaluation": _ACCURACY}),
    "music_speech": (_music_or_speech, 4.0, {"evaluation": _ACCURACY}),
    "percussion": (_percussion, 1.5, {"evaluation": _ACCURACY}),
    "accents": (_accents, 3.0, {"evaluation": _ACCURACY}),
    "hums": (_hums, 12.0, _SPLIT | {"evaluation": ["aucroc", "top1_acc"]}),
    "microphones": (_microphones, 1.0, {"evaluation": _ACCURACY}),
    "hits_in_noise": (_hits, 8.0, _SPLIT | _EVENTS | {"evaluation": ["event_onset_200ms_fms", "segment_1s_er"]}),
    "notes_in_time": (
        *(_melodies, 8.0),
        _EVENTS
        | {
            "evaluation": ["event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"],
            "evaluation_params": {
                "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
                "task_specific_param_grid": {"check_val_every_n_epoch": [1], "max_epochs": [50]},
            },
            "use_scoring_for_early_stopping": False,
        },
        list(map(str, _PITCHES)),
    ),
}
"""For each task its clips, their length, metadata and vocabulary."""
