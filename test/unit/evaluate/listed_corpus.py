"""Miniatures of corpora in their own layouts, of short tones whose pitch says the label."""

import json
from pathlib import Path

import numpy as np
import soundfile

from spear.audio import save_audio
from spear.evaluate.arch import layouts

RATE = 16000
PITCHES = (300, 900, 2500, 5000)


def tone(path: Path, pitch: int, seconds: float = 0.3, seed: int = 0) -> None:
    """A recording of a pitch, a little off, with noise."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    wave = 0.2 * np.sin(2 * np.pi * pitch * rng.uniform(0.95, 1.05) * times) + 0.01 * rng.standard_normal(len(times))
    save_audio(path, wave.astype(np.float32), RATE)


def esc50(folder: Path, each: int = 1) -> Path:
    """ESC-50: five folds of four classes."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for label, pitch in zip(("dog", "rain", "clock", "siren"), PITCHES):
            for take in range(each):
                source = f"{fold}{pitch}{take}"
                name = f"{fold}-{source}-A-{PITCHES.index(pitch)}.wav"
                lines.append(f"{name},{fold},{PITCHES.index(pitch)},{label},True,{source},A")
                tone(folder / "audio" / name, pitch, seed=int(source))
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "esc50.csv").write_text("\n".join([*lines, ""]))
    return folder


# ARCH ----------------------------------------------------------------------------------------------------------------


def _two(folder: Path, names, seconds: float = 0.3) -> None:
    """A recording for each (name, place of its pitch)."""
    for number, (name, place) in enumerate(names):
        tone(folder / name, PITCHES[place], seconds, seed=number)


def _text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))


def us8k(folder: Path) -> Path:
    """UrbanSound8K: three of its folds."""
    lines, names = ["slice_file_name,fsID,start,end,salience,fold,classID,class"], []
    for fold in (1, 2, 10):
        for place, label in enumerate(("drilling", "siren")):
            for take in range(2):
                source = f"{fold}{place}{take}"
                lines.append(f"{source}-{place}-0-0.wav,{source},0.0,0.3,1,{fold},{place},{label}")
                names.append((f"audio/fold{fold}/{source}-{place}-0-0.wav", place))
    _text(folder / "metadata/UrbanSound8K.csv", *lines)
    _two(folder, names)
    return folder


def fsd50k(folder: Path) -> Path:
    """FSD50K: two labels and both of them."""
    kinds = (("Bark", 0), ("Rain", 1), ('"Bark,Rain"', 2))
    dev, test, names = ["fname,labels,mids,split"], ["fname,labels,mids"], []
    for number in range(12):
        labels, place = kinds[number % 3]
        if number < 9:
            dev.append(f"{number},{labels},/m/0,{'train' if number < 6 else 'val'}")
        else:
            test.append(f"{number},{labels},/m/0")
        names.append((f"FSD50K.{'dev' if number < 9 else 'eval'}_audio/{number}.wav", place))
    _text(folder / "FSD50K.ground_truth/dev.csv", *dev)
    _text(folder / "FSD50K.ground_truth/eval.csv", *test)
    _two(folder, names)
    return folder


def vivae(folder: Path) -> Path:
    """VIVAE: three speakers."""
    labels = ("anger", "fear")
    _two(folder, [(f"full_set/S0{s}_{labels[n]}_low_0{s}.wav", n) for s in (1, 2, 3) for n in (0, 1)])
    return folder


def _mp3(path: Path, pitch: int, seed: int) -> None:
    tone(path.with_suffix(".wav"), pitch, 0.4, seed)
    wave, rate = soundfile.read(path.with_suffix(".wav"))
    path.with_suffix(".wav").unlink()
    soundfile.write(path, wave, rate, format="MP3")


def fma_small(folder: Path) -> Path:
    """FMA: its table of three lines of names, with a text that goes over two lines, and tracks of another size."""
    lines = [",album,set,set,track", ",information,split,subset,genre_top", "track_id,,,,"]
    for number in range(10):
        split = "training" if number < 6 else "validation" if number < 8 else "test"
        lines.append(f'{number + 2},"two\nlines, ""quoted""",{split},small,{("Rock", "Folk")[number % 2]}')
        _mp3(folder / f"fma_small/000/{number + 2:06d}.mp3", PITCHES[number % 2], number)
    _text(folder / "fma_metadata/tracks.csv", *lines, "999,x,training,large,Rock")
    return folder


