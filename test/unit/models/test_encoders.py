"""Encoders behind one interface: the contract of their output, files, presets, and the registry."""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

import spear
from spear.errors import CheckpointError, ConfigError
from spear.models import encoders
from spear.models.config import SpearConfig
from spear.models.encoders.transformer import TransformerConfig
from spear.models.loading import load_model, save_model
from spear.nn import scheduled_floats, set_activation_checkpointing
from spear.optim import ScaledAdam, parameter_groups

ROOT = Path(__file__).resolve().parents[3]
TINY = {"dim": 16, "num_layers": 3, "num_heads": 2, "feed_forward_dim": 32, "subsampling_channels": "2,4,8"}
ROTARY = TransformerConfig(**TINY)
CONVOLUTIONAL = TransformerConfig(**TINY, positions="convolutional", position_kernel=9, position_groups=4)
ZIPFORMER = SpearConfig(
    num_encoder_layers="1,2", downsampling_factor="2,1", encoder_dim="16", encoder_unmasked_dim="12", num_heads="2",
    feedforward_dim="16", query_head_dim="4", cnn_module_kernel="5", subsampling_channels="2,4,8", exact_padding=True,
)  # fmt: skip
EVERY = pytest.mark.parametrize("config", [ROTARY, CONVOLUTIONAL, ZIPFORMER], ids=["rotary", "conv", "zipformer"])


def make_model(config, **changes):
    torch.manual_seed(0)
    return spear.SpearModel(dataclasses.replace(config, **changes)).eval()


def features(*lens):
    x_BTF = torch.randn(len(lens), max(lens), 128, generator=torch.Generator().manual_seed(1)) * 3 - 6
    return x_BTF, torch.tensor(lens)


