"""The causal encoder against the authors', in four chunk settings (the large set)."""

import json

import pytest
import torch

from spear.models.config import SpearConfig
from spear.models.loading import load_model, save_model
from spear.models.spear import SpearModel
from spear.nn import ChunkSize

SIZES = [(16, -1), (16, 64), (32, 128), (64, 32)]


@pytest.fixture(scope="module")
def case(golden_large):
    """The encoder with the reference's weights, and the numbers."""
    tensors, metadata = golden_large("spear_causal")
    config = SpearConfig.from_dict(
        json.loads(metadata["config"]) | {"chunk_size": "16,32,64", "left_context_frames": -1}
    )
    model = SpearModel(config).eval()
    model.load_state_dict({n.removeprefix("param."): t for n, t in tensors.items() if n.startswith("param.")})
    return model, tensors


@pytest.mark.parametrize("frames, left", SIZES)
def test_output_is_the_references(case, frames, left):
    model, tensors = case
    with torch.no_grad():
        found = model.encode(tensors["fbank"], tensors["fbank_lens"], chunk_size=ChunkSize(frames, left))
    valid_BT1 = (torch.arange(found.encoder_out.shape[1]) < tensors["out_lens"].unsqueeze(1)).unsqueeze(-1)
    assert found.encoder_out_lens.tolist() == tensors["out_lens"].tolist()
    assert (found.encoder_out * valid_BT1 - tensors[f"out.chunk{frames}.left{left}"]).abs().max() < 1e-4


def test_names_and_shapes_tell_that_it_is_causal(case, tmp_path):
    model, tensors = case
    from spear.models.inference import infer_config

    found = infer_config(model.state_dict(), tmp_path)
    assert found.causal and found.cnn_module_kernel == model.config.cnn_module_kernel
    loaded = load_model(save_model(model, tmp_path / "causal"))
    assert loaded.config == model.config
