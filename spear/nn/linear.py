"""Linear layers that keep little for the backward pass.

Under autocast torch keeps a copy of every weight in the lower precision until the backward pass; on a CPU it is made
again here (a GPU would wait for the launch). A layer behind a Swoosh keeps what goes into the activation and computes
its value, the widest tensor of a feed-forward module, again, unless it is small. Gradients are those of the plain
layers.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from spear import compat
from spear.nn.activations import SWOOSH_L, SWOOSH_R, swoosh, swoosh_gradient

_CONSTANTS = {"l": SWOOSH_L, "r": SWOOSH_R}
# Values of up to so many elements are kept: small models have memory to spare, and computing them again takes time.
_KEPT_NUMEL = 1 << 18


class _Linear(torch.autograd.Function):
    """(..., C) -> (..., O) in a precision, in which x is kept; `constants` are those of a Swoosh, None for none."""

    @staticmethod
    def forward(ctx, x, weight_OC, bias_O, constants, gain_B1C, dtype):
        ctx.constants, ctx.dtypes = constants, (x.dtype, weight_OC.dtype)
        x, cast_OC = x.to(dtype).contiguous(), weight_OC.to(dtype)
        value = x if constants is None else swoosh(x, constants, gain_B1C)
        kept = value if constants is not None and value.numel() <= _KEPT_NUMEL else None
        ctx.save_for_backward(x, cast_OC if x.is_cuda else weight_OC, gain_B1C, kept)
        with compat.disabled_autocast(x.device.type):
            return functional.linear(value, cast_OC, None if bias_O is None else bias_O.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight_OC, gain_B1C, value = ctx.saved_tensors
        constants, (x_dtype, dtype) = ctx.constants, ctx.dtypes
        grad_NO = grad.flatten(0, -2)
        with compat.disabled_autocast(x.device.type):
            if value is None:
                value = x if constants is None else swoosh(x, constants, gain_B1C)
            grad_weight_OC = compat.product(grad_NO.T, value.flatten(0, -2), dtype)
            del value
            grad_bias_O = _sum_of_rows(grad_NO, dtype) if ctx.needs_input_grad[2] else None
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_dtype = x_dtype if constants is None else x.dtype
                grad_x = compat.product(grad_NO, weight_OC.to(x.dtype), grad_dtype).view_as(x)
        if constants is not None and grad_x is not None:
            grad_x = swoosh_gradient(x, grad_x, constants, gain_B1C).to(x_dtype)
        return grad_x, grad_weight_OC, grad_bias_O, None, None, None


def _sum_of_rows(x_NC: Tensor, dtype: torch.dtype) -> Tensor:
    # On a CPU torch would convert all of x first.
    return x_NC.sum(dim=0, dtype=dtype) if x_NC.is_cuda else x_NC.sum(dim=0).to(dtype)


def linear(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`; under autocast the weights' copy is not kept."""
    dtype = compat.compute_dtype(x)
    if dtype == weight_OC.dtype:
        return functional.linear(x, weight_OC, bias_O)
    return _Linear.apply(x, weight_OC, bias_O, None, None, dtype)


def swoosh_linear(
    kind: str, x: Tensor, weight_OC: Tensor, bias_O: Tensor | None, gain_B1C: Tensor | None = None
) -> Tensor:
    """A linear layer on SwooshL(x) or SwooshR(x) (`kind` l or r), times a gain (a dropout mask shared over time)."""
    return _Linear.apply(x, weight_OC, bias_O, _CONSTANTS[kind], gain_B1C, compat.compute_dtype(x))


class Linear(nn.Linear):
    """See `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., O)."""
        return linear(x, self.weight, self.bias)


class SwooshLinear(nn.Linear):
    """See `swoosh_linear`."""

    def __init__(self, kind: str, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.kind = kind

    def forward(self, x: Tensor, gain_B1C: Tensor | None = None) -> Tensor:
        """(..., C) before the activation -> (..., O)."""
        return swoosh_linear(self.kind, x, self.weight, self.bias, gain_B1C)


def small(layer: nn.Linear, initial_scale: float) -> nn.Linear:
    """The layer with weights times `initial_scale` and biases uniform in +-0.1 * initial_scale (Zipformer).

    So a residual block starts as nearly the identity.
    """
    with torch.no_grad():
        layer.weight.mul_(initial_scale)
        if layer.bias is not None:
            layer.bias.uniform_(-0.1 * initial_scale, 0.1 * initial_scale)
    return layer