@EVERY
@pytest.mark.parametrize("factor", [1, 2])
def test_output_contract(config, factor):
    model = make_model(config, output_downsampling_factor=factor)
    x_BTF, lens_B = features(131, 70, 9)
    with torch.no_grad():
        output = model.encode(x_BTF, lens_B)
    hidden = [(frames - 7) // 2 for frames in lens_B.tolist()]
    assert output.hidden_lens.tolist() == hidden
    assert output.encoder_out_lens.tolist() == [-(-n // factor) for n in hidden]
    assert output.encoder_out_lens.tolist() == model.output_lengths(lens_B).tolist()
    assert output.encoder_out.shape == (3, -(-hidden[0] // factor), model.output_dim)
    assert output.embed_out.shape == (3, hidden[0], config.layer_dims[0])
    assert [tuple(x.shape) for x in output.hidden_states] == [(3, hidden[0], dim) for dim in config.layer_dims]
    assert len(model.layers()) == len(config.layer_dims) and model.frame_rate_hz == 50 / factor
    assert (output.hidden_states[-1] is output.encoder_out) == (factor == 1)
    with torch.no_grad():
        without = model.encode(x_BTF, lens_B, with_hidden_states=False)
    assert without.hidden_states == [] and torch.equal(without.encoder_out, output.encoder_out)


@EVERY
@pytest.mark.parametrize("factor", [1, 2])
def test_an_utterance_alone_equals_itself_in_a_padded_batch(config, factor):
    model, lens = make_model(config, output_downsampling_factor=factor), (150, 97, 62, 9)
    x_BTF, lens_B = features(*lens)
    with torch.no_grad():
        batch = model.encode(x_BTF, lens_B)
        for row, length in enumerate(lens):
            alone = model.encode(x_BTF[row : row + 1, :length], lens_B[row : row + 1])
            pairs = zip([*alone.hidden_states, alone.encoder_out], [*batch.hidden_states, batch.encoder_out])
            for ours, whole in pairs:
                torch.testing.assert_close(ours[0], whole[row, : ours.shape[1]], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("config", [ROTARY, CONVOLUTIONAL], ids=["rotary", "conv"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_every_parameter_of_a_transformer_learns_under_scaled_adam(config, dtype):
    model = make_model(config, layer_drop=0.0, dropout=0.0, attention_dropout=0.0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = ScaledAdam(parameter_groups(model, 0.02), lr=0.02)
    x_BTF, lens_B = features(80, 80)
    target, losses = torch.randn(2, 36, 16, generator=torch.Generator().manual_seed(2)), []
    for step in range(30):
        torch.manual_seed(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
            output = model.encode(x_BTF, lens_B).encoder_out
        losses.append((output.float() - target).square().mean())
        losses[-1].backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]
    assert not [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]


def test_a_position_counts_in_a_transformer():
    """Without positions, attention would give frames that are turned round turned round."""
    for config in (ROTARY, CONVOLUTIONAL):
        body = make_model(config).encoder
        x_BTD = torch.randn(1, 20, 16)
        with torch.no_grad():
            there, back = body(x_BTD, None)[0], body(x_BTD.flip(1), None)[0].flip(1)
        assert (there - back).abs().max() > 1e-3


def test_schedules_and_checkpointing_of_a_transformer():
    model = make_model(ROTARY)
    assert not scheduled_floats(model.encoder) and scheduled_floats(model.encoder_embed)
    set_activation_checkpointing(model, True)
    assert model.encoder.activation_checkpointing and model.encoder_embed.activation_checkpointing


@pytest.mark.parametrize("config, other", [(TransformerConfig.base(), SpearConfig.base()), ("mini", "mini")])
def test_a_transformer_has_as_many_parameters_as_the_zipformer_that_it_controls(config, other):
    if config == "mini":
        student = yaml.safe_load((ROOT / "egs/mini/spear/conf/student.yaml").read_text())
        config, other = TransformerConfig.mini(), SpearConfig.from_dict(student["model"])
        variant = yaml.safe_load((ROOT / "egs/mini/spear/conf/ablation/transformer.yaml").read_text())["model"]
        assert encoders.from_dict(variant) == dataclasses.replace(config, gradient_regularisers=False)
    counts = []
    for each in (config, other):
        with torch.device("meta"):
            counts.append(sum(parameter.numel() for parameter in spear.SpearModel(each).parameters()))
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


@EVERY
def test_a_saved_encoder_names_itself_and_is_read_again(config, tmp_path):
    model = make_model(config)
    save_model(model, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["encoder"] == config.encoder and settings["model_type"] == "spear"
    loaded = load_model(tmp_path)
    assert loaded.config == config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    x_BTF, lens_B = features(60)
    with torch.no_grad():
        assert torch.equal(loaded.encode(x_BTF, lens_B).encoder_out, model.encode(x_BTF, lens_B).encoder_out)


def test_files_that_name_no_encoder_are_zipformers(tmp_path):
    save_model(make_model(ZIPFORMER), tmp_path)
    (tmp_path / "seal.json").unlink()
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["encoder"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load_model(tmp_path).config == ZIPFORMER


def test_a_transformer_without_its_configuration_is_refused(tmp_path):
    """Its shapes do not tell how many heads it has; a guess would be another model."""
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(make_model(ROTARY).state_dict(), path)
    with pytest.raises(CheckpointError, match="do not tell its heads"):
        load_model(path)


@pytest.mark.parametrize("name", ["conformer", "", "os:system", 3, None, ["transformer"]])
def test_a_file_that_names_an_unknown_encoder_is_refused(tmp_path, name):
    save_model(make_model(ROTARY), tmp_path)
    (tmp_path / "seal.json").unlink()
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "encoder": name}))
    with pytest.raises(CheckpointError, match="encoder"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0}, {"dim": 1 << 40}, {"dim": "16"}, {"dim": True}, {"dim": float("nan")}, {"num_layers": 513},
        {"num_heads": 3}, {"num_heads": 16}, {"feed_forward_dim": -1}, {"positions": "none"}, {"dropout": 1.0},
        {"dropout": float("nan")}, {"layer_drop": -0.1}, {"position_kernel": 8}, {"subsampling_channels": "1,2"},
        {"subsampling_channels": "0,2,4"}, {"num_mel_bins": 10**9}, {"output_downsampling_factor": 3},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_cannot_work_are_refused_by_name(change):
    name = "dim" if change == {"num_heads": 16} else next(iter(change))  # one channel a head cannot be turned
    with pytest.raises(ConfigError, match=name):
        TransformerConfig.from_dict({**TINY, **change})


def test_dictionary_round_trip_ignores_keys_of_other_tools():
    assert encoders.from_dict({**encoders.to_dict(CONVOLUTIONAL), "torch_dtype": "float32"}) == CONVOLUTIONAL
    assert encoders.from_dict(ZIPFORMER.to_dict()) == ZIPFORMER
    assert encoders.names()[:2] == ["zipformer", "transformer"]
