"""Features of the released front end."""

import pytest
import torch

from spear.audio import LOG_FLOOR, Fbank


@pytest.mark.parametrize("name", ["spear_uniform", "spear_fourheads", "spear_mixed_width"])
def test_features_equal_the_released_front_end(golden, name):
    tensors, _ = golden(f"{name}.safetensors")
    features, lens = Fbank()(tensors["audio"], tensors["audio_lens"])
    assert torch.equal(lens, tensors["fbank_lens"]) and features.shape == tensors["fbank"].shape
    difference = (features - tensors["fbank"]).abs()
    assert difference.max() < 1e-3
    assert difference.flatten().quantile(0.999) < 1.5e-4
    padded = tensors["fbank"][1, int(lens[1]) :]
    assert (padded - LOG_FLOOR).abs().max() < 1e-5
