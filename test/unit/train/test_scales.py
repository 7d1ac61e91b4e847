"""The health report: sizes of activations, module by module."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from spear import config as configuration
from spear.errors import ConfigError
from spear.models.config import SpearConfig
from spear.models.pretrain import HeadSpec, SpearPretrainModel
from spear.train import checkpoint
from spear.train.main import main
from spear.train.scales import activation_scales, in_words


@pytest.fixture
def model_and_inputs():
    torch.manual_seed(0)
    sizes = {"num_encoder_layers": "1,1,1", "downsampling_factor": "1,2,1", "feedforward_dim": 48, "num_heads": 2}
    sizes |= {"encoder_dim": 32, "encoder_unmasked_dim": 24, "cnn_module_kernel": "15", "subsampling_channels": "4,4,8"}
    model = SpearPretrainModel(SpearConfig(**sizes), {"speech": HeadSpec(2, 16)}).train()
    targets = {"speech": torch.zeros(2, 41, 2, dtype=torch.int64)}
    features_BTF, lens_B = torch.randn(2, 89, 128), torch.tensor([89, 60])
    return model, (features_BTF, lens_B, targets, {"speech": torch.ones(2)})


def test_scales_are_those_of_the_outputs(model_and_inputs):
    model, inputs = model_and_inputs
    scales = activation_scales(model, inputs)
    assert model.training and not in_words(scales)
    by_name = {scale.name: scale for scale in scales}
    with torch.no_grad():
        embedded_BTD = model.eval().encode(*inputs[:2]).embed_out
    assert by_name["encoder_embed"].rms == pytest.approx(float(embedded_BTD.square().mean().sqrt()), rel=1e-4)
    assert by_name["encoder_embed"].largest == pytest.approx(float(embedded_BTD.abs().max()), rel=1e-5)
    assert [scale.name for scale in scales if scale.is_layer] == [
        "encoder.encoders.0.layers.0",
        "encoder.encoders.1.encoder.layers.0",
        "encoder.encoders.2.layers.0",
    ]


def test_what_is_not_finite_is_named_where_it_begins(model_and_inputs):
    model, inputs = model_and_inputs
    with torch.no_grad():
        model.encoder.encoders[1].encoder.layers[0].feed_forward2.out_proj.weight[3, 0] = torch.nan
    [words] = in_words(activation_scales(model, inputs))
    assert words.startswith("encoder.encoders.1.encoder.layers.0.feed_forward2.out_proj is the first")


def test_a_layer_that_has_grown_is_named(model_and_inputs):
    model, inputs = model_and_inputs
    layer = model.encoder.encoders[2].layers[0]
    with torch.no_grad():
        layer.norm.log_scale.fill_(6.0)
        layer.bypass.bypass_scale.fill_(1.0)
    [words] = in_words(activation_scales(model, inputs))
    assert words.startswith("encoder.encoders.2.layers.0 is ") and "times as large as the median layer" in words


def test_the_report_of_a_run_uses_its_newest_checkpoint_and_leaves_the_rest(make_trainer, tmp_path, capsys):
    trainer = make_trainer(num_steps=2)
    trainer.run()
    exp_dir = Path(trainer.config.exp_dir)
    unfinished = exp_dir / "checkpoints" / ".step-00000004.tmp"
    unfinished.mkdir()  # the run goes on, and is saving
    before = {path: path.read_bytes() for path in exp_dir.rglob("*") if path.is_file()}
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(configuration.to_dict(trainer.config)))
    with pytest.raises(ConfigError, match="--estimate and --health together"):
        main(["--health", "--estimate", "--config", str(settings)])
    assert main(["--health", "--config", str(settings)]) == 0
    assert "modules at step 2" in capsys.readouterr().out and unfinished.is_dir()
    written = json.loads((exp_dir / "health" / "step-00000002.json").read_text())
    expected = activation_scales(trainer.model, trainer.probe_inputs(), trainer.dtype)
    assert [module["rms"] for module in written["modules"]] == pytest.approx([scale.rms for scale in expected])
    assert all(path.read_bytes() == data for path, data in before.items()) and checkpoint.steps(exp_dir) == [2]
