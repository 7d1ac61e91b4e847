"""The recipes of fine-tuning, copied outside the repository."""

import shutil

import miniatures
import pytest
import torch
from test_superb_recipes import ROOT, noise, succeed
from tiny import SEVEN_STACKS

from spear import SpearConfig, SpearModel, fs, save_model
from spear.manifest.item import read_items

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder."""
    torch.manual_seed(0)
    model = SpearModel(SpearConfig(**SEVEN_STACKS))
    return save_model(model, tmp_path_factory.mktemp("encoder") / "tiny")


def test_the_mini_recipe_compares_two_starts_and_skips_what_is_done(encoder, tmp_path):
    ignored = shutil.ignore_patterns("data*", "exp*", "__pycache__")
    for recipe in ("spear", "finetune"):
        shutil.copytree(ROOT / "egs/mini" / recipe, tmp_path / "my egs" / recipe, ignore=ignored)
    recipe = tmp_path / "my egs" / "finetune"
    words = ["bash", recipe / "run.sh", "--init-from", encoder, "--kinds", "classification", "--num-steps", "2"]
    words += ["--corpus-options=--speech-minutes 2 --audio-minutes 0.2", "--batch-seconds", "8", "--num-jobs", "1"]
    text = succeed(*words, "--finetune-options=--rehearsal-batches 0 --device cpu --num-workers 0")
    assert "| classification | keyword | random:tiny | accuracy | 1 |" in text
    assert "| classification | keyword | tiny |" in (recipe / "exp" / "RESULTS.md").read_text()
    assert fs.read_json(recipe / "exp" / "classification-42" / "score.json")["items"] > 1
    again = succeed(*words, "--finetune-options=--rehearsal-batches 0 --device cpu --num-workers 0")
    assert again.count("done before with the same settings") == 4
    assert "dry run" in succeed(*words, "--seeds", "42 43", "--dry-run", "true")


def test_corpora_become_what_the_shipped_settings_name(tmp_path):
    raw = tmp_path / "raw"
    miniatures.librispeech(raw, 8)
    for part in ("test-clean", "test-other"):
        shutil.copytree(raw / "LibriSpeech/dev-clean", raw / "LibriSpeech" / part)
        for path in (raw / "LibriSpeech" / part).rglob("*"):
            if path.is_file():
                number = {"test-clean": "9", "test-other": "8"}[part]
                path.write_text(path.read_text().replace("-7", f"-{number}")) if path.suffix == ".txt" else None
                path.rename(path.with_name(path.name.replace("-7", f"-{number}")))
    miniatures.audioset(tmp_path / "audioset", 6)
    prepare(tmp_path, "librispeech/asr", "--librispeech-dir", raw)
    prepare(tmp_path, "audioset/tagging", "--audioset-dir", tmp_path / "audioset")
    speech, sounds = (tmp_path / name / "data/manifests" for name in ("asr", "tagging"))
    assert [len(read_items(speech / f"{name}.jsonl")) for name in ("train", "dev", "test_clean", "test_other")] == [
        *(6, 2, 2, 2),
    ]
    assert all(item.text for item in read_items(speech / "train.jsonl")) and (speech / "noise_musan.jsonl").exists()
    assert [len(read_items(sounds / f"{name}.jsonl")) for name in ("train", "dev")] == [2, 2]
    assert read_items(sounds / "train.jsonl")[0].labels["labels"].startswith("/m/09x0r,")


def test_folds_of_sounds_and_trials_of_speakers_are_written(tmp_path):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(10):
        name = f"{number % 5 + 1}-{number}-A-0.wav"
        noise(tmp_path / "esc/audio" / name)
        rows.append(f"{name},{number % 5 + 1},0,{('dog', 'rain')[number // 5]},False,{number},A")
    (tmp_path / "esc/meta").mkdir()
    (tmp_path / "esc/meta/esc50.csv").write_text("\n".join(rows) + "\n")
    for corpus, speakers in (("voxceleb1", "ab"), ("voxceleb2", "cd")):
        for speaker in speakers:
            noise(tmp_path / corpus / "wav" / f"id{speaker}" / "video" / "00001.wav")
    prepare(tmp_path, "esc50/classify", "--esc50-dir", tmp_path / "esc")
    prepare(
        tmp_path, "voxceleb/sv", "--voxceleb1-dir", tmp_path / "voxceleb1", "--voxceleb2-dir", tmp_path / "voxceleb2"
    )
    for fold in (1, 5):
        parts = [
            read_items(tmp_path / f"classify/data/fold-{fold}/data/manifests/{p}.jsonl") for p in ("train", "test")
        ]
        assert [len(part) for part in parts] == [8, 2]
        assert {item.path.name[0] for item in parts[1]} == {str(fold)} and parts[0][0].labels["class"] in (
            "dog",
            "rain",
        )
    train, test = (read_items(tmp_path / f"sv/data/data/manifests/{part}.jsonl") for part in ("train", "test"))
    assert {item.speaker for item in train} == {"idc", "idd"} and {item.speaker for item in test} == {"ida", "idb"}
    assert {item.id for item in test} == {"ida/video/00001.wav", "idb/video/00001.wav"}


def prepare(folder, name, *words):
    """Runs prepare.sh of a copy of a recipe."""
    ignored = shutil.ignore_patterns("data*", "exp*", "__pycache__")
    recipe = shutil.copytree(ROOT / "egs" / name, folder / name.rsplit("/", 1)[1], ignore=ignored)
    succeed("bash", recipe / "prepare.sh", *words, "--num-jobs", "1")
