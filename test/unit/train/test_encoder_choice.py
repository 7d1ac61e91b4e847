"""`model.encoder`: what is trained is chosen by name, and what was trained before there was a choice is a Zipformer."""

import dataclasses
import json

import pytest
import yaml

import spear
from spear import config as configuration
from spear.errors import CheckpointError, ConfigError
from spear.models.config import SpearConfig
from spear.models.encoders.transformer import TransformerConfig
from spear.nn.transformer import TransformerLayer
from spear.train import checkpoint
from spear.train.config import ALIASES, ModelConfig, TrainConfig
from spear.train.main import main
from spear.train.setup import check_resumable

TRANSFORMER = {
    "encoder": "transformer",
    "dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_dim": 32,
    "subsampling_channels": "4,4,8",
}


def parse(*arguments) -> ModelConfig:
    return configuration.parse(TrainConfig, list(arguments), ALIASES).model


def test_a_configuration_that_names_no_encoder_is_a_zipformer(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("model: {encoder_dim: '32'}")
    assert parse("--config", str(path)) == ModelConfig("zipformer", SpearConfig(encoder_dim="32"))
    assert parse() == TrainConfig().model == ModelConfig("zipformer", SpearConfig())


def test_a_transformer_is_chosen_by_name_and_drops_the_sizes_of_the_zipformer(tmp_path):
    first, second = tmp_path / "zipformer.yaml", tmp_path / "transformer.yaml"
    first.write_text("model: {encoder_dim: '32', num_heads: '2', exact_padding: true}")
    second.write_text(yaml.safe_dump({"model": TRANSFORMER}))
    model = parse("--config", str(first), "--config", str(second), "--model.num-layers", "3")
    assert model.settings == TransformerConfig.from_dict({**TRANSFORMER, "num_layers": 3})
    assert parse("--config", str(first), "--model.encoder", "transformer").settings == TransformerConfig()
    assert configuration.from_dict(TrainConfig, configuration.to_dict(TrainConfig(model=model))).model == model


def test_the_order_of_arguments_does_not_matter():
    choice, size = ("--model.encoder", "transformer"), ("--model.num-heads", "4")
    assert parse(*size, *choice) == parse(*choice, *size) == ModelConfig("transformer", TransformerConfig(num_heads=4))


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"encoder": "transforner"}, "transformer"),
        ({"encoder": "transformer", "dims": 3}, "dim"),
        ({"encoder": "transformer", "encoder_dim": "64"}, "encoder_dim"),
        ({"dim": 64}, "dim"),
        ({"encoder": "transformer", "dim": "wide"}, "model.dim"),
        ({"encoder": "transformer", "dropout": 1.5}, "model.dropout"),
        ({"encoder": "transformer", "positions": "none"}, "positions"),
    ],
)
def test_what_does_not_fit_the_encoder_is_refused_by_name(settings, named):
    with pytest.raises(ConfigError, match=named):
        configuration.from_dict(TrainConfig, {"model": settings})


def test_a_run_of_another_encoder_is_not_resumed():
    old = configuration.to_dict(TrainConfig())
    del old["model"]["encoder"]  # as versions wrote it that knew no other
    meta = {"config": old, "cards": {}, "world_size": 1}
    check_resumable(TrainConfig(), meta, 1, {})
    with pytest.raises(CheckpointError, match="model.encoder = 'transformer'.*'zipformer'"):
        check_resumable(TrainConfig(model=TransformerConfig()), meta, 1, {})
    meta["config"] = configuration.to_dict(TrainConfig(model=TransformerConfig()))
    del meta["config"]["model"]["layer_drop"]  # younger than the checkpoint: what is its default now
    check_resumable(TrainConfig(model=TransformerConfig()), meta, 1, {})
    with pytest.raises(CheckpointError, match=r"model.layer_drop = 0.2, .*0.05"):
        check_resumable(TrainConfig(model=TransformerConfig(layer_drop=0.2)), meta, 1, {})


def test_a_transformer_trains_reports_and_is_read_again(make_trainer, tmp_path, capsys):
    trainer = make_trainer(model=TRANSFORMER)
    final = trainer.run()
    exp_dir = final.parent
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [row[key] for row in rows for key in row if key.startswith("loss/speech/")]
    assert len(losses) >= 4 and all(loss < 10 for loss in losses)
    description = json.loads((final / "checkpoint.json").read_text())
    assert description["model_config"]["encoder"] == "transformer"
    model = spear.load_model(exp_dir)
    assert model.config == TransformerConfig.from_dict(TRANSFORMER)
    assert [type(layer) for layer in model.layers()] == [TransformerLayer] * 2
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(configuration.to_dict(trainer.config)))
    assert main(["--health", "--config", str(settings)]) == 0
    health = json.loads((exp_dir / "health" / "step-00000004.json").read_text())
    assert [module["name"] for module in health["modules"] if module["is_layer"]] == [
        "encoder.layers.0",
        "encoder.layers.1",
    ]
    assert main(["--estimate", "--config", str(settings)]) == 0
    assert "s a step" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="init_from"):
        make_trainer(exp_dir=str(tmp_path / "zipformer"), init_from=str(exp_dir)).run()


@pytest.mark.parametrize("positions", ["rotary", "convolutional"])
def test_a_transformer_resumes_bit_for_bit(make_trainer, tmp_path, positions):
    model = {**TRANSFORMER, "positions": positions, "position_kernel": 5, "position_groups": 4}
    make_trainer(exp_dir=str(tmp_path / "whole"), model=model).run()
    make_trainer(exp_dir=str(tmp_path / "parts"), model=model, num_steps=2).run()
    make_trainer(exp_dir=str(tmp_path / "parts"), model=model).run()
    for kind in ("model", "model_avg", "optimizer"):
        found, expected = (
            checkpoint.read_tensors(checkpoint.directory_of(tmp_path / run, 4), kind) for run in ("parts", "whole")
        )
        assert all((found[name] == expected[name]).all() for name in expected), kind


def test_an_encoders_own_configuration_will_do():
    config = TrainConfig(model=TransformerConfig.mini())
    assert config.model.encoder == "transformer" and dataclasses.replace(config).model == config.model
