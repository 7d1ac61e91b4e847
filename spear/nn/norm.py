"""BiasNorm: root-mean-square normalisation that can keep some length information in a learned bias (Zipformer, 3.3)."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spear.nn import fused
from spear.nn.gradient import limit_parameter
from spear.nn.schedule import happens


class _BiasNormFunction(torch.autograd.Function):
    """y = x * r with r = exp(log_scale) / sqrt(mean((x - bias)^2)), computed in float32."""

    @staticmethod
    def forward(ctx, x, bias, log_scale):
        distance = torch.linalg.vector_norm(x - bias, dim=-1, keepdim=True, dtype=torch.float32)
        if x.is_cuda:
            gain = fused.norm_gain(distance, log_scale, x.shape[-1])
        else:
            gain = log_scale.exp() * x.shape[-1] ** 0.5 / distance
        ctx.save_for_backward(x, bias, distance, gain)
        return x * gain.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, bias, distance, gain = ctx.saved_tensors
        # d gain = gain * (d log_scale - (x - bias).(dx - dbias) / distance^2)
        gain_grad = (grad * x).sum(-1, keepdim=True, dtype=torch.float32) * gain
        pull = gain_grad / distance.square()
        if x.is_cuda:
            x_grad = fused.norm_gradient(x, grad, bias, gain, pull)
        else:
            x_grad = grad * gain.to(grad.dtype)
            x_grad.addcmul_(pull.to(x.dtype), x - bias, value=-1)
        flat_pull = pull.flatten()
        bias_grad = torch.mv(x.flatten(0, -2).T.float(), flat_pull) - bias * flat_pull.sum()
        return x_grad, bias_grad, gain_grad.sum()


class BiasNorm(nn.Module):
    """Normalises (..., C) by the root mean square distance from a learned bias.

    In training, gradients keep the logarithm of the scale within +-1.5; with `exact` on 60 % of the steps only, as in
    the stock module.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        bias = torch.empty(num_channels)
        if not bias.is_meta:  # there torch would import its compiler to draw nothing, which takes 4 s
            bias.normal_(std=1e-4)
        self.bias = nn.Parameter(bias)
        self.exact = False

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        limited = self.training and (not self.exact or happens(0.6))
        log_scale = limit_parameter(self.log_scale, -1.5, 1.5) if limited else self.log_scale
        return _BiasNormFunction.apply(x, self.bias, log_scale)
