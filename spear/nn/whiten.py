"""Whitener: discourages activations whose energy lies in a few directions, through gradients only (Zipformer, 3.6).

With covariance C of D channels over the frames of a batch, the metric D * tr(C^2) / tr(C)^2 is 1 for white
activations and D when they lie on a line. Above a limit, its gradient is added, scaled to a small share of the
gradient's norm.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spear.nn import fused
from spear.nn.schedule import ScheduledFloat, happens, schedule

# The metric is estimated on every n-th frame when that leaves this many frames per channel.
_FRAMES_PER_CHANNEL = 8
_SELDOM = 0.025  # probability of an exact whitener whose limit was not exceeded when it last looked


def whitening_limit(start: float, ratio: float = 2.0) -> ScheduledFloat:
    """A limit that loosens from `start` to `ratio * start` over 20,000 reference batches."""
    return ScheduledFloat((0.0, start), (20000.0, ratio * start), default=start)


def _covariance(x_NGD: Tensor) -> tuple[Tensor, Tensor]:
    """Centred activations (G, N, D) in float32 and their scatter matrices (G, D, D)."""
    x_GND = x_NGD.transpose(0, 1).float()
    x_GND = x_GND - x_GND.mean(1, keepdim=True)
    return x_GND, x_GND.mT @ x_GND


def whitening_metric(x_NC: Tensor, num_groups: int = 1) -> Tensor:
    """How far from white the channels of each group are: 1 is white, C / num_groups is the worst."""
    _, scatter = _covariance(x_NC.unflatten(-1, (num_groups, -1)))
    return _metric(scatter, *_traces(scatter))


def _traces(scatter_GDD: Tensor) -> tuple[Tensor, Tensor]:
    """tr(C) and tr(C^2), summed over groups."""
    return scatter_GDD.diagonal(dim1=1, dim2=2).sum(), scatter_GDD.square().sum()


def _metric(scatter_GDD: Tensor, trace: Tensor, trace_of_square: Tensor) -> Tensor:
    num_channels = scatter_GDD.shape[0] * scatter_GDD.shape[1]
    if trace.is_cuda:
        return fused.whitening_metric(trace, trace_of_square, num_channels)
    return trace_of_square / num_channels / ((trace / num_channels).square() + 1e-20)


class _WhitenFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, num_groups, limit, grad_scale, remember=None):
        ctx.save_for_backward(x)
        ctx.settings = num_groups, limit, grad_scale, remember
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        num_groups, limit, grad_scale, remember = ctx.settings
        x_NGD = x.flatten(0, -2).unflatten(-1, (num_groups, -1))
        step = 1 if remember else max(1, x_NGD.shape[0] // (_FRAMES_PER_CHANNEL * x_NGD.shape[2]))
        centred, scatter = _covariance(x_NGD[::step])
        trace, trace_of_square = _traces(scatter)
        exceeded = bool(_metric(scatter, trace, trace_of_square) > limit)
        if remember:
            remember(exceeded)
        if not exceeded:
            return grad, None, None, None, None
        if step > 1:
            centred = (x_NGD - x_NGD[::step].mean(0)).transpose(0, 1).float()
        # d metric / dx is proportional to x (C - tr(C^2)/tr(C) I); the constant is lost in the normalisation.
        ratio = trace_of_square / (trace + 1e-20)
        scatter.diagonal(dim1=1, dim2=2).sub_(ratio)
        penalty = (centred @ scatter).transpose(0, 1).reshape(x.shape)
        if grad.is_cuda:
            return fused.add_scaled(grad, penalty, grad_scale), None, None, None, None
        scale = grad_scale * grad.float().norm() / (penalty.norm() + 1e-20)
        return grad.add(penalty.mul_(scale).to(grad.dtype)), None, None, None, None


class Whiten(nn.Module):
    """Gradient-only push towards white activations; acts in training mode, on a random share of the steps.

    The stock module looks at all frames, remembers whether the limit was exceeded last time, and looks less often when
    it was not. With `exact` this one does, too; the trainer then saves the memory (`whitening_memory`). Looking at a
    subset of the frames is as cheap and needs none.

    Args:
        limit: the metric above which the gradient is changed.
        grad_scale: norm of the addition relative to the gradient's.
        num_groups: groups of channels whitened separately (attention heads).
        probability: share of the steps on which it looks.
    """

    def __init__(
        self, limit: float | ScheduledFloat, grad_scale: float = 0.01, num_groups: int = 1, probability: float = 0.25
    ):
        super().__init__()
        self.limit = schedule(limit)
        self.grad_scale, self.num_groups, self.probability = grad_scale, num_groups, probability
        self.enabled, self.exact = True, False
        self.exceeded = True  # when it last looked; it has not yet

    def _remember(self, exceeded: bool) -> None:
        self.exceeded = exceeded

    def forward(self, x: Tensor) -> Tensor:
        """Identity on x (..., C)."""
        probability = _SELDOM if self.exact and not self.exceeded else self.probability
        if not (self.enabled and self.training and x.requires_grad and happens(probability)):
            return x
        remember = self._remember if self.exact else None
        return _WhitenFunction.apply(x, self.num_groups, float(self.limit), self.grad_scale, remember)


def whitening_memory(module: nn.Module) -> str:
    """What the exact whiteners of a module remember, in order: 1 where the limit was exceeded, else 0."""
    return "".join(str(int(part.exceeded)) for part in _exact_whiteners(module))


def set_whitening_memory(module: nn.Module, memory: str) -> None:
    """Gives whiteners what `whitening_memory` said."""
    for part, exceeded in zip(_exact_whiteners(module), memory, strict=True):
        part.exceeded = exceeded == "1"


def _exact_whiteners(module: nn.Module) -> list[Whiten]:
    return [part for part in module.modules() if isinstance(part, Whiten) and part.exact]


@contextmanager
def kept_whitening_memory(module: nn.Module) -> Iterator[None]:
    """For passes that are no training: afterwards whiteners remember what they did before."""
    memory = whitening_memory(module)
    try:
        yield
    finally:
        set_whitening_memory(module, memory)
