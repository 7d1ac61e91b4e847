"""Training compares its data with what was verified: edited manifests, other tokens, quantizers and audio stop it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spear import dist, fs, seal
from spear.bin import verify_tokens
from spear.config import from_dict
from spear.errors import DataError
from spear.shards import ShardWriter, read_index
from spear.teachers.align import register_frame_rule
from spear.train.config import TrainConfig
from spear.train.startup import check_data


@pytest.fixture(scope="module")
def ready(data_dir, tmp_path_factory):
    """The data of a run, with READY."""
    folder = tmp_path_factory.mktemp("ready") / "data"
    shutil.copytree(data_dir, folder)
    shard = read_index(folder / "tokens/speech", "tokens-00000")
    shard.update(unit_sha256="0" * 64, quarantined=[])  # as extract-tokens writes it
    seal.write_json(folder / "tokens/speech/tokens-00000.json", shard, indent=None)
    register_frame_rule("test", lambda num_samples: num_samples // 320)
    cuts = [str(folder / f"manifests/cuts_{domain}_train.jsonl") for domain in ("speech", "audio")]
    assert verify_tokens.main(["--tokens", str(folder / "tokens"), "--cuts", *cuts]) == 0
    return folder


@pytest.fixture
def check(ready, config_file, tmp_path):
    """Returns a function that changes a copy of the data and looks at it as training does."""

    def check(change) -> None:
        shutil.copytree(ready, tmp_path / "data")
        change(tmp_path / "data")
        settings = yaml.safe_load(config_file.read_text()) | {"data_dir": str(tmp_path / "data")}
        check_data(from_dict(TrainConfig, settings), dist.World(0, 1, torch.device("cpu")))

    return check


def test_what_was_verified_is_trained_on_and_what_was_compared_is_said(check, caplog):
    with caplog.at_level("INFO"):
        check(lambda data: None)
    assert "compared manifest cuts_speech_train.jsonl" in caplog.text and "a sample of 60 recordings" in caplog.text
    assert "not compared: manifest noise.jsonl" in caplog.text and "no READY" not in caplog.text


def test_data_that_nobody_verified_are_trained_on_with_a_warning(check, caplog):
    check(lambda data: (data / "READY").unlink())
    assert "no READY in" in caplog.text


def test_recordings_that_are_gone_are_named_and_end_nothing(check, caplog):
    check(lambda data: (data / "raw/cut4.wav").unlink())
    assert "1 recordings of the sample are gone" in caplog.text and "raw/cut4.wav" in caplog.text


def test_a_run_on_changed_data_ends_before_its_first_step(ready, start, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(ready, data)
    _edit_manifest(data)
    assert start(tmp_path / "exp", "--data-dir", str(data)).wait(timeout=300) == 1
    log = Path(f"{tmp_path / 'exp'}.log").read_text()
    assert "was changed after the tokens were verified" in log and "Traceback" not in log
    assert not (tmp_path / "exp/checkpoints").exists()


def _edit_manifest(data):
    path = data / "manifests/cuts_speech_train.jsonl"
    path.write_text(path.read_text().replace('"num_samples":', '"num_samples" :', 1))


def _exchange_recordings(data):
    path = data / "manifests/cuts_speech_train.jsonl"
    first, second, *others = fs.read_jsonl(path)
    first["recording"], second["recording"] = second["recording"], first["recording"]
    fs.write_jsonl(path, [first, second, *others])


def _replace_audio(data):
    path = data / "raw/cut4.wav"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    path.write_bytes(content)


def _replace_tokens(data):
    index = read_index(data / "tokens/speech", "tokens-00000")
    with ShardWriter(data / "tokens/speech", "tokens-00000", np.uint8, 4) as writer:
        for item, start, stop in zip(index["ids"], index["offsets"], index["offsets"][1:]):
            writer.add(item, np.zeros((stop - start, 4), np.uint8))


def _exchange_ids_of_tokens(data):
    path = data / "tokens/speech/tokens-00000.json"
    first, second = read_index(path.parent, path.stem)["ids"][:2]
    text = path.read_text().replace(f'"{first}"', '"?"').replace(f'"{second}"', f'"{first}"')
    path.write_text(text.replace('"?"', f'"{second}"'))


def _edit_card(data):
    path = data / "tokens/speech/card.json"
    path.write_text(path.read_text().replace('"layer": 1', '"layer": 2'))


def _exchange_quantizer(data):
    seal.write_json(data / "quantizer/speech/card.json", {"content_sha256": "f" * 64})


@pytest.mark.parametrize(
    "change, named",
    [
        (_edit_manifest, "cuts_speech_train.jsonl was changed after the tokens were verified"),
        (_exchange_recordings, "cuts_speech_train.jsonl was changed after the tokens were verified"),
        (_replace_audio, "cut4.wav is another recording"),
        (_replace_tokens, "tokens/speech are others than those that were verified"),
        (_exchange_ids_of_tokens, "tokens-00000.json was changed or damaged"),
        (_edit_card, "card.json was changed or damaged"),
        (_exchange_quantizer, "quantizer/speech is another quantizer"),
        (lambda data: (data / "READY").write_text("{}"[:1]), "READY is not valid JSON"),
    ],
)
def test_changed_data_are_refused_by_name(check, change, named):
    with pytest.raises(DataError, match=named):
        check(change)
