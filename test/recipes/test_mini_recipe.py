"""The mini recipe, copied outside the repository: prepare 0-5, training with one and two processes, decode, report."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spear import config as configuration
from spear.train.config import ALIASES, TrainConfig

RECIPE = Path(__file__).resolve().parents[2] / "egs" / "mini" / "spear"
FEW_STEPS = (
    "--num-steps 4 --log-every-steps 1 --valid-every-steps 4 --checkpoint-every-steps 2 --average-every-steps 1 "
    "--average-last-steps 2 --tensorboard false"
)
SMALL = [
    "--corpus-options=--speech-minutes 6 --audio-minutes 4",
    f"--teacher-options={FEW_STEPS}",
    "--max-frames=4000",
    "--num-jobs=2",
]

pytestmark = pytest.mark.slow


def call(*words, cwd, seconds=600, **environment) -> subprocess.CompletedProcess:
    """Runs a command with this interpreter's environment first in PATH and no PYTHONPATH."""
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    surroundings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), surroundings["PATH"]])
    surroundings.setdefault("VIRTUAL_ENV", sys.prefix)
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=surroundings | environment,
        timeout=seconds,
    )


def succeed(*words, **keywords) -> str:
    done = call(*words, **keywords)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A copy of the recipe alone (its link to shared/ followed), prepared at small size."""
    folder = tmp_path_factory.mktemp("elsewhere") / "my recipe"
    shutil.copytree(RECIPE, folder, ignore=shutil.ignore_patterns("data", "data_*", "exp", "exp_*", "__pycache__"))
    succeed("bash", folder / "prepare.sh", *SMALL, cwd="/")
    return folder


def test_every_stage_leaves_what_it_promises(recipe):
    for name in ("raw/manifest.tsv", "manifests/cuts_speech_train.jsonl", "stats.json", "tokens/speech/card.json"):
        assert (recipe / "data" / name).exists(), name
    assert (recipe / "data/READY").exists()
    assert list((recipe / "data/quantizer/audio").glob("*.safetensors"))
    assert (recipe / "exp/teacher_speech/final/checkpoint.json").exists()


def test_a_second_run_skips_everything(recipe):
    text = succeed("bash", "prepare.sh", *SMALL, cwd=recipe)
    assert text.count("done before with the same settings") == 6


def test_manifests_survive_moving_the_recipe(recipe, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(recipe, moved, symlinks=True)
    text = succeed(
        sys.executable, moved / "train.py", *FEW_STEPS.split(), "--exp-dir", tmp_path / "student", cwd=tmp_path
    )
    assert "final model" in text


@pytest.mark.parametrize("num_processes", [1, 2])
def test_training_under_torchrun_and_decoding(recipe, num_processes, tmp_path):
    exp = tmp_path / "exp"
    words = [recipe / "train.py", *FEW_STEPS.split(), "--exp-dir", exp / "student"]
    launcher = [Path(sys.executable).parent / "torchrun", "--standalone", "--nproc_per_node", str(num_processes)]
    succeed(*launcher, *words, cwd="/")
    description = json.loads((exp / "student/final/checkpoint.json").read_text())
    assert description["step"] == 4
    if num_processes == 1:
        script = recipe / "decode_intent_classification.py"
        text = succeed(
            sys.executable,
            script,
            "--exp-dir",
            exp,
            "--max-steps",
            "5",
            "--learning-rates",
            "1e-2",
            "--num-jobs",
            "1",
            cwd="/",
        )
        assert "fbank" in text and "intent" in text
        succeed("spear", "evaluate", "report", "--data-dir", recipe / "data", "--exp-dir", exp, cwd=tmp_path)
        assert "<html" in (exp / "report.html").read_text()


def test_tokens_of_another_quantizer_are_refused(recipe, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(recipe / "data", copy, symlinks=True)
    card = copy / "tokens/speech/card.json"
    card.unlink()
    done = call(
        sys.executable,
        recipe / "train.py",
        "--data-dir",
        copy,
        "--exp-dir",
        tmp_path / "exp",
        "--num-steps",
        "1",
        cwd="/",
    )
    assert done.returncode == 1 and "to fix:" in done.stderr and "Traceback" not in done.stderr


def test_ablation_trains_scores_and_resumes(recipe, tmp_path):
    exp = tmp_path / "ablation"
    words = ["spear", "ablate", "--base", recipe / "conf/student.yaml"]
    words += ["--variants", recipe / "conf/ablation/joint.yaml", "--seeds", "1,2", "--tasks", "pitch"]
    words += ["--data-dir", recipe / "data", "--exp-dir", exp, f"--options={FEW_STEPS}"]
    text = succeed(*words, cwd=tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| pitch")]
    # Its scores, and their differences by seed.
    assert len(rows) == 2 and all(name in text for name in ("student", "joint")), text[-2000:]
    assert (exp / "ablation.md").read_text().strip() in text
    finals = {path: path.stat().st_mtime_ns for path in exp.glob("*-seed*/final/checkpoint.json")}
    assert len(finals) == 4
    shutil.rmtree(exp / "joint-seed2")
    (exp / "done" / "joint-seed2.json").unlink()
    succeed(*words, cwd=tmp_path)
    again = {path: path.stat().st_mtime_ns for path in exp.glob("*-seed*/final/checkpoint.json")}
    assert [path for path in finals if finals[path] != again[path]] == [exp / "joint-seed2/final/checkpoint.json"]


def test_a_folder_with_bad_recordings_goes_through_all_stages(tmp_path):
    # Characters that have a meaning in the text form of teachers and streams must not get into our paths.
    recipe, folder = tmp_path / "recipe", tmp_path / "my recordings, 16k=yes@1"
    shutil.copytree(RECIPE, recipe, ignore=shutil.ignore_patterns("data", "data_*", "exp", "exp_*", "__pycache__"))
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(24):
        soundfile.write(folder / "sub" / f"good{number}.flac", 0.1 * rng.standard_normal(40000), 16000)
    soundfile.write(folder / "long.flac", 0.1 * rng.standard_normal(16000 * 150), 16000)
    soundfile.write(folder / "stereo8k.wav", 0.1 * rng.standard_normal((16000, 2)), 8000)
    soundfile.write(folder / "one_sample.wav", np.ones(1), 16000)
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no audio" * 50)
    whole = (folder / "sub/good0.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    words = ["--audio-dir", folder, f"--teacher-options={FEW_STEPS}", f"--student-options={FEW_STEPS}", "--num-jobs=2"]
    text = succeed("bash", recipe / "run.sh", *words, cwd="/")
    assert "total" in text and "stage 8" in text
    # No sounds, no audio teacher: the student starts from the other one.
    assert f"the encoder starts from {recipe}/exp_my_recordings__16k_yes_1/teacher_speech" in text
    rows = [json.loads(line) for line in (recipe / "data_my_recordings__16k_yes_1/manifests/quarantine.jsonl").open()]
    bad = ["empty.wav", "nan.wav", "one_sample.wav", "silent.wav", "text.wav", "truncated.flac"]
    assert sorted(row["path"] for row in rows) == bad
    assert (recipe / "exp_my_recordings__16k_yes_1/student/final/checkpoint.json").exists()


@pytest.mark.parametrize(
    "long, recordings, factor", [("", False, 1), ("", True, 3), ("false", True, 1), ("true", False, 3)]
)
def test_recordings_are_trained_on_for_three_times_as_long(long, recordings, factor, tmp_path):
    script = (
        f"set -euo pipefail; here='{RECIPE}'; seed=42; data_dir=; exp_dir=; long='{long}'\n"
        f"audio_dir='{tmp_path if recordings else ''}'\n"
        '. "$here/shared/stages.sh"; . "$here/local/paths.sh"; settings_of student; printf "%s\\n" "${settings[@]}"'
    )
    settings = configuration.parse(TrainConfig, succeed("bash", "-c", script, cwd=tmp_path).splitlines(), ALIASES)
    plain = configuration.parse(TrainConfig, ["--config", str(RECIPE / "conf/student.yaml")], ALIASES)
    assert settings.num_steps == factor * plain.num_steps
    assert settings.streams.keys() == plain.streams.keys() and settings.model == plain.model


@pytest.mark.parametrize(
    "teachers, folder, speech, audio",
    [
        ("cold", "data", "spear:.*/exp/teacher_speech@-1", "spear:.*/exp/teacher_audio@-1"),
        ("real", "data_musicnn", "whisper:/all/whisper-tiny.en@-1,window_seconds=10", "musicnn@-1"),
        ("real-aisfx", "data_aisfx", "whisper:/all/whisper-tiny.en@-1,window_seconds=10", "aisfx@-1"),
    ],
)
def test_teachers_are_made_here_or_pre_trained(teachers, folder, speech, audio, tmp_path):
    script = (
        f"set -euo pipefail; here='{RECIPE}'; seed=42; data_dir=; exp_dir=; long=; audio_dir=; teachers='{teachers}'\n"
        'speech_layer=-1; audio_layer=-1; . "$here/shared/stages.sh"; . "$here/local/paths.sh"\n'
        'basename "$data_dir"; teacher_of speech; teacher_of audio'
    )
    found = succeed("bash", "-c", script, cwd=tmp_path, SPEAR_TEACHERS="/all").splitlines()
    assert found[0] == folder and re.fullmatch(speech, found[1]) and re.fullmatch(audio, found[2])
    done = call("bash", "-c", script.replace(f"teachers='{teachers}'", "teachers=warm"), cwd=tmp_path)
    assert done.returncode == 1 and "cold, real or real-aisfx" in done.stderr
