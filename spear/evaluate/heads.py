"""Probing heads, many side by side: every parameter has a leading axis H over (learning rate, seed).

A head is a softmax-weighted sum over layers (one scalar for each layer, initially 0), Linear(D -> P), Linear(P -> C).
There is nothing non-linear between the two, so their product may be taken first: the same function and the same
gradients, in whichever order costs less. For utterances the mean over time is taken before everything else, which is
exact too.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spear.evaluate.protocol import Settings
from spear.seeds import torch_rng


class Heads:
    """H heads with their optimizer state.

    Args:
        num_layers, dim, num_outputs: L, D and C.
        config: the grid.
        device: where parameters and optimizer state live; the initial weights are the same on every one.
    """

    def __init__(self, num_layers: int, dim: int, num_outputs: int, config: Settings, device: str = "cpu"):
        count, hidden = len(config.heads), config.hidden_dim

        def stacked(name: str, shape: Sequence[int], fan_in: int) -> Tensor:
            return torch.stack([_uniform(seed, name, shape, fan_in) for _, seed in config.heads]).to(device)

        self.layer_HL = torch.zeros(count, num_layers, device=device)
        self.down_HDP = stacked("down", (dim, hidden), dim)
        self.down_bias_H1P = stacked("down_bias", (1, hidden), dim)
        self.out_HPC = stacked("out", (hidden, num_outputs), hidden)
        self.out_bias_H1C = stacked("out_bias", (1, num_outputs), hidden)
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        self.optimizer = HeadwiseAdam(self.parameters(), [rate for rate, _ in config.heads], config.max_gradient_norm)
        self.best = Remembered(self.parameters())

    def parameters(self) -> list[Tensor]:
        """All parameters, each with the axis H first."""
        return [self.layer_HL, self.down_HDP, self.down_bias_H1P, self.out_HPC, self.out_bias_H1C]

    def logits(self, features_LND: Tensor) -> Tensor:
        """(L, N, D) features, the same for all heads, to (H, N, C)."""
        layers, count, dim = features_LND.shape
        weights_HL = self.layer_HL.softmax(dim=-1)
        mixed_HND = (weights_HL @ features_LND.reshape(layers, count * dim)).view(-1, count, dim)
        hidden, outputs = self.out_HPC.shape[1:]
        folded, apart = dim * outputs * (hidden + count), count * hidden * (dim + outputs)
        if apart < folded:  # few items and many outputs
            hidden_HNP = torch.baddbmm(self.down_bias_H1P, mixed_HND, self.down_HDP)
            return torch.baddbmm(self.out_bias_H1C, hidden_HNP, self.out_HPC)
        bias_H1C = self.down_bias_H1P @ self.out_HPC + self.out_bias_H1C
        return torch.baddbmm(bias_H1C, mixed_HND, self.down_HDP @ self.out_HPC)

    def layer_weights(self) -> list[list[float]]:
        """The softmax weights of every head."""
        return [[round(w, 5) for w in row] for row in self.layer_HL.detach().softmax(dim=-1).tolist()]


def _uniform(seed: int, name: str, shape: Sequence[int], fan_in: int) -> Tensor:
    """The initial distribution of `nn.Linear`, from the head's own random stream."""
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(*shape).uniform_(-bound, bound, generator=torch_rng(seed, "probe-init", name, *shape))


class Remembered:
    """Copies of what heads are, to which they can go back.

    Args:
        tensors: each with the axis H first; they are changed in place, never replaced.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._tensors, self._copies = list(tensors), [tensor.detach().clone() for tensor in tensors]

    def keep(self, marked_H: Tensor) -> None:
        """Copies the heads that are marked anew."""
        marked_H = marked_H.to(self._copies[0].device)
        for copy, tensor in zip(self._copies, self._tensors):
            copy[marked_H] = tensor.detach()[marked_H]

    def restore(self) -> None:
        """All heads become what was copied last."""
        for copy, tensor in zip(self._copies, self._tensors):
            tensor.data.copy_(copy)


class HeadwiseAdam:
    """Adam (betas 0.9, 0.999) in which each head has its own learning rate and its own gradient clipping.

    A step in which a head's gradient is not finite leaves that head alone and is counted.

    Args:
        parameters: each with the axis H first; they are changed in place.
        learning_rates: of each head.
        max_gradient_norm: of each head.
    """

    def __init__(self, parameters: list[Tensor], learning_rates: Sequence[float], max_gradient_norm: float):
        self.parameters, self.max_gradient_norm = parameters, max_gradient_norm
        self.rates = list(learning_rates)
        self.skipped_H = torch.zeros(len(self.rates), dtype=torch.int64)
        # A head's parameters are views: one kernel reads and writes each of its numbers once.
        heads = [[nn.Parameter(p.detach()[number]) for p in parameters] for number in range(len(self.rates))]
        groups = [{"params": head, "lr": rate} for head, rate in zip(heads, self.rates)]
        self._optimizer = torch.optim.Adam(groups, fused=True)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update with every learning rate times `scale`; clears the gradients."""
        gradients = [p.grad for p in self.parameters]
        norms_H = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]).norm(dim=0)
        clip_H = (self.max_gradient_norm / norms_H.clamp(min=1e-12)).clamp(max=1.0)
        clips = clip_H.tolist()  # waits for a GPU once, not for every head
        if any(clip < 1.0 for clip in clips):
            for gradient in gradients:
                gradient.mul_(clip_H.view((-1,) + (1,) * (gradient.dim() - 1)))
        for number, (group, clip) in enumerate(zip(self._optimizer.param_groups, clips)):
            is_finite = 0.0 < clip  # 0 where the norm is infinite, and no comparison holds where it is not a number
            self.skipped_H[number] += not is_finite
            group["lr"] = self.rates[number] * scale
            for view, gradient in zip(group["params"], gradients):
                view.grad = gradient[number] if is_finite else None
        self._optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None


def standardise_stats(sums_LD: Tensor, squares_LD: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation (L, D) from sums.

    Deviations are floored at 1 % of their layer's average, so that a dimension that never changes (a mel bin above the
    recording's band) is not blown up.
    """
    mean_LD = sums_LD / count
    deviation_LD = (squares_LD / count - mean_LD.square()).clamp(min=0).sqrt()
    floor_L1 = deviation_LD.mean(dim=1, keepdim=True).mul(0.01).clamp(min=1e-8)
    return mean_LD.float(), torch.maximum(deviation_LD, floor_L1).float()
