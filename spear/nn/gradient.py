"""Operations that leave values alone and change gradients."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spear.nn import fused


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Identity whose gradient is multiplied by `factor`."""
    return _Scale.apply(x, factor) if x.requires_grad else x


class _Limit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter, low, high):
        ctx.save_for_backward(parameter)
        ctx.low, ctx.high = low, high
        return parameter.view_as(parameter)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (parameter,) = ctx.saved_tensors
        if grad.is_cuda:
            return fused.limit_gradient(parameter, grad, ctx.low, ctx.high), None, None
        # Descent moves against the gradient: outside the range, only moves back towards it are allowed.
        leaves = ((parameter < ctx.low) & (grad > 0)) | ((parameter > ctx.high) & (grad < 0))
        return torch.where(leaves, -grad, grad), None, None


def limit_parameter(parameter: Tensor, low: float, high: float) -> Tensor:
    """Keeps a parameter near [low, high] without clamping it: gradients that push it further out change sign."""
    return _Limit.apply(parameter, low, high)
