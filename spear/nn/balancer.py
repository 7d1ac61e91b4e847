"""Balancer: keeps the statistics of every channel inside sensible bounds, through gradients only (Zipformer, 3.6).

For each channel, over all frames of the batch, let mu be the mean, s the standard deviation and rms the root mean
square. The penalty is the distance of mu/s from [low, high] plus |log| of the distance of rms from its bounds. Its
gradient is an affine function of the activation, a + b*x, with a and b per channel; normalised to a fixed strength
and multiplied by |gradient|, it is added to the gradient. So all that is needed is two moments per channel.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spear.nn import fused
from spear.nn.schedule import ScheduledFloat, happens, schedule

_TINY = 1e-20
# Moments are estimated on every n-th frame when that leaves this many.
_ENOUGH_FRAMES = 2048
_BLOCK = 1 << 17


def _normalised_mean(proportion_positive: float) -> float:
    """mean / standard deviation of a roughly Gaussian channel that is positive this often.

    The crude inverse error function 0.814 atanh(.) is part of the method: bounds of 0 and 1 give about -/+ 9.4.
    """
    x = 2.0 * proportion_positive - 1.0
    return 0.8139535143 * (math.log(1 + x + 1e-10) - math.log(1 - x + 1e-10)) / 2.0


def _penalty_coefficients(
    x_NC: Tensor, mean_bounds, rms_bounds, strength: float, exact: bool = False
) -> tuple[Tensor, Tensor] | None:
    """(a_C, b_C) such that a + b*x is the penalty's gradient with rms `strength`; None with every channel in bounds."""
    x_NC = x_NC[:: 1 if exact else max(1, x_NC.shape[0] // _ENOUGH_FRAMES)].float()
    # Double precision for a few numbers per channel: cubes of small deviations do not fit in float32.
    mean, second_moment = x_NC.mean(0).double(), x_NC.square().mean(0).double()
    if x_NC.is_cuda:
        return fused.penalty_coefficients(mean, second_moment, mean_bounds, rms_bounds, strength)
    # A (nearly) constant channel counts as one that varies by 0.1 % of its rms.
    variance = torch.maximum(second_moment - mean * mean, 1e-6 * second_moment + _TINY)
    deviation, rms = variance.sqrt(), second_moment.clamp(min=_TINY).sqrt()
    ratio = mean / deviation
    # The derivative of a distance from an interval is -1 below it, +1 above it and 0 inside.
    ratio_slope = (ratio > mean_bounds[1]).double() - (ratio < mean_bounds[0]).double()
    log_rms_slope = (rms > rms_bounds[1]).double() - (rms < rms_bounds[0]).double()
    # Saves the rest of the work; a GPU would have to wait for the answer.
    if x_NC.device.type == "cpu" and not (ratio_slope.any() or log_rms_slope.any()):
        return None
    # With v the second moment: d(ratio)/d(mean) = v/deviation^3, d(ratio)/dv = -mean/(2 deviation^3),
    # d(log rms)/dv = 1/(2v); and dv/dx = 2x/N, dmean/dx = 1/N (the common 1/N is lost in the normalisation).
    cubed = deviation * variance
    a = ratio_slope * second_moment / cubed
    b = log_rms_slope / second_moment.clamp(min=_TINY) - ratio_slope * mean / cubed
    norm = ((a + b * mean).square() + b * b * variance).sqrt()
    scale = (norm > 0) / norm.clamp(min=_TINY)
    return (a * scale).float() * strength, (b * scale).float() * strength


class _BalancerFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mean_bounds, rms_bounds, grad_scale, channels, exact=False):
        ctx.save_for_backward(x)
        ctx.settings = mean_bounds, rms_bounds, grad_scale, channels, exact
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        grad = grad.contiguous()
        mean_bounds, rms_bounds, grad_scale, channels, exact = ctx.settings
        nothing = (None,) * 5  # no gradients of the settings
        part = x[..., channels]
        coefficients = _penalty_coefficients(part.flatten(0, -2), mean_bounds, rms_bounds, grad_scale, exact)
        if coefficients is None:
            return grad, *nothing
        a, b = coefficients
        changed = torch.empty_like(grad) if part.shape == x.shape else grad.clone()
        if x.is_cuda and not exact:
            changed[..., channels] = fused.balance(part, grad[..., channels], a, b)
            return changed, *nothing
        # Block by block, so that a CPU's cache holds what lies between the three passes.
        frames = grad.numel() if x.is_cuda else max(1, _BLOCK // grad.shape[-1])
        pieces = (tensor[..., channels].flatten(0, -2).split(frames) for tensor in (x, grad, changed))
        for x_NC, grad_NC, changed_NC in zip(*pieces):
            penalty_NC = torch.addcmul(a, x_NC.float(), b)
            if not exact:  # so that an outlier among frames that the moments left out cannot turn its gradient around
                penalty_NC.clamp_(-1.0, 1.0)
            torch.addcmul(grad_NC, grad_NC.abs(), penalty_NC.to(grad.dtype), out=changed_NC)
        return changed, *nothing


class Balancer(nn.Module):
    """Gradient-only limits on channel statistics; acts in training mode, on a random share of the steps.

    Args:
        min_positive, max_positive: bounds on the proportion of positive values.
        min_abs, max_abs: bounds on the mean absolute value.
        grad_scale: strength relative to the gradient.
        probability: share of the steps on which it acts.
        channels: the channels (last dimension) it looks at; all by default.
    """

    def __init__(
        self,
        min_positive: float | ScheduledFloat = 0.05,
        max_positive: float | ScheduledFloat = 0.95,
        min_abs: float | ScheduledFloat = 0.2,
        max_abs: float | ScheduledFloat = 100.0,
        grad_scale: float = 0.04,
        probability: float | ScheduledFloat | None = None,
        channels: slice = slice(None),
    ):
        super().__init__()
        self.min_positive, self.max_positive = schedule(min_positive), schedule(max_positive)
        self.min_abs, self.max_abs = schedule(min_abs), schedule(max_abs)
        self.grad_scale = grad_scale
        self.probability = schedule(
            ScheduledFloat((0.0, 0.5), (8000.0, 0.125), default=0.4) if probability is None else probability
        )
        self.channels = channels
        self.enabled, self.exact = True, False  # exact: moments of all frames, as the stock module takes them

    def forward(self, x: Tensor) -> Tensor:
        """Identity on x (..., C)."""
        if not (self.enabled and self.training and x.requires_grad and happens(float(self.probability))):
            return x
        mean_bounds = _normalised_mean(float(self.min_positive)), _normalised_mean(float(self.max_positive))
        # For a Gaussian, rms = sqrt(pi / 2) * mean absolute value.
        gaussian = math.sqrt(math.pi / 2)
        rms_bounds = gaussian * float(self.min_abs), gaussian * float(self.max_abs)
        return _BalancerFunction.apply(x, mean_bounds, rms_bounds, self.grad_scale, self.channels, self.exact)
