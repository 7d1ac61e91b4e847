"""Reading and writing encoders."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import spear
from spear.errors import CheckpointError
from spear.models.loading import load_model, save_model
from spear.train import checkpoint

SIZES = dict(
    encoder_dim="16,24,24,32,24,24,16",
    feedforward_dim="16,24,24,32,24,24,16",
    encoder_unmasked_dim="8,12,12,16,12,12,8",
    num_encoder_layers="1,2,1,1,1,1,1",
    num_heads="2,2,2,4,2,2,2",
    query_head_dim="8",
    value_head_dim="6",
    subsampling_channels="2,4,8",
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return spear.SpearModel(spear.SpearConfig(**SIZES)).eval()


def same(a, b):
    x, lens = torch.linspace(-9, 3, 60 * 128).view(1, 60, 128), torch.tensor([60])
    with torch.no_grad():
        return torch.equal(a.encode(x, lens).encoder_out, b.encode(x, lens).encoder_out)


def test_round_trip(model, tmp_path):
    save_model(model.train(), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    assert same(loaded, model.eval())
    frozen = [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 8 and all(name.split(".")[-2].isdigit() for name in frozen)


def test_names_are_the_released_ones(model):
    names = set(model.state_dict())
    assert "encoder.encoders.0.layers.0.self_attn_weights.linear_pos.weight" in names
    assert "encoder.encoders.1.encoder.layers.1.bypass_mid.bypass_scale" in names
    assert "encoder.encoders.3.out_combiner.bypass_scale" in names
    assert "encoder_embed.convnext.pointwise_conv1.weight" in names
    assert all(name.startswith(("encoder_embed.", "encoder.")) for name in names)


def test_training_checkpoints_prefer_the_average_and_leave_heads_aside(model, tmp_path):
    final = tmp_path / "exp" / "final"
    final.mkdir(parents=True)
    state = {**model.state_dict(), "mask_emb": torch.zeros(128), "heads.speech.linear2_bias": torch.zeros(4, 256)}
    save_file({name: torch.zeros_like(value) for name, value in state.items()}, final / "model.safetensors")
    save_file(state, final / "model_avg.safetensors")
    (final / "checkpoint.json").write_text(json.dumps({"model_config": model.config.to_dict()}))
    assert same(load_model(final), model)
    assert same(load_model(tmp_path / "exp"), model)


def test_icefall_checkpoints_show_their_architecture(model, tmp_path):
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "pretrained.pt")
    loaded = load_model(tmp_path / "pretrained.pt")
    assert same(loaded, model)
    for name in ("encoder_dim", "feedforward_dim", "num_encoder_layers", "num_heads", "query_head_dim"):
        assert loaded.config.per_stack(name) == model.config.per_stack(name)


def test_a_bare_safetensors_file(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert same(load_model(tmp_path / "weights.safetensors"), model)


def refuse(path, match):
    with pytest.raises(CheckpointError, match=match):
        load_model(path)


def test_nothing_there(tmp_path):
    refuse(tmp_path / "absent", "nothing at")
    refuse(tmp_path, "without model.safetensors")


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_files(model, tmp_path, part):
    save_model(model, tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: int(part * len(content))])
    refuse(tmp_path, "model.safetensors is truncated or altered")
    (tmp_path / "seal.json").unlink()
    refuse(tmp_path, "cannot be read")
    torch.save({"model": model.state_dict()}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: int(part * len(content))])
    refuse(tmp_path / "a.pt", "a.pt cannot be read")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "seal.json"])
def test_one_other_bit_is_refused_by_name(model, tmp_path, file):
    save_model(model, tmp_path)
    content = bytearray((tmp_path / file).read_bytes())
    content[-1000 if file == "model.safetensors" else len(content) // 2] ^= 1
    (tmp_path / file).write_bytes(content)
    refuse(tmp_path, file)


def test_one_other_bit_of_a_final_model_is_refused_by_name(model, tmp_path):
    final = checkpoint.save(tmp_path / "final", {"model": model.state_dict()}, {"step": 1, "model_config": {}})
    assert "altered" not in str(pytest.raises(CheckpointError, load_model, tmp_path).value)  # whole, of another size
    for file in ("model.safetensors", "checkpoint.json"):
        content = (final / file).read_bytes()
        (final / file).write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
        refuse(tmp_path, file)
        (final / file).write_bytes(content)


def test_files_that_could_run_code(tmp_path):
    torch.save({"model": {"encoder_embed.out.weight": pytest.raises}}, tmp_path / "a.pt")
    refuse(tmp_path / "a.pt", "not a checkpoint of tensors")


def test_foreign_and_unfitting_tensors(model, tmp_path):
    state = model.state_dict()
    save_model(model, tmp_path)
    (tmp_path / "seal.json").unlink()

    def write(changed):
        save_file(changed, tmp_path / "model.safetensors")

    write({"bert.weight": torch.zeros(2)})
    refuse(tmp_path, "SPEAR encoder")
    write({**state, "decoder.weight": torch.zeros(2)})
    refuse(tmp_path, "decoder.weight")
    write({name: value for name, value in state.items() if "bypass_mid" not in name})
    refuse(tmp_path, "bypass_mid")
    write({**state, "encoder_embed.out_norm.bias": torch.zeros(17)})
    refuse(tmp_path, r"out_norm.bias of shape \(17,\)")
    write(state)
    (tmp_path / "config.json").write_text("{")
    refuse(tmp_path, "unreadable configuration")


def test_saved_files_hold_the_encoder_only(model, tmp_path):
    model.mask_emb = torch.nn.Parameter(torch.zeros(128))
    save_model(model, tmp_path)
    assert "mask_emb" not in load_file(tmp_path / "model.safetensors")


def test_layers_draw_their_weights_again_after_a_model_was_loaded(model, tmp_path):
    save_model(model, tmp_path)
    load_model(tmp_path)
    torch.manual_seed(0)
    assert torch.nn.Linear(8, 8).weight.std() > 0.05 and torch.nn.Conv1d(8, 8, 3).weight.std() > 0.01
