"""A small encoder whose heads can be decoded."""

import pytest
import torch

from spear import SpearConfig, SpearModel

SIZES = {"encoder_dim": "32,24", "encoder_unmasked_dim": "24,24", "feedforward_dim": "48,48", "num_heads": "2,2"}
SIZES |= {"num_encoder_layers": "1,1", "downsampling_factor": "1,2", "cnn_module_kernel": "15,15"}
SIZES |= {"query_head_dim": "8,8", "subsampling_channels": "4,4,8"}


@pytest.fixture(scope="session")
def encoder():
    torch.manual_seed(0)
    return SpearModel(SpearConfig(**SIZES)).eval()
