"""`spear recipe pack` and what becomes of it elsewhere: equal, relative, and without anything of the machine."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spear import config, fs, seal
from spear.bin import recipe as command
from spear.errors import ConfigError, DataError
from spear.recipe import NewRecipe, PackSettings, new_recipe, pack_recipe, unpack_recipe, verify_recipe
from spear.recipe.privacy import Privacy
from spear.train.config import TrainConfig

HOME = "/" + "home/somebody"  # in two pieces, as the repository's own text has none


def cut(name, source):
    return {"id": name, "recording": {"id": name, "sources": [{"type": "file", "source": str(source)}]}}


def fill(place):
    """What stages and runs leave behind, with absolute paths where there may be some."""
    data, run = place / "data", place / "exp/student"
    (place / "README.md").write_text("Made by `spear recipe new`.\n")
    fs.write_jsonl(
        data / "manifests/cuts_raw_train.jsonl", [cut("a", data / "raw/raw/a.wav"), cut("b", "raw/raw/b.wav")]
    )
    fs.write_json(data / "manifests/summary_raw.json", {"raw": str(data / "raw")})
    fs.write_text(data / "manifests/tasks.yaml", f"cuts: {data}/manifests/cuts_raw_train.jsonl\n")
    digest = fs.sha256_file(data / "manifests/cuts_raw_train.jsonl")
    seal.write_json(data / "READY", {"cuts": {"cuts_raw_train.jsonl": {"sha256": digest, "items": 2}}, "streams": {}})
    fs.write_text(data / "tokens/speech/raw-0.npy", "tokens\0")
    fs.write_text(data / ".stages/stage-0.log", "log\n")
    fs.write_text(run / "config.yaml", f"exp_dir: {run}\ndata_dir: '{data}'\n")
    seal.write_json(run / "final/checkpoint.json", {"config": {"exp_dir": str(run)}, "files": {}})
    fs.write_text(run / "final/model.safetensors", "weights\0")
    return place


@pytest.fixture(scope="module")
def innocent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("innocent")
    (folder / "raw").mkdir()
    for name in "ab":
        soundfile.write(folder / "raw" / f"{name}.wav", np.zeros(16000), 16000)
    return new_recipe(NewRecipe(str(folder / "recipe"), str(folder / "raw"), size="mini"))


@pytest.fixture
def recipe(innocent, tmp_path):
    return fill(Path(shutil.copytree(innocent, tmp_path / "lab" / "recipe", symlinks=True)))


def pack(recipe, output, **more):
    return pack_recipe(PackSettings(str(recipe), str(output), **more))


def everything(recipe, output):
    return pack(recipe, output, tokens=True, checkpoints=["exp/student/final"])


def files_of(place):
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_packed_and_unpacked_elsewhere_it_is_whole_and_verify_is_clean(recipe, tmp_path):
    packed = everything(recipe, tmp_path / "a.tar.gz")
    place = tmp_path / "elsewhere" / "theirs"
    assert unpack_recipe(tmp_path / "a.tar.gz", place) == packed.manifest
    assert {finding.kind for finding in verify_recipe(place)} == {"note"}  # READY fits the manifests, too
    for name in ("conf/student.yaml", "prepare.sh", "train.py", "recipe.json", "shared/stages.sh"):
        assert (place / name).read_bytes() == (recipe / name).read_bytes()
    assert os.access(place / "prepare.sh", os.X_OK) and not os.access(place / "conf/student.yaml", os.X_OK)
    settings = [config.parse(TrainConfig, ["--config", str(at / "conf/student.yaml")], "") for at in (recipe, place)]
    assert settings[0] == settings[1]
    rows = fs.read_jsonl(place / "data/manifests/cuts_raw_train.jsonl")
    assert [row["recording"]["sources"][0]["source"] for row in rows] == ["raw/raw/a.wav", "raw/raw/b.wav"]
    assert packed.manifest.audio == ["raw/raw"]
    assert config.load_yaml(place / "exp/student/config.yaml") == {"exp_dir": "exp/student", "data_dir": "data"}
    assert config.load_yaml(place / "data/manifests/tasks.yaml")["cuts"] == "manifests/cuts_raw_train.jsonl"
    assert seal.read_json(place / "exp/student/final/checkpoint.json")["config"] == {"exp_dir": "exp/student"}
    assert str(tmp_path) not in "".join(path.read_text() for path in place.rglob("*") if path.is_file())
    everything(place, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == (tmp_path / "a.tar.gz").read_bytes()


def test_the_same_recipe_in_another_place_gives_the_same_bytes(recipe, innocent, tmp_path):
    other = fill(Path(shutil.copytree(innocent, tmp_path / "another lab" / "r", symlinks=True)))
    for path in other.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    for suffix in (".tar", ".tar.gz"):
        one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
        assert everything(recipe, one).relocated and everything(other, two).relocated
        assert one.read_bytes() == two.read_bytes()


def test_tokens_checkpoints_and_recordings_come_only_when_they_are_asked_for(recipe, tmp_path):
    pack(recipe, tmp_path / "a.tar")
    unpack_recipe(tmp_path / "a.tar", tmp_path / "a")
    everything(recipe, tmp_path / "b.tar")
    unpack_recipe(tmp_path / "b.tar", tmp_path / "b")
    more = {"data/READY", "data/tokens/speech/raw-0.npy"}
    more |= {"exp/student/final/checkpoint.json", "exp/student/final/model.safetensors"}
    assert files_of(tmp_path / "b") - files_of(tmp_path / "a") == more
    names = files_of(tmp_path / "b")
    assert not [name for name in names if "raw/raw" in name or ".stages" in name or name.endswith(".log")]
    pack(recipe, tmp_path / "c.tar", exclude=["exp/*"])
    unpack_recipe(tmp_path / "c.tar", tmp_path / "c")
    assert not [name for name in files_of(tmp_path / "c") if name.startswith("exp/")]


def test_recordings_below_data_root_and_behind_links_become_relative(recipe, tmp_path):
    corpora = tmp_path / "corpora of ours"
    behind = (recipe / "data/raw/raw").resolve()
    rows = [cut("x", corpora / "LibriSpeech/x.flac"), cut("y", behind / "a.wav")]
    fs.write_jsonl(recipe / "data/manifests/cuts_more.jsonl", rows)
    pack(recipe, tmp_path / "a.tar", data_root=str(corpora))
    unpack_recipe(tmp_path / "a.tar", tmp_path / "a")
    rows = fs.read_jsonl(tmp_path / "a/data/manifests/cuts_more.jsonl")
    sources = [row["recording"]["sources"][0]["source"] for row in rows]
    assert sources == ["raw/LibriSpeech/x.flac", "raw/raw/a.wav"]
    with pytest.raises(DataError, match=r"cuts_more\.jsonl:1: an absolute path"):
        pack(recipe, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.parametrize(
    "line, reason",
    [
        (f"raw={HOME}/corpora", "an absolute path"),
        ("cp /scratch/x/y .", "an absolute path"),
        ("root=/datasets", "an absolute path"),
        ("open(r'C:\\\\Users\\\\me')", "an absolute path"),
        ("url=file:///datasets/x", "an absolute path"),
        ("cd ~/spear", "a home directory"),
        ("ls ~somebody/data", "a home directory"),
        ("scp me@gpu17:/x .", "the address of a machine"),
        ("curl http://fileserver/x", "the address of a machine"),
        ("node3.cluster.internal", "the address of a machine"),
        ("nc 192.168.3.4 80", "the address of a machine"),
        ("on Thinkingbox all is well", "the name of this machine"),
    ],
)
def test_what_names_this_machine_is_refused_with_its_line(recipe, tmp_path, monkeypatch, line, reason):
    monkeypatch.setattr(socket, "gethostname", lambda: "thinkingbox.example.org")
    (recipe / "notes.txt").write_text(f"fine\n{line}\n")
    with pytest.raises(DataError) as caught:
        pack(recipe, tmp_path / "a.tar")
    assert f"notes.txt:2: {reason}" in caught.value.found
    assert not list(tmp_path.glob("*a.tar*"))


@pytest.mark.parametrize(
    "line",
    [
        "#!/usr/bin/env bash",
        "DATA_ROOT=/corpora ./prepare.sh > /dev/null",
        "labels: /m/09x0r,/t/dd00012",
        "https://arxiv.org/abs/2510.25955 and/or 1/2, microsoft/wavlm-large@21",
        '"$here/shared/stages.sh" ${data_dir}/raw $HOME/x "$(dirname "$0")/x" s/a/b/',
        "random@SEED:CHECKPOINT </b> http://localhost:6006/x",
        "pip install /path/to/the/repository",
    ],
)
def test_what_is_the_same_everywhere_is_no_offence(line):
    assert Privacy().offence(line) == ""


def test_links_and_what_is_no_file_are_refused_by_name(recipe, tmp_path):
    (recipe / "outside.txt").symlink_to(tmp_path)
    os.mkfifo(recipe / "pipe")
    shutil.move(recipe / "exp", tmp_path / "large disk")
    (recipe / "exp").symlink_to(tmp_path / "large disk")
    with pytest.raises(DataError) as caught:
        pack(recipe, tmp_path / "a.tar")
    for words in ("outside.txt: a link", "pipe: a device, pipe or socket", "exp: a link"):
        assert words in caught.value.found


def test_a_run_of_other_folders_is_refused_and_can_be_left_out(recipe, tmp_path):
    fs.write_text(recipe / "exp/other/config.yaml", f"exp_dir: exp\ninit_from: {HOME}/exp/teacher\n")
    with pytest.raises(DataError, match=r"exp/other/config\.yaml:2: an absolute path"):
        pack(recipe, tmp_path / "a.tar")
    assert pack(recipe, tmp_path / "a.tar", exclude=["exp/other"]).manifest.files


def test_a_damaged_seal_does_not_become_one_that_fits(recipe, tmp_path):
    path = recipe / "exp/student/final/checkpoint.json"
    path.write_text(path.read_text().replace('"files": {}', '"files": {"x": "y"}'))
    with pytest.raises(DataError, match="its seal does not fit"):
        everything(recipe, tmp_path / "a.tar")


def test_what_cannot_be_packed_at_all(recipe, tmp_path):
    for settings in (
        PackSettings(str(tmp_path / "none"), str(tmp_path / "a.tar")),
        PackSettings(str(recipe), str(tmp_path / "a.zip")),
        PackSettings(str(recipe), str(tmp_path / "a.tar"), checkpoints=["exp/none"]),
    ):
        with pytest.raises(ConfigError):
            pack_recipe(settings)


def test_the_commands(recipe, tmp_path, capsys):
    archive, place = tmp_path / "a.tar.gz", tmp_path / "it is here"
    assert command.main(["pack", str(recipe), "--output", str(archive), "--tokens"]) == 0
    assert "data/manifests/cuts_raw_train.jsonl: its paths were made relative" in capsys.readouterr().out
    assert command.main(["verify", str(archive)]) == 0
    assert command.main(["unpack", str(archive), str(place)]) == 0
    assert "link or copy into data/: raw/raw" in capsys.readouterr().out
    assert command.main(["verify", str(place)]) == 0
    with pytest.raises(ConfigError, match="which exists"):
        command.main(["unpack", str(archive), str(place)])
