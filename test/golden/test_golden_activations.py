"""Activations against k2's values."""

import pytest
import torch

from spear.nn.activations import SWOOSH_L, SWOOSH_R, swoosh


@pytest.mark.parametrize("name, constants", [("swoosh_l", SWOOSH_L), ("swoosh_r", SWOOSH_R)])
def test_swoosh_equals_that_of_k2(golden, name, constants):
    tensors, _ = golden("transducer")
    torch.testing.assert_close(swoosh(tensors[f"{name}.x"], constants), tensors[f"{name}.y"], atol=1e-5, rtol=1e-5)
