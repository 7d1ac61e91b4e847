"""A small encoder whose heads can be decoded."""

import pytest
import torch
from tiny import TWO_WIDTHS

from spear import SpearConfig, SpearModel


@pytest.fixture(scope="session")
def encoder():
    torch.manual_seed(0)
    return SpearModel(SpearConfig(**TWO_WIDTHS)).eval()
