"""Banks: all heads of a grid with their optimizers, fed from one batch of features (benchmarks A.1).

`LinearBank` trains H linear heads in batched products. `ModuleBank` takes any `nn.Module` head (recurrent,
convolutional, later sequence-to-sequence or waveform); its heads run one after the other on the same batch. Every head
has its own softmax over layers (initially uniform), learning rate, gradient clipping and count of skipped steps.
"""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spear.evaluate.heads import Heads
from spear.evaluate.protocol import Settings
from spear.seeds import derive, seed_global


class Bank(Protocol):
    """What the training loop asks of a bank."""

    settings: Settings

    def outputs(self, features_LBTD: Tensor, lens_B: Tensor) -> list[Any]:
        """The output of each head; for frame heads (B, T, C)."""

    def step(self, scale: float) -> None:
        """One update of every head from the gradients, learning rates times `scale`; clears the gradients."""

    def train(self, mode: bool) -> None:
        """Dropout and augmentation on or off."""

    def keep_best(self, improved_H: Tensor) -> None:
        """Remembers the present parameters of the heads that are marked."""

    def restore_best(self) -> None:
        """Goes back to the remembered parameters."""

    def layer_weights(self) -> list[list[float]]:
        """The softmax weights of every head."""

    def skipped_steps(self) -> list[int]:
        """For each head the steps left out because its gradient was not finite."""


class LinearBank:
    """Heads without anything non-linear: weighted sum, Linear, Linear (utterances: T = 1, the time mean)."""

    def __init__(self, num_layers: int, dim: int, num_outputs: int, settings: Settings):
        self.settings = settings
        self._heads = Heads(num_layers, dim, num_outputs, settings, fold_linear=False)

    def outputs(self, features_LBTD: Tensor, lens_B: Tensor) -> list[Tensor]:
        """(B, T, C) of each head."""
        _, batch, frames, _ = features_LBTD.shape
        logits_HNC = self._heads.logits(features_LBTD.flatten(1, 2))
        return list(logits_HNC.unflatten(1, (batch, frames)))

    def step(self, scale: float) -> None:
        """See `Bank`."""
        self._heads.optimizer.step(scale)

    def train(self, mode: bool) -> None:
        """Linear heads do the same in both modes."""

    def keep_best(self, improved_H: Tensor) -> None:
        """See `Bank`."""
        self._heads.keep_best(improved_H)

    def restore_best(self) -> None:
        """See `Bank`."""
        self._heads.restore_best()

    def layer_weights(self) -> list[list[float]]:
        """See `Bank`."""
        return self._heads.layer_weights()

    def skipped_steps(self) -> list[int]:
        """See `Bank`."""
        return self._heads.optimizer.skipped_H.tolist()


class WeightedHead(nn.Module):
    """The softmax-weighted sum over layers, then any head that takes (features_BTD, lens_B)."""

    def __init__(self, num_layers: int, head: nn.Module):
        super().__init__()
        self.layer_L = nn.Parameter(torch.zeros(num_layers))
        self.head = head

    def forward(self, features_LBTD: Tensor, lens_B: Tensor) -> Any:
        """The head's output."""
        mixed_BTD = torch.tensordot(self.layer_L.softmax(dim=0), features_LBTD, dims=1)
        return self.head(mixed_BTD, lens_B)


class ModuleBank:
    """Heads of any form. One that needs its targets, such as a decoder that is taught with them, returns a function.

    Args:
        num_layers: of the features.
        make_head: called for every head under its own seed; the module takes (features_BTD, lens_B).
    """

    def __init__(self, num_layers: int, make_head: Callable[[], nn.Module], settings: Settings):
        self.settings = settings
        self.modules, self._optimizers = [], []
        for rate, seed in settings.heads:
            with torch.random.fork_rng(devices=[]):
                seed_global(seed, "superb-head")
                self.modules.append(WeightedHead(num_layers, make_head()))
            decay = settings.weight_decay
            self._optimizers.append(torch.optim.AdamW(self.modules[-1].parameters(), lr=rate, weight_decay=decay))
        self._best: list[dict | None] = [None] * len(self.modules)
        self._skipped = [0] * len(self.modules)
        self._calls = 0

    def outputs(self, features_LBTD: Tensor, lens_B: Tensor) -> list[Any]:
        """What each head gives."""
        found = []
        for number, module in enumerate(self.modules):
            # Dropout and augmentation of a head depend on its seed and the step alone, not on its neighbours.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(self.settings.heads[number][1], "superb-dropout", self._calls))
                found.append(module(features_LBTD, lens_B))
        self._calls += self.modules[0].training
        return found

    def step(self, scale: float) -> None:
        """See `Bank`."""
        for number, (module, optimizer) in enumerate(zip(self.modules, self._optimizers)):
            norm = nn.utils.clip_grad_norm_(module.parameters(), self.settings.max_gradient_norm)
            if torch.isfinite(norm):
                optimizer.param_groups[0]["lr"] = self.settings.heads[number][0] * scale
                optimizer.step()
            else:
                self._skipped[number] += 1
            optimizer.zero_grad(set_to_none=True)

    def train(self, mode: bool) -> None:
        """See `Bank`."""
        for module in self.modules:
            module.train(mode)

    def keep_best(self, improved_H: Tensor) -> None:
        """See `Bank`."""
        for number in improved_H.nonzero().flatten().tolist():
            self._best[number] = copy.deepcopy(self.modules[number].state_dict())

    def restore_best(self) -> None:
        """See `Bank`."""
        for module, state in zip(self.modules, self._best):
            if state is not None:
                module.load_state_dict(state)

    def layer_weights(self) -> list[list[float]]:
        """See `Bank`."""
        return [[round(w, 5) for w in m.layer_L.detach().softmax(dim=0).tolist()] for m in self.modules]

    def skipped_steps(self) -> list[int]:
        """See `Bank`."""
        return list(self._skipped)
