"""The SUPERB recipes, copied outside the repository: prepare, decode, run again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spear import fs
from spear.audio import save_audio

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def call(*words, cwd="/", **environment) -> subprocess.CompletedProcess:
    """Runs a command with this checkout and interpreter first."""
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    surroundings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), surroundings["PATH"]])
    surroundings.setdefault("VIRTUAL_ENV", sys.prefix)
    words = [str(word) for word in words]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=surroundings, timeout=900)


def succeed(*words, **keywords) -> str:
    done = call(*words, **keywords)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def copy(recipe: str, folder: Path) -> Path:
    target = folder / "my recipe"
    ignored = shutil.ignore_patterns("data*", "exp*", "__pycache__")
    shutil.copytree(ROOT / "egs" / recipe, target, ignore=ignored)
    return target


def noise(path: Path, seconds: float = 0.5) -> None:
    rng = np.random.default_rng(len(str(path)))
    save_audio(path, (0.1 * rng.standard_normal(int(16000 * seconds))).astype(np.float32), 16000)


def test_the_mini_recipe_runs_and_skips_what_is_done(tmp_path):
    recipe = copy("mini/superb", tmp_path)
    words = ["bash", recipe / "run.sh", "--raw-dir", tmp_path / "raw", "--upstreams", "fbank", "--tasks", "KS,SD"]
    words += ["--corpus-options=--speech-minutes 2 --audio-minutes 0", "--decode-options=--max-steps 3", "--num-jobs=1"]
    text = succeed(*words)
    assert "KS" in text and "legacy der" in text and (recipe / "exp/report.html").exists()
    assert "| SD |" in (recipe / "exp/RESULTS.md").read_text()
    tables = {path.stem for path in (recipe / "data/superb").glob("*.jsonl")}
    assert tables == set("PR ASR KS QbE SID ASV ASV_trials SD IC SF ER SS".split())
    assert succeed(*words).count("done before with the same settings") == 3


def test_the_speech_commands_recipe_on_its_layout(tmp_path):
    recipe, raw = copy("speech_commands/superb", tmp_path), tmp_path / "corpora"
    words = "yes no up down left right on off stop go".split()
    for word in [*words, "bed"]:
        for speaker in ("00176480", "004ae714", "0132a06d", "bbd0bbd0", "3ab9ba07", "0a7c2a8d"):
            noise(raw / "speech_commands_v0.01" / word / f"{speaker}_nohash_0.wav")
    noise(raw / "speech_commands_v0.01/_background_noise_/pink_noise.wav", 3.0)
    for word in [*words, "_unknown_", "_silence_"]:
        noise(raw / "speech_commands_test_set_v0.01" / word / "1_nohash_0.wav")
    text = succeed("bash", recipe / "prepare.sh", DATA_ROOT=str(raw))
    assert "CC BY 4.0" in text and "nothing had to be downloaded" in text and "test 12" in text
    flags = ["--upstream", "fbank", "--max-steps", "2", "--learning-rates", "1e-3", "--num-jobs", "1"]
    assert "fbank" in succeed(sys.executable, recipe / "decode_ks.py", *flags)
    run = fs.read_json(recipe / "exp/evaluate/superb/KS/fbank.json")
    assert run["protocol"] == "superb" and run["num_items"]["test"] == 12


def test_phones_come_from_as_many_lexicons_as_are_given(tmp_path):
    recipe = copy("librispeech/superb", tmp_path)
    for number, split in enumerate(("train-clean-100", "dev-clean", "test-clean")):
        folder = tmp_path / "LibriSpeech" / split / "1/2"
        noise(folder / f"1-2-000{number}.flac", 0.5)
        (folder / "1-2.trans.txt").write_text(f"1-2-000{number} A CAT\n")
    (tmp_path / "first.txt").write_text("A AH0\n")
    (tmp_path / "second.txt").write_text("A EY1\nCAT K AE1 T\n")
    words = ["--stage", "1", "--raw-dir", tmp_path, "--lexicon", tmp_path / "first.txt"]
    succeed("bash", recipe / "prepare.sh", *words, f"--lexicon={tmp_path}/second.txt")
    rows = fs.read_jsonl(recipe / "data/superb/PR.jsonl")
    assert [row["target"] for row in rows] == ["AH0 K AE1 T".split()] * 3


def test_recipes_say_what_is_missing(tmp_path):
    recipe = copy("voxceleb/superb", tmp_path)
    done = call("bash", recipe / "prepare.sh", "--raw-dir", tmp_path / "nothing")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "iden_split.txt" in said and "needs a form" in said
    assert "to fix" in said and "Traceback" not in said
