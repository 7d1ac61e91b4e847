"""Miniature copies of corpora in their real layouts, of real recordings where there are any, and small teachers."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch

from spear.seeds import numpy_rng

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real-mini" / "audio"
RATE = 16000


def sources(kind: str, count: int) -> list[Path]:
    """Recordings of real speech or of real sounds; empty when the shared data are not there."""
    names = ("librispeech-train-clean-100", "librispeech-test-other") if kind == "speech" else ("esc10",)
    found = [path for name in names if (REAL / name).is_dir() for path in sorted((REAL / name).glob("*.flac"))]
    return found[:count]


def recording(path: Path, kind: str, number: int, count: int) -> None:
    """Puts one recording in place: a real one, or 2 s of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    real = sources(kind, count)
    if number < len(real) and path.suffix == ".flac":
        shutil.copyfile(real[number], path)
    elif number < len(real):
        samples, rate = soundfile.read(real[number], dtype="float32")
        soundfile.write(path, samples, rate)
    else:
        rng = numpy_rng(0, "miniature", kind, number)
        soundfile.write(path, 0.1 * rng.standard_normal(int(rng.uniform(1.5, 4.0) * RATE)), RATE)


def librispeech(folder: Path, count: int = 16) -> Path:
    """LibriSpeech's parts, speakers, chapters and transcripts: 3/4 train-clean-100, the rest dev-clean."""
    for number in range(count):
        part = "train-clean-100" if number % 4 else "dev-clean"
        speaker, chapter = 100 + number % 3, 7000 + number // 6
        item = f"{speaker}-{chapter}-{number:04d}"
        place = folder / "LibriSpeech" / part / str(speaker) / str(chapter)
        recording(place / f"{item}.flac", "speech", number, count)
        with open(place / f"{speaker}-{chapter}.trans.txt", "a") as transcript:
            transcript.write(f"{item} WORDS OF NUMBER {number}\n")
    return folder


def audioset(folder: Path, count: int = 16) -> Path:
    """AudioSet's tables, and clips named as three of the usual download tools name them."""
    tables: dict[str, list[str]] = {"balanced_train": [], "unbalanced_train": [], "eval": []}
    for number in range(count):
        part = list(tables)[number % 3]
        video = f"{'-_ab'[number % 4]}mini{number:06d}"
        name = (f"{video}.wav", f"Y{video}.flac", f"{video}_30000_40000.wav")[number % 3]
        recording(folder / part / name, "event", number, count)
        tables[part].append(f'{video}, 30.000, 40.000, "/m/09x0r,/t/dd{number:05d}"')
    for part, lines in tables.items():
        header = [
            "# Segments csv created Sun Mar 5 10:54:25 2017",
            "# YTID, start_seconds, end_seconds, positive_labels",
        ]
        (folder / f"{part}_segments.csv").write_text("\n".join([*header, *lines]) + "\n")
    return folder


def audio_files(folder: Path) -> list[Path]:
    """All audio below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".wav", ".mp3", ".ogg"))


def damage(folder: Path, missing: float = 0.3, corrupt: int = 3) -> tuple[int, int]:
    """Deletes a share of the files and makes some of the others unreadable; returns how many of each."""
    files = audio_files(folder)
    gone = [path for number, path in enumerate(files) if int((number + 1) * missing) > int(number * missing)]
    for path in gone:
        path.unlink()
    left = [path for path in files if path not in gone]
    for number, path in enumerate(left[:corrupt]):
        size = path.stat().st_size
        with open(path, "r+b") as handle:
            if number % 3 == 0:
                handle.truncate(0)
            elif number % 3 == 1:
                handle.write(b"this is not audio at all")
            else:
                handle.truncate(size // 3)
    return len(gone), corrupt


def wavlm(folder: Path) -> Path:
    """A small WavLM-Large (layer norms everywhere) with random weights, in transformers' format."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    sizes |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    transformers.WavLMModel(transformers.WavLMConfig(**sizes)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def dasheng(path: Path) -> Path:
    """A small Dasheng with random weights, in the form of its authors' checkpoints."""
    from spear.teachers.dasheng import DashengEncoder

    torch.manual_seed(0)
    encoder = DashengEncoder(dim=32, depth=2, num_heads=4, hidden=64, piece_patches=252)
    with torch.no_grad():
        encoder.time_pos_embed.normal_(std=0.02)
        encoder.init_bn["1"].running_mean.fill_(-30.0)
        encoder.init_bn["1"].running_var.fill_(200.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": encoder.state_dict(), "config": {"num_heads": 4}}, path)
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, but for hidden ones."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "/." not in str(path.relative_to(folder)))
    return {os.path.relpath(path, folder): path.read_bytes() for path in files if not path.name.startswith(".")}


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def noise(path: Path, seconds: float, seed: int = 0) -> Path:
    """A file of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE)), RATE)
    return path
