"""Four tiny tasks in HEAR's layout, of tones at 48 kHz: classes, pitches and chords in folds, beeps with times."""

import json
from pathlib import Path

import numpy as np

from spear.audio import save_audio

RATE = 48000
CLASSES = {"ape": 300, "bee": 900, "cat": 2500}
FOLDS = ("fold00", "fold01", "fold02")
SPLITS = ("train", "valid", "test")


def tone(frequencies, seconds, rng):
    times = np.arange(round(seconds * RATE)) / RATE
    sounds = [0.2 * np.sin(2 * np.pi * (f * times + rng.random())) for f in frequencies]
    return (sum(sounds) + 0.01 * rng.standard_normal(len(times))).astype(np.float32)


def write_task(folder: Path, splits: dict, labels: list, audio: dict, **metadata) -> Path:
    """A task's folder.

    Args:
        splits: split -> {file: target}.
        audio: file -> samples.
    """
    for split, files in splits.items():
        (folder / f"{RATE}" / split).mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.json").write_text(json.dumps(files))
        for name in files:
            save_audio(folder / f"{RATE}" / split / name, audio[name], RATE)
    rows = "".join(f"{number},{label}\n" for number, label in enumerate(labels))
    (folder / "labelvocabulary.csv").write_text(f"idx,label\n{rows}")
    usual = {
        "task_name": folder.name.partition("-")[0],
        "version": "v1",
        "embedding_type": "scene",
        "splits": [*splits],
    }
    usual |= {"prediction_type": "multiclass", "split_mode": "trainvaltest", "sample_duration": 0.5}
    (folder / "task_metadata.json").write_text(json.dumps(usual | metadata))
    return folder


def make(data_dir: Path, each: int = 4) -> Path:
    """All four below `data_dir/tasks`."""
    rng, tasks = np.random.default_rng(0), data_dir / "tasks"
    files, audio = {split: {} for split in SPLITS}, {}
    for split in SPLITS:
        for label, frequency in CLASSES.items():
            for number in range(each):
                name = f"{split}-{label}-{number}.wav"
                files[split][name], audio[name] = [label], tone([frequency * rng.uniform(0.9, 1.1)], 0.5, rng)
    write_task(tasks / "animals-v1.0-full", files, sorted(CLASSES), audio, evaluation=["top1_acc", "mAP", "aucroc"])

    files, audio = {fold: {} for fold in FOLDS}, {}
    for fold in FOLDS:
        for pitch in (60, 64, 72, 73):
            name = f"{fold}-{pitch}.wav"
            files[fold][name], audio[name] = [pitch], tone([440 * 2 ** ((pitch - 69) / 12)], 0.5, rng)
    vocabulary = sorted(map(str, range(58, 104)))  # as texts: 100 comes first
    write_task(
        tasks / "pitches-v2.2-5h", files, vocabulary, audio, evaluation=["pitch_acc", "chroma_acc"],
        split_mode="new_split_kfold",
    )  # fmt: skip

    files, audio = {fold: {} for fold in FOLDS}, {}
    for fold in FOLDS:
        for number in range(3 * each):
            names = [label for place, label in enumerate(sorted(CLASSES)) if (number >> place) & 1]
            name = f"{fold}-{number}.wav"
            files[fold][name], audio[name] = names, tone([CLASSES[n] for n in names] or [5000], 0.5, rng)
    write_task(
        tasks / "chords-v1-full", files, sorted(CLASSES), audio, evaluation=["mAP", "d_prime"],
        split_mode="presplit_kfold", prediction_type="multilabel", sample_duration=None,
    )  # fmt: skip

    files, audio = {split: {} for split in SPLITS}, {}
    for split in SPLITS:
        for number in range(each):
            wave, events = 0.01 * rng.standard_normal(4 * RATE).astype(np.float32), []
            for place, label in enumerate(rng.permutation(sorted(CLASSES)).tolist() if number else []):
                start, length = 1.2 * place + rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.7)
                begin = round(start * RATE)
                wave[begin : begin + round(length * RATE)] += tone([CLASSES[label]], length, rng)
                events.append({"label": label, "start": 1000 * start, "end": 1000 * (start + length)})
            name = f"{split}-{number}.wav"
            files[split][name], audio[name] = events, wave
    grid = {"event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50, 250]}}
    write_task(
        tasks / "beeps-hear2021-full", files, sorted(CLASSES), audio, embedding_type="event", sample_duration=4.0,
        prediction_type="multilabel", evaluation=["event_onset_200ms_fms", "segment_1s_er", "event_onset_50ms_fms"],
        evaluation_params=grid,
    )  # fmt: skip
    return data_dir
