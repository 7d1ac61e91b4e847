"""The whole encoder against the released implementation (random weights, float32): the large set of numbers alone."""

import json

import pytest
import torch

import spear
from spear.audio import LOG_FLOOR, Fbank
from spear.models.config import SpearConfig
from spear.models.spear import SpearModel

NAMES = ["spear_uniform", "spear_fourheads", "spear_mixed_width"]


def build(tensors, metadata):
    model = SpearModel(SpearConfig.from_dict(json.loads(metadata["config"])))
    state = {key[len("param.") :]: value for key, value in tensors.items() if key.startswith("param.")}
    state.pop("mask_emb")
    model.load_state_dict(state)  # strict: exactly the released names
    return model.eval().to(tensors["audio"].device)


@pytest.fixture(params=NAMES)
def case(request, golden_large):
    tensors, metadata = golden_large(request.param)
    return build(tensors, metadata), tensors


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_the_released_front_end(golden_large, name):
    tensors, _ = golden_large(name)
    features, lens = Fbank()(tensors["audio"], tensors["audio_lens"])
    assert torch.equal(lens, tensors["fbank_lens"]) and features.shape == tensors["fbank"].shape
    difference = (features - tensors["fbank"]).abs()
    assert difference.max() < 1e-3
    assert difference.flatten().quantile(0.999) < 1.5e-4
    padded = tensors["fbank"][1, int(lens[1]) :]
    assert (padded - LOG_FLOOR).abs().max() < 1e-5


def largest_difference(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def check_output(output, tensors):
    expected = [tensors[key] for key in sorted(tensors) if key.startswith("hidden_states.")]
    assert len(output.hidden_states) == len(expected)
    for index, (ours, theirs) in enumerate(zip(output.hidden_states, expected)):
        assert largest_difference(ours, theirs) < 1e-4, f"layer {index}"
    assert largest_difference(output.encoder_out, tensors["encoder_out"]) < 1e-4
    assert output.encoder_out_lens.tolist() == tensors["encoder_out_lens"].tolist()


def test_subsampling(case):
    model, tensors = case
    with torch.no_grad():
        ours = model.encoder_embed(tensors["fbank"], None)
    assert largest_difference(ours, tensors["encoder_embed_out"]) < 1e-4


def test_every_layer_and_the_output_from_features(case):
    model, tensors = case
    with torch.no_grad():
        check_output(model.encode(tensors["fbank"], tensors["fbank_lens"]), tensors)


def test_every_layer_and_the_output_from_audio(case):
    model, tensors = case
    features, lens = model.fbank(tensors["audio"], tensors["audio_lens"])
    assert lens.tolist() == tensors["fbank_lens"].tolist()
    assert largest_difference(features, tensors["fbank"]) < 1e-3
    with torch.no_grad():
        check_output(model(tensors["audio"], tensors["audio_lens"]), tensors)


def test_loss_and_gradients(golden_large):
    tensors, metadata = golden_large("spear_uniform")
    model = build(tensors, metadata)
    output = model.encode(tensors["fbank"], tensors["fbank_lens"])
    frames = torch.arange(output.encoder_out.shape[1], device=output.encoder_out.device)
    valid = frames < output.encoder_out_lens[:, None]
    loss = (output.encoder_out * tensors["loss_weight"] * valid[..., None]).sum()
    assert loss.item() == pytest.approx(tensors["loss"].item(), rel=1e-4)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = {key[len("grad.") :]: value for key, value in tensors.items() if key.startswith("grad.")}
    assert len(expected) > 100
    for name, theirs in expected.items():
        ours = gradients.get(name)
        if ours is None:
            assert theirs.abs().max() == 0, name
            continue
        relative = (ours - theirs).norm() / theirs.norm().clamp(min=1e-12)
        assert relative < 1e-3, f"{name}: {relative:.2e}"


def test_exact_padding_equals_the_reference_on_single_utterances(golden_large):
    tensors, metadata = golden_large("spear_uniform")
    released = build(tensors, metadata)
    exact = build(tensors, {"config": json.dumps({**json.loads(metadata["config"]), "exact_padding": True})})
    length = int(tensors["fbank_lens"][1])
    with torch.no_grad():
        alone = released.encode(tensors["fbank"][1:, :length], tensors["fbank_lens"][1:])
        batch = exact.encode(tensors["fbank"], tensors["fbank_lens"])
    frames = int(alone.encoder_out_lens)
    assert largest_difference(batch.encoder_out[1:, :frames], alone.encoder_out) < 1e-4


def test_a_released_folder_loads(tmp_path, golden_large, device):
    from safetensors.torch import save_file

    tensors, metadata = golden_large("spear_mixed_width")
    state = {f"model.model.{key[6:]}": value for key, value in tensors.items() if key.startswith("param.")}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "spear", **json.loads(metadata["config"])}))
    model = spear.load_model(tmp_path).to(device)
    assert not model.training
    with torch.no_grad():
        check_output(model.encode(tensors["fbank"], tensors["fbank_lens"]), tensors)


@pytest.mark.parametrize("name", NAMES)
def test_an_icefall_checkpoint_loads_with_its_architecture_inferred(tmp_path, golden_large, device, name):
    tensors, _ = golden_large(name)
    state = {key[6:]: value for key, value in tensors.items() if key.startswith("param.")}
    state["codebook_loss_net.linear2_bias"] = torch.zeros(4, 256)
    torch.save({"model": state, "batch_idx_train": 7}, tmp_path / "epoch-1.pt")
    model = spear.load_model(tmp_path / "epoch-1.pt").to(device)
    with torch.no_grad():
        check_output(model.encode(tensors["fbank"], tensors["fbank_lens"]), tensors)
