"""Fewer and more frames: learned weighted averages down, repetition up (Zipformer, 3.5)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def padding_mask(lens_B: Tensor, num_frames: int) -> Tensor | None:
    """(B, T), True at padded frames; None when no utterance is padded."""
    padding_BT = torch.arange(num_frames, device=lens_B.device) >= lens_B.unsqueeze(1)
    return padding_BT if padding_BT.any() else None


def repeat_last_valid(x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
    """Overwrites padded frames with each utterance's last valid frame, as if every utterance stood alone."""
    frames = torch.arange(x_BTD.shape[1], device=x_BTD.device)
    last_B1 = (~padding_BT).sum(1, keepdim=True) - 1
    source_BT = torch.minimum(frames, last_B1.clamp(min=0))
    return x_BTD.gather(1, source_BT.unsqueeze(-1).expand_as(x_BTD))


class Downsample(nn.Module):
    """Weighted averages of `factor` successive frames, the last frame repeated to fill the last group."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, ceil(T / factor), D)."""
        missing = -x_BTD.shape[1] % self.factor
        if missing:
            x_BTD = torch.cat([x_BTD, x_BTD[:, -1:].expand(-1, missing, -1)], dim=1)
        weights = self.bias.softmax(0).to(x_BTD.dtype).unsqueeze(-1)
        return (x_BTD.unflatten(1, (-1, self.factor)) * weights).sum(2)


def upsample(x_BTD: Tensor, factor: int, num_frames: int) -> Tensor:
    """Repeats each frame `factor` times and keeps the first `num_frames`."""
    return x_BTD.repeat_interleave(factor, dim=1)[:, :num_frames]


def with_channels(x_BTD: Tensor, dim: int) -> Tensor:
    """Drops channels beyond `dim`, or appends zeros up to `dim`."""
    missing = dim - x_BTD.shape[-1]
    return x_BTD if missing == 0 else F.pad(x_BTD, (0, missing))
