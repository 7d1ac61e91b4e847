"""A tiny encoder with random weights, a few recordings, and commands as real processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SEVEN_STACKS

from spear import SpearConfig, SpearModel, save_model
from spear.audio import save_audio
from spear.seeds import numpy_rng


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A folder with a tiny encoder in which padding would show if it leaked."""
    torch.manual_seed(0)
    model = SpearModel(SpearConfig(**SEVEN_STACKS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "convnext" in name or name.endswith("downsample.bias"):
                parameter.normal_(std=0.3)
    return save_model(model, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """Six recordings of tones in noise (0.05 to 7 s) in two folders; one file is damaged, one is text."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = numpy_rng(0, "recordings")
    for name, seconds, pitch in (
        ("low/a.wav", 1.0, 200),
        ("low/b.flac", 2.3, 220),
        ("low/long.wav", 7.0, 210),
        ("high/c.wav", 1.5, 3000),
        ("high/d.flac", 0.7, 3100),
        ("high/short.wav", 0.05, 3000),
    ):
        times = np.arange(round(16000 * seconds)) / 16000
        samples = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.01 * rng.standard_normal(len(times))
        (folder / name).parent.mkdir(exist_ok=True)
        save_audio(folder / name, samples, 16000)
    (folder / "low" / "damaged.wav").write_bytes((folder / "low" / "a.wav").read_bytes()[:9000])
    (folder / "low" / "text.mp3").write_text("no audio\n")
    (folder / "low" / "notes.txt").write_text("not even by its name\n")
    return folder


@pytest.fixture(scope="session")
def command():
    """Returns a function that runs `spear WORDS...` in a process of its own."""

    def command(*words, check: bool = True, cwd=None) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", "spear.bin.main", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            timeout=300,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return command


PITCHES = {"low": 200, "mid": 1500, "high": 4000}


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """A table of 24 short tones of three pitches by six speakers, and four rows that cannot be used."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = numpy_rng(0, "labelled")
    rows = ["path,class,tags,speaker,text"]
    for number in range(24):
        name = list(PITCHES)[number % 3]
        times = np.arange(round(16000 * (0.3 + 0.05 * (number % 5)))) / 16000
        samples = 0.3 * np.sin(2 * np.pi * PITCHES[name] * times) + 0.02 * rng.standard_normal(len(times))
        save_audio(folder / f"r{number}.wav", samples, 16000)
        tags = f"{name};tone" if number % 3 else name
        rows.append(f"r{number}.wav,{name},{tags},s{number % 6},{name.upper()}")
    (folder / "broken.wav").write_bytes(b"RIFF" + bytes(60))
    rows += ["missing.wav,low,low,s1,LOW", "broken.wav,low,low,s1,LOW", "r0.wav,low,low,s1,LOW", "r1.wav?,,,,"]
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


@pytest.fixture(scope="session")
def words(encoder, labelled) -> list[str]:
    """Flags of a fine-tuning that takes seconds."""
    short = ["--batch-seconds", "4", "--max-seconds", "2", "--num-steps", "2", "--device", "cpu", "--num-jobs", "1"]
    return [
        "--manifest",
        str(labelled),
        "--init-from",
        str(encoder),
        *short,
        "--num-workers",
        "0",
        "--rehearsal-batches",
        "0",
    ]
