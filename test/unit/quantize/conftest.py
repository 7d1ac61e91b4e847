"""Frames that look like embeddings: clusters along few directions, with heavy tails."""

import pytest
import torch


def make_frames(num_frames: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(12, dim, generator=generator)
    latent = torch.randn(num_frames, 12, generator=generator)
    clusters = torch.randn(20, dim, generator=generator)[torch.randint(20, (num_frames,), generator=generator)]
    return clusters + torch.tanh(latent) @ mixing + 0.1 * torch.randn(num_frames, dim, generator=generator)


@pytest.fixture(scope="session")
def frames():
    return make_frames(6000, 24)


@pytest.fixture(scope="session")
def trained(frames):
    """(quantizer, metrics) of 4 codebooks of 32."""
    from spear.quantize import QuantizerTrainConfig, train_quantizer

    config = QuantizerTrainConfig(codebook_size=32, rounds=6)
    return train_quantizer(frames, 4, config, progress=lambda state: None)
