"""Bypass: a learned per-channel interpolation between a block's input and output (Zipformer, 3.5)."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spear.nn import fused
from spear.nn.gradient import limit_parameter
from spear.nn.schedule import ScheduledFloat, happens, keep_mask, schedule


class _LerpOnGpu(torch.autograd.Function):
    """`torch.lerp` with a backward pass of one kernel and a sum."""

    @staticmethod
    def forward(ctx, original_BTD, new_BTD, scale):
        ctx.save_for_backward(original_BTD, new_BTD, scale)
        return torch.lerp(original_BTD, new_BTD, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        original_BTD, new_BTD, scale = ctx.saved_tensors
        for_original, for_new, product = fused.bypass_gradients(original_BTD, new_BTD, scale, grad)
        return for_original, for_new, product.sum_to_size(scale.shape)


class Bypass(nn.Module):
    """original + (new - original) * scale, with one scale for each channel.

    In training, gradients keep the scale in a range whose lower end falls from 0.9 to 0.2 (so that every layer must
    contribute at first), and whole utterances may skip the block.

    Args:
        dim: number of channels.
        skip_rate: probability that an utterance takes `original` alone.
    """

    def __init__(self, dim: int, skip_rate: float | ScheduledFloat = 0.0):
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((dim,), 0.5))
        self.skip_rate = schedule(skip_rate)
        self.min_scale = ScheduledFloat((0.0, 0.9), (20000.0, 0.2))

    def forward(self, original_BTD: Tensor, new_BTD: Tensor) -> Tensor:
        """Two (B, T, D) -> (B, T, D)."""
        scale = self.bypass_scale
        if self.training:
            if happens(0.6):
                scale = limit_parameter(scale, float(self.min_scale), 1.0)
            mask = keep_mask(original_BTD, float(self.skip_rate))
            if mask is not None:
                scale = scale * mask
        lerp = _LerpOnGpu.apply if new_BTD.is_cuda else torch.lerp
        return lerp(original_BTD, new_BTD, scale.to(new_BTD.dtype))
