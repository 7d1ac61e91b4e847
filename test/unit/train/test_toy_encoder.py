"""A package of another lab adds an encoder with one file: it is trained, reported on, read, tapped and resumed."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import spear
from spear import config as configuration
from spear.errors import CheckpointError, ConfigError
from spear.evaluate.upstream import load_upstream
from spear.models import encoders
from spear.teachers import load_teacher
from spear.teachers.align import expected_frames
from spear.train import checkpoint
from spear.train.main import main

TOY = {"encoder": "toy", "width": 12, "depth": 3}


def install(folder: Path, monkeypatch, target: str) -> None:
    """A package with an entry point and one module, as pip would leave it."""
    shutil.copyfile(Path(__file__).with_name("toy_encoder.py"), folder / "toy_encoder.py")
    information = folder / "toy_encoder-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-encoder\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{encoders.ENCODERS.group}]\ntoy = {target}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "toy_encoder", raising=False)
    encoders.ENCODERS.forget()


@pytest.fixture(autouse=True)
def forgotten():
    yield
    encoders.ENCODERS.forget()


def test_a_toy_encoder_takes_one_file(make_trainer, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", monkeypatch, "toy_encoder:ToyConfig")
    assert encoders.names() == ["zipformer", "transformer", "toy"]
    trainer = make_trainer(model=TOY, exp_dir=str(tmp_path / "whole"))
    exp_dir = trainer.run().parent
    make_trainer(model=TOY, exp_dir=str(tmp_path / "parts"), num_steps=2).run()
    make_trainer(model=TOY, exp_dir=str(tmp_path / "parts")).run()
    found, expected = (
        checkpoint.read_tensors(checkpoint.directory_of(tmp_path / run, 4), "model") for run in ("parts", "whole")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(configuration.to_dict(trainer.config)))
    assert main(["--health", "--config", str(settings)]) == 0
    health = json.loads((exp_dir / "health" / "step-00000004.json").read_text())
    assert [m["name"] for m in health["modules"] if m["is_layer"]] == [f"encoder.layers.{i}" for i in range(3)]

    model = spear.load_model(exp_dir)
    assert encoders.to_dict(model.config).items() >= TOY.items() and model.frame_rate_hz == 25
    audio_BS, lens_B = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
    output = model(audio_BS, lens_B)
    assert output.encoder_out_lens.tolist() == output.hidden_lens.tolist() == [25, 14]
    upstream = load_upstream(str(exp_dir))
    states, frames_B = upstream.extract(audio_BS, lens_B)
    assert (upstream.stride_samples, len(states), frames_B.tolist()) == (640, 4, [25, 14])
    teacher = load_teacher(f"spear:{exp_dir}@1")
    assert (teacher.dim, teacher.frame_rate, teacher.frame_rule) == (12, 25, "toy-25hz")
    _, taught_B = teacher.embed(audio_BS, lens_B)
    assert taught_B.tolist() == [expected_frames(length, teacher) for length in lens_B.tolist()] == [25, 14]


def test_without_its_package_its_checkpoints_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TOY))
    shutil.copyfile(Path(__file__), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="(?s)'toy'.*zipformer, transformer"):
        spear.load_model(tmp_path)


@pytest.mark.parametrize("target", ["toy_encoder:Body", "toy_encoder:Missing", "no_such_module:ToyConfig"])
def test_a_broken_package_stops_nobody_who_does_not_ask_for_it(tmp_path, monkeypatch, target):
    install(tmp_path, monkeypatch, target)
    assert list(encoders.config_classes()) == ["zipformer", "transformer"]
    with pytest.raises(ConfigError, match="'toy'"):
        encoders.from_dict(TOY)