def mtt(folder: Path) -> Path:
    """MagnaTagATune with quoted cells; clips without one of the fifty tags are no rows."""
    tags = layouts._TAGS
    lines = ["\t".join(f'"{name}"' for name in ("clip_id", *tags, "mp3_path"))]
    parts = {"train": [], "val": [], "test": []}
    for number, place in enumerate(("0", "1", "b", "c", "c", "d", "f", "e")):
        chosen = tags[: 1 + number % 2] if number != 7 else []
        name = f"{place}/artist-album-{number:02d}-song-0-29.mp3"
        cells = (str(number), *("1" if tag in chosen else "0" for tag in tags), name)
        lines.append("\t".join(f'"{cell}"' for cell in cells))
        parts["train" if place in "01b" else "val" if place == "c" else "test"].append(f"{number}\t[0, 1]")
        _mp3(folder / name, PITCHES[number % 2], number)
    _text(folder / "annotations_final.csv", *lines)
    for name, of_part in parts.items():
        _text(folder / f"{name}_gt_mtt.tsv", *of_part)
    return folder


def irmas(folder: Path) -> Path:
    """IRMAS: excerpts of recordings, and texts beside those of test."""
    for place, label in enumerate(("cel", "flu")):
        names = [f"[{label}][cla]00{place}{n}__{e}.wav" for n in range(3) for e in (1, 2)]
        _two(folder / "IRMAS-TrainingData" / label, [(name, place) for name in names])
    for number, (labels, place) in enumerate(((["cel"], 0), (["flu"], 1), (["cel", "flu"], 0))):
        part = folder / "IRMAS-TestingData-Part1/Part1"
        _two(part, [(f"song {number}.wav", place)])
        _text(part / f"song {number}.txt", *(f"{label}\t" for label in labels))
    return folder


def msdb(folder: Path) -> Path:
    """Medley-solos-DB."""
    lines, names = ["subset,instrument,instrument_id,song_id,uuid4"], []
    for number in range(8):
        subset, place = ("training", "training", "validation", "test")[number // 2], number % 2
        lines.append(f"{subset},{('flute', 'piano')[place]},{place},{number},id-{number}")
        names.append((f"audio/Medley-solos-DB_{subset}-{place}_id-{number}.wav", place))
    _text(folder / "Medley-solos-DB_metadata.csv", *lines)
    _two(folder, names)
    return folder


def ravdess(folder: Path) -> Path:
    """RAVDESS: ten actors."""
    _two(folder, [
        (f"Actor_{actor:02d}/03-01-0{1 + n}-01-01-01-{actor:02d}.wav", n) for actor in range(1, 11) for n in (0, 1)
    ])  # fmt: skip
    return folder


def audio_mnist(folder: Path) -> Path:
    """AudioMNIST: a speaker of each of three folds."""
    _two(folder, [(f"data/{s}/{digit}_{s}_0.wav", digit) for s in ("01", "04", "05") for digit in (0, 1)])
    return folder


def slurp(folder: Path) -> Path:
    """SLURP: two recordings of each sentence."""
    names = []
    for split, count in (("train", 4), ("devel", 2), ("test", 2)):
        lines = []
        for number in range(count):
            files = [f"audio-{split}-{number}-{take}.flac" for take in range(2)]
            names += [(f"slurp_real/{name}", number % 2) for name in files]
            found = {"slurp_id": number, "sentence": "x", "intent": ("alarm_set", "play_music")[number % 2]}
            lines.append(json.dumps(found | {"recordings": [{"file": name, "wer": 0.0} for name in files]}))
        _text(folder / f"{split}.jsonl", *lines)
    _two(folder, names)
    return folder


def emovo(folder: Path) -> Path:
    """EMOVO: three speakers."""
    names = [
        (f"{s}/{('dis', 'gio')[n]}-{s}-{take}.wav", n) for s in ("f1", "f2", "m1") for n in (0, 1) for take in "ab"
    ]
    _two(folder, names)
    return folder


def arch(folder: Path) -> Path:
    """All twelve below one folder."""
    for make in (esc50, us8k, fsd50k, vivae, fma_small, mtt, irmas, msdb, ravdess, audio_mnist, slurp, emovo):
        make(folder / make.__name__)
    return folder
