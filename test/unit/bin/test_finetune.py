"""`spear finetune` and `spear tag` from tables to scores, and runs that are read back or refused."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spear import fs, seal
from spear.audio import load_audio
from spear.bin import export, finetune, tag
from spear.errors import CardError, CheckpointError, ConfigError
from spear.manifest.item import read_items
from spear.train import checkpoint
from spear.train.finetuned import load_finetuned
from spear.train.signals import EXIT_CODE


@pytest.fixture(scope="module")
def classifier(words, command, tmp_path_factory):
    """A run of the command in a process of its own, and what it printed."""
    exp_dir = tmp_path_factory.mktemp("classifier") / "exp"
    return exp_dir, command("finetune", "--task", "classification", "--exp-dir", exp_dir, *words).stdout


@pytest.fixture(scope="module")
def tagger(words, tmp_path_factory):
    """A tagger after two steps."""
    exp_dir = tmp_path_factory.mktemp("tagger") / "exp"
    assert finetune.main(["--task", "tagging", "--exp-dir", str(exp_dir), *words]) == 0
    return exp_dir


def test_a_table_becomes_a_classifier_with_a_score_and_an_interval(classifier):
    exp_dir, printed = classifier
    score = fs.read_json(exp_dir / "score.json")
    predictions = fs.read_jsonl(exp_dir / "predictions.jsonl")
    right = np.mean([row["reference"] == row["hypothesis"] for row in predictions])
    assert score["value"] == pytest.approx(right) and score["items"] == len(predictions) == 5
    assert 0 <= score["interval_95"][0] <= right <= score["interval_95"][1] <= 1
    assert f"accuracy {100 * right:.1f} %" in printed and "on 5 recordings" in printed
    assert score["counts"]["train"]["recordings"] + score["counts"]["dev"]["recordings"] == 19
    assert "accuracy" in (exp_dir / "report.md").read_text()


def test_several_processes_train_and_one_prepares_and_scores(words, tmp_path, monkeypatch):
    exp_dir, terminated = tmp_path / "exp", []
    call = ["--task", "classification", "--exp-dir", str(exp_dir), *words, "--nproc-per-node", "2"]
    assert finetune.main(call) == 0
    assert fs.read_json(exp_dir / "score.json")["step"] == 2
    assert len(fs.read_jsonl(exp_dir / "predictions.jsonl")) == 5
    assert checkpoint.verify(checkpoint.directory_of(exp_dir, 2))["world_size"] == 2

    class Stopped:
        """A launcher during whose work a request to stop comes, and comes again."""

        def __init__(self, *_, **__):
            pass

        def wait(self) -> int:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            return 1

        def terminate(self) -> None:
            terminated.append(self)

    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen", Stopped)
        assert finetune.main(call) == EXIT_CODE and len(terminated) == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun, and with --nproc-per-node"):
        finetune.main(call)


def test_what_cannot_be_used_is_listed_with_the_reason(classifier):
    left_out = {row["id"]: row["reason"] for row in fs.read_jsonl(classifier[0] / "data/manifests/left_out.jsonl")}
    assert left_out.keys() == {"missing.wav", "broken.wav", "r0.wav", "r1.wav?"}
    assert "second time" in left_out["r0.wav"] and "no class" in left_out["r1.wav?"] and all(left_out.values())


def test_what_is_scored_was_not_trained_on(classifier):
    parts = [{item.path for item in read_items(classifier[0] / f"data/manifests/{p}.jsonl")} for p in ("train", "dev")]
    tested = {item.path for item in read_items(classifier[0] / "data/manifests/test.jsonl")}
    assert not tested & (parts[0] | parts[1]) and not parts[0] & parts[1]


def test_the_same_command_goes_on_with_what_is_there_and_another_is_refused(words, classifier):
    exp_dir = classifier[0]
    (exp_dir / "score.json").rename(exp_dir / "before.json")  # as if it had been killed before the score
    states = {path: path.stat().st_mtime_ns for path in exp_dir.rglob("step-*/model.safetensors")}
    call = ["--task", "classification", "--exp-dir", str(exp_dir), *words]
    assert finetune.main(call) == 0
    assert states and states == {path: path.stat().st_mtime_ns for path in states}  # no step was done again
    assert fs.read_json(exp_dir / "score.json") == fs.read_json(exp_dir / "before.json")
    with pytest.raises(ConfigError, match="other settings"):
        finetune.main([*call, "--target", "speaker"])


def test_a_run_is_exported_with_its_head_and_a_card_of_what_it_knows(classifier, tmp_path):
    exp_dir, folder = classifier[0], tmp_path / "out"
    assert export.main([str(exp_dir), "--format", "hf", "--output", str(folder)]) == 0
    settings, score = fs.read_json(folder / "config.json"), fs.read_json(exp_dir / "score.json")
    assert settings["id2label"] == {"0": "high", "1": "low", "2": "mid"} and settings["exact_padding"]
    assert settings["head"]["kind"] == "classification" and settings["head"]["num_outputs"] == 3
    tensors, ours = load_file(folder / "model.safetensors"), load_file(exp_dir / "final" / "model.safetensors")
    for name, tensor in tensors.items():
        source = name.replace("model.model.", "").replace("heads.head.", "heads.classification.")
        assert torch.equal(tensor, ours[source]), name
    card = (folder / "README.md").read_text()
    for known in (
        f"seed: `{score['seed']}`",
        "steps: `2`",
        "hours of audio seen: `0.0",
        "cuts `manifests/train.jsonl`",
    ):
        assert known in card
    assert f"| `accuracy` | {score['value']:.4g} |" in card and "--task classification" in card
    assert str(exp_dir.parent) not in card and str(classifier[0].anchor + "tmp") not in card
    assert export.main([str(exp_dir), "--format", "hf", "--output", str(tmp_path / "encoder"), "--encoder-only"]) == 0
    assert "head" not in fs.read_json(tmp_path / "encoder" / "config.json")


def test_a_run_is_read_back_whole_and_answers_alike_alone_and_in_a_batch(classifier, labelled):
    model = load_finetuned(classifier[0])
    assert model.step == 2 and model.directory.name == "final" and not model.model.training
    assert model.vocabularies["classification"].units == ["high", "low", "mid"]
    waves = [torch.from_numpy(load_audio(labelled.parent / f"r{number}.wav")) for number in (0, 4)]
    lengths_B = torch.tensor([len(wave) for wave in waves])
    waves_BS = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    together = model.decode("classification", model.encode(waves_BS, lengths_B))
    for wave, answer in zip(waves, together):
        (alone,) = model.decode("classification", model.encode(wave[None], torch.tensor([len(wave)])))
        assert sum(answer.values()) == pytest.approx(1, abs=1e-5)
        assert alone == pytest.approx(answer, abs=1e-5)


def test_a_run_without_final_is_read_from_its_newest_checkpoint(classifier, tmp_path):
    shutil.copytree(classifier[0], tmp_path / "exp")
    shutil.rmtree(tmp_path / "exp" / "final")
    assert load_finetuned(tmp_path / "exp").directory == checkpoint.directory_of(tmp_path / "exp", 2)


@pytest.fixture
def copied(classifier, tmp_path):
    """A copy of the run, to be damaged."""
    shutil.copytree(classifier[0], tmp_path / "exp", ignore=shutil.ignore_patterns("checkpoints", "data", "plan"))
    return tmp_path / "exp"


def test_damaged_runs_are_refused_by_name(copied):
    path = copied / "final" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_finetuned(copied)


def test_a_run_with_another_or_without_its_vocabulary_is_refused_by_name(copied):
    path = copied / "vocabulary.classification.json"
    values = fs.read_json(path)
    fs.write_json(path, {**values, "units": ["high", "low", "middle"]})
    with pytest.raises(CardError, match=r"vocabulary\.classification\.json"):
        load_finetuned(copied)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"vocabulary\.classification\.json"):
        load_finetuned(copied)


@pytest.mark.parametrize("change", ["streams", "model", "objective", "config"])
def test_settings_that_do_not_fit_the_tensors_are_refused(copied, change):
    path = copied / "final" / "checkpoint.json"
    meta = seal.read_json(path)
    stream = meta["config"]["streams"]["classification"]
    if change == "streams":
        stream["layers"] = "last"
    elif change == "model":
        meta["config"]["model"]["feedforward_dim"] = [64] * 7
    elif change == "objective":
        stream["objective"] = "os.system"
    else:
        meta["config"]["num_steps"] = "rm -rf"
    seal.write_json(path, meta)
    with pytest.raises(CheckpointError, match="final"):
        load_finetuned(copied)


def test_what_is_no_fine_tuned_run_is_refused(encoder, copied, tmp_path):
    for place in (encoder, tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointError):
            load_finetuned(place)
    path = copied / "final" / "checkpoint.json"
    meta = seal.read_json(path)
    meta["config"]["streams"] = {"codes": {"objective": "random_projection"}}
    seal.write_json(path, meta)
    with pytest.raises(CheckpointError, match="no head|without a head"):
        load_finetuned(copied)


def test_tags_have_a_mean_average_precision_and_are_told_over_time(tagger, labelled, command):
    score = fs.read_json(tagger / "score.json")
    assert score["metric"] == "map" and 0 < score["value"] <= 1 and score["items"] == 5
    words = ("--checkpoint", tagger, "--window-seconds", 0.2, "--device", "cpu", "--json", "--top", 2)
    done = command("tag", labelled.parent / "r3.wav", labelled.parent / "broken.wav", *words)
    (row,) = json.loads(done.stdout)
    assert row["path"].endswith("r3.wav") and len(row["labels"]) == 2
    assert [(window["start"], window["stop"]) for window in row["windows"]] == [(0.0, 0.225), (0.225, 0.45)]
    assert {label["name"] for window in row["windows"] for label in window["labels"]} <= {"low", "mid", "high", "tone"}


def test_a_run_is_scored_on_other_cuts_and_stands_in_a_table(encoder, tagger, classifier, tmp_path, capsys):
    cuts = tmp_path / "dev.jsonl"
    shutil.copy(tagger / "data/manifests/test.jsonl", cuts)
    assert finetune.main(["score", str(tagger), str(cuts), "--device", "cpu"]) == 0
    found, before = fs.read_json(tagger / "score-dev.json"), fs.read_json(tagger / "score.json")
    assert found["value"] == before["value"] and found["items"] == 5 and "dev.jsonl: map" in capsys.readouterr().out
    assert finetune.main(["report", str(tagger), str(classifier[0]), "--output", str(tmp_path / "RESULTS.md")]) == 0
    said = capsys.readouterr().out
    assert f"| tagging | tags | {encoder.name} | map | 1 |" in said and "| classification | class |" in said
    assert said in (tmp_path / "RESULTS.md").read_text() + "\n"


def test_tags_are_printed_and_bad_files_listed(tagger, labelled, capsys):
    files = [str(labelled.parent / name) for name in ("r3.wav", "r4.wav", "missing.wav")]
    assert tag.main([*files, "--checkpoint", str(tagger), "--device", "cpu", "--window-seconds", "0.3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(files[0]) and any("missing.wav" in line and "left out" in line for line in lines)


def test_speakers_are_verified_who_were_not_trained_on(words, tmp_path):
    exp_dir = tmp_path / "exp"
    small = ["--streams.verification.channels", "8", "--streams.verification.embedding-dim", "8"]
    assert finetune.main(["--task", "verification", "--exp-dir", str(exp_dir), *words, *small]) == 0
    speakers = [{item.speaker for item in read_items(exp_dir / f"data/manifests/{p}.jsonl")} for p in ("train", "test")]
    assert not speakers[0] & speakers[1] and speakers[0] and speakers[1]
    score = fs.read_json(exp_dir / "score.json")
    assert score["metric"] == "eer" and score["items"] == len(fs.read_jsonl(exp_dir / "predictions.jsonl"))
    with pytest.raises(ConfigError, match="0 heads"):
        tag.main(["x.wav", "--checkpoint", str(exp_dir), "--device", "cpu"])


def test_an_untrained_encoder_of_the_same_sizes_learns_whole_from_the_first_step(encoder, tmp_path):
    from spear.finetuning.settings import train_settings
    from spear.finetuning.tables import TableSettings

    counts = {"train": {"hours": 1.0}, "dev": {"recordings": 3}}
    tables = TableSettings([], "ctc", "text")
    given, untrained = (train_settings(tables, counts, tmp_path, f"{p}{encoder}") for p in ("", "random:"))
    assert given["init_from"] == str(encoder) and untrained["init_from"] == ""
    assert given["freeze_encoder_steps"] == 135 and untrained["freeze_encoder_steps"] == 0
    assert given["num_steps"] == untrained["num_steps"] == 1350  # 30 times an hour in batches of 80 s
    assert given["model"] == untrained["model"] and given["sources"][1]["held_out"]
