"""Linear layers that start small, so that a residual block starts as nearly the identity."""

import torch
from torch import nn


def small_linear(in_features: int, out_features: int, initial_scale: float, bias: bool = True) -> nn.Linear:
    """nn.Linear with weights times `initial_scale` and biases uniform in +-0.1 * initial_scale (Zipformer)."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    with torch.no_grad():
        layer.weight.mul_(initial_scale)
        if bias:
            layer.bias.uniform_(-0.1 * initial_scale, 0.1 * initial_scale)
    return layer
