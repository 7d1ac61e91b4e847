"""A bank of perceptrons: the predictors of HEAR 2021 (arXiv 2203.03022), all points of a grid side by side.

[Linear, BatchNorm, Dropout, ReLU] once or twice, then Linear. Heads of one depth share their products; all share the
input, and those of one seed what dropout takes away, so that a head is the same with and without neighbours.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spear.evaluate.banks import SharedBank
from spear.evaluate.heads import HeadwiseAdam, Remembered
from spear.evaluate.protocol import PerceptronPoint, PerceptronSettings
from spear.seeds import torch_rng

_MOMENTUM, _EPSILON = 0.1, 1e-5  # of batch normalisation, as torch has them


class PerceptronBank(SharedBank):
    """See the module's docstring, and `Bank`.

    Args:
        num_layers: L of the features; a softmax over more than one of them is learned, initially uniform.
        dim, num_outputs: D and C.
        settings: the grid.
    """

    def __init__(self, num_layers: int, dim: int, num_outputs: int, settings: PerceptronSettings):
        self.settings = settings
        heads = [(point, seed) for point in settings.points for seed in settings.seeds]
        depths = sorted({point.hidden_layers for point, _ in heads})
        # The places of the heads of each depth, and those heads.
        self._places = [[n for n, (point, _) in enumerate(heads) if point.hidden_layers == d] for d in depths]
        self._groups = [_Group(num_layers, dim, num_outputs, [heads[n] for n in p], settings) for p in self._places]
        self._count, self._calls = len(heads), 0

    def outputs(self, features_LBTD: Tensor, lens_B: Tensor) -> list[Tensor]:
        """(B, T, C) of each head."""
        layers, batch, frames, dim = features_LBTD.shape
        x_LND = features_LBTD.reshape(layers, batch * frames, dim).to(self.settings.device).float()
        call = self._calls if self._training else None
        self._calls += self._training
        found: list[Tensor] = [x_LND] * self._count
        for places, group in zip(self._places, self._groups):
            logits_HNC = group.logits(x_LND, call)
            logits_HNC = logits_HNC if self._training else logits_HNC.cpu()
            for place, logits_NC in zip(places, logits_HNC):
                found[place] = logits_NC.unflatten(0, (batch, frames))
        return found

    def step(self, scale: float) -> None:
        """See `Bank`."""
        for group in self._groups:
            group.optimizer.step(scale)

    def keep_best(self, improved_H: Tensor) -> None:
        """See `Bank`."""
        for places, group in zip(self._places, self._groups):
            group.best.keep(improved_H[places])

    def restore_best(self) -> None:
        """See `Bank`."""
        for group in self._groups:
            group.best.restore()

    def layer_weights(self) -> list[list[float]]:
        """The softmax weights of every head; nothing where there is but one layer."""
        return [[round(w, 5) for w in row] if len(row) > 1 else [] for row in self._by_head("weights")]

    def skipped_steps(self) -> list[int]:
        """See `Bank`."""
        return self._by_head("skipped")

    def _by_head(self, what: str) -> list:
        found = [None] * self._count
        for places, group in zip(self._places, self._groups):
            rows = group.layer_HL.detach().softmax(dim=-1) if what == "weights" else group.optimizer.skipped_H
            for place, row in zip(places, rows.tolist()):
                found[place] = row
        return found


class _Group:
    """Heads of one depth; every parameter has the axis H of heads first."""

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_outputs: int,
        heads: Sequence[tuple[PerceptronPoint, int]],
        settings: PerceptronSettings,
    ):
        depth, width, device = heads[0][0].hidden_layers, settings.hidden_dim, settings.device
        self._seeds, self._dropout = [seed for _, seed in heads], settings.dropout
        self.layer_HL = torch.zeros(len(heads), num_layers, device=device)
        sizes = [dim, *[width] * depth, num_outputs]
        self.linear: list[tuple[Tensor, Tensor]] = []
        for number, (before, after) in enumerate(zip(sizes, sizes[1:])):
            drawn = [_initial(point.initial, seed, number, before, after) for point, seed in heads]
            weight_HIO, bias_H1O = (torch.stack(values).to(device) for values in zip(*drawn))
            self.linear.append((weight_HIO, bias_H1O))
        shape = (len(heads), 1, width)
        self.norms = [(torch.ones(shape, device=device), torch.zeros(shape, device=device)) for _ in range(depth)]
        self._running = [(torch.zeros(shape, device=device), torch.ones(shape, device=device)) for _ in range(depth)]
        # The gradient of a bias in front of batch normalisation is zero; Adam would make steps of its rounding errors.
        trained = [*(weight for weight, _ in self.linear), self.linear[-1][1]]
        trained += [p for pair in self.norms for p in pair]
        trained += [self.layer_HL] if num_layers > 1 else []
        for parameter in trained:
            parameter.requires_grad_(True)
        rates = [point.learning_rate for point, _ in heads]
        self.optimizer = HeadwiseAdam(trained, rates, settings.max_gradient_norm)
        self.best = Remembered([*trained, *(value for pair in self._running for value in pair)])

    def logits(self, x_LND: Tensor, call: int | None) -> Tensor:
        """(H, N, C).

        Args:
            call: number of the training batch, on which dropout depends; None: not training.
        """
        if len(x_LND) == 1:
            x_HND = x_LND.expand(len(self.layer_HL), -1, -1)
        else:
            layers, count, dim = x_LND.shape
            x_HND = (self.layer_HL.softmax(dim=-1) @ x_LND.reshape(layers, -1)).view(-1, count, dim)
        for number, ((weight_HIO, bias_H1O), (scale_H1W, shift_H1W)) in enumerate(zip(self.linear, self.norms)):
            x_HND = torch.baddbmm(bias_H1O, x_HND, weight_HIO)
            x_HND = self._normalised(number, x_HND, call is not None) * scale_H1W + shift_H1W
            if call is not None and self._dropout:
                x_HND = x_HND * self._kept(number, call, x_HND.shape[1:], x_HND.device) / (1 - self._dropout)
            x_HND = x_HND.relu()
        weight_HIO, bias_H1O = self.linear[-1]
        return torch.baddbmm(bias_H1O, x_HND, weight_HIO)

    def _normalised(self, number: int, x_HNW: Tensor, training: bool) -> Tensor:
        mean_H1W, variance_H1W = self._running[number]
        if training:
            count = x_HNW.shape[1]
            batch_H1W = x_HNW.mean(dim=1, keepdim=True)
            spread_H1W = (x_HNW - batch_H1W).square().mean(dim=1, keepdim=True)
            with torch.no_grad():
                mean_H1W.lerp_(batch_H1W, _MOMENTUM)
                variance_H1W.lerp_(spread_H1W * (count / max(1, count - 1)), _MOMENTUM)
            mean_H1W, variance_H1W = batch_H1W, spread_H1W
        return (x_HNW - mean_H1W) * (variance_H1W + _EPSILON).rsqrt()

    def _kept(self, number: int, call: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """What dropout leaves, (1, N, W), or (H, N, W) where seeds differ."""
        masks = {}
        for seed in dict.fromkeys(self._seeds):
            rng = torch_rng(seed, "perceptron-dropout", number, call, device=device)
            masks[seed] = torch.rand(tuple(shape), generator=rng, device=device) >= self._dropout
        return torch.stack([masks[seed] for seed in (self._seeds if len(masks) > 1 else self._seeds[:1])])


def _initial(kind: str, seed: int, number: int, before: int, after: int) -> tuple[Tensor, Tensor]:
    """Weights (before, after) of Glorot and Bengio, times sqrt 2 behind a ReLU, and a bias (1, after) as torch's."""
    rng = torch_rng(seed, "perceptron-init", kind, number, before, after)
    deviation = (math.sqrt(2) if number else 1.0) * math.sqrt(2 / (before + after))
    weight_IO = torch.empty(before, after)
    if kind == "uniform":
        weight_IO.uniform_(-math.sqrt(3) * deviation, math.sqrt(3) * deviation, generator=rng)
    else:
        weight_IO.normal_(0.0, deviation, generator=rng)
    bound = 1 / math.sqrt(before)
    return weight_IO, torch.empty(1, after).uniform_(-bound, bound, generator=rng)
