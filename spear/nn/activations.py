"""Swoosh activations with dropout, in blocks that stay in a CPU core's cache.

SwooshL(x) = ln(1 + e^(x-4)) - 0.08 x - 0.035 and SwooshR(x) = ln(1 + e^(x-1)) - 0.08 x - 0.313261687 (Zipformer;
the constant makes SwooshR(0) = 0). In eager torch each is four passes over memory forward and three backward; block
by block all passes but the first read from cache. Gradients are exact.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spear.nn import fused

_SLOPE = 0.08
SWOOSH_L = (4.0, 0.035)
SWOOSH_R = (1.0, 0.313261687)
# Elements of a block: half a megabyte in float32, well inside the second-level cache.
_BLOCK = 1 << 17
# e to this power is a float32, with room.
_LARGEST_EXPONENT = 80.0


def _blocks(gain_B1C: Tensor | None, *tensors: Tensor):
    """Yields matching pieces of contiguous tensors of one shape, and of the gain (B, 1, C) where there is one."""
    if tensors[0].device.type != "cpu" or tensors[0].numel() <= _BLOCK:
        yield *tensors, gain_B1C
    elif gain_B1C is None:
        yield from ((*pieces, None) for pieces in zip(*(t.view(-1).split(_BLOCK) for t in tensors)))
    else:
        utterances = max(1, _BLOCK * len(gain_B1C) // max(1, tensors[0].numel()))
        yield from zip(*(t.split(utterances) for t in (*tensors, gain_B1C)))


def swoosh(x: Tensor, constants: tuple[float, float], gain_B1C: Tensor | None = None) -> Tensor:
    """Value of `SWOOSH_L` or `SWOOSH_R` at a contiguous x, outside of the graph.

    With a gain (a dropout mask shared over time), x is (B, T, C) and the value is times the gain.
    """
    if x.is_cuda:
        return fused.swoosh(x, constants, gain_B1C)
    shift, offset = constants
    y = torch.empty_like(x)
    for x_block, y_block, gain in _blocks(gain_B1C, x, y):
        shifted = x_block.float() - shift
        value = y_block if y_block.dtype == torch.float32 else torch.empty_like(shifted)
        _softplus(shifted, value)
        value.add_(shifted, alpha=-_SLOPE).sub_(offset + _SLOPE * shift)
        if gain is not None:
            value.mul_(gain)
        if value is not y_block:
            y_block.copy_(value)
    return y


def _softplus(x: Tensor, out: Tensor) -> None:
    """ln(1 + e^x), to within 1e-7. On CPU torch's own function, with its log1p, takes twice as long."""
    if x.device.type == "cpu" and x.numel() and x.amax() < _LARGEST_EXPONENT:
        torch.exp(x, out=out).add_(1).log_()
    else:
        torch.ops.aten.softplus.out(x, 1, 20, out=out)  # beyond 20 it is x to within float32


def swoosh_gradient(x: Tensor, grad: Tensor, constants: tuple[float, float], gain_B1C: Tensor | None = None) -> Tensor:
    """Gradient with respect to x, given that of the value."""
    if x.is_cuda:
        return fused.swoosh_gradient(x, grad, constants, gain_B1C)
    shift, _ = constants
    grad, result = grad.contiguous(), torch.empty_like(x)
    for x_block, grad_block, result_block, gain in _blocks(gain_B1C, x, grad, result):
        shifted, grad_float = x_block.float() - shift, grad_block.float()
        value = result_block if result_block.dtype == torch.float32 else torch.empty_like(shifted)
        torch.ops.aten.softplus_backward.grad_input(grad_float, shifted, 1, 20, grad_input=value)
        value.add_(grad_float, alpha=-_SLOPE)
        if gain is not None:
            value.mul_(gain)
        if value is not result_block:
            result_block.copy_(value)
    return result


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        ctx.save_for_backward(x)
        return swoosh(x, SWOOSH_R)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return swoosh_gradient(x, grad, SWOOSH_R)


def swoosh_r(x: Tensor) -> Tensor:
    """SwooshR of x."""
    return _Swoosh.apply(x)
