"""Relative positions, compressed: fine near zero, coarse far away (Zipformer, 3.5)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_positions(num_frames: int, dim: int) -> Tensor:
    """Features of the offsets -(T-1) ... T-1: (2T-1, dim) float32.

    An offset n is compressed to c(n) = sqrt(dim) sign(n) (ln(|n| + sqrt(dim)) - ln sqrt(dim)) and turned into an angle
    theta = atan(2 pi c / dim); the features are cos(m theta) and sin(m theta) for m = 1 ... dim/2, and a constant 1 in
    place of the last sine.
    """
    offset = torch.arange(-(num_frames - 1), num_frames, dtype=torch.float32).unsqueeze(1)
    width = math.sqrt(dim)
    compressed = width * offset.sign() * ((offset.abs() + width).log() - math.log(width))
    angle = torch.atan(compressed * (2.0 * math.pi / dim))
    frequency = torch.arange(1, dim // 2 + 1, dtype=torch.float32)
    features = torch.stack([(angle * frequency).cos(), (angle * frequency).sin()], dim=-1).flatten(1)
    features[:, -1] = 1.0
    return features


class RelativePositions(nn.Module):
    """Hands out `relative_positions`, kept between calls, with dropout in training."""

    def __init__(self, dim: int, dropout: float = 0.15):
        super().__init__()
        self.dim, self.dropout = dim, dropout
        self._longest: Tensor | None = None

    def forward(self, num_frames: int, device: torch.device) -> Tensor:
        """(2T-1, dim): row r holds offset (key - query) r - (T-1)."""
        known = 0 if self._longest is None else (self._longest.shape[0] + 1) // 2
        if known < num_frames or self._longest.device != device:
            known = max(known, num_frames)
            # Longer tables contain the shorter ones, so that the values do not depend on what came before.
            self._longest = relative_positions(known, self.dim).to(device)
        rows = self._longest[known - num_frames : known + num_frames - 1]
        return F.dropout(rows, self.dropout, self.training)
