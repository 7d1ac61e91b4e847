"""Banks: all heads of a grid with their optimizers, fed from one batch of features.

`LinearBank` trains H linear heads in batched products. `ModuleBank` takes any `nn.Module` head (recurrent,
convolutional, later sequence-to-sequence or waveform); its heads run one after the other on the same batch. Every head
has its own softmax over layers (initially uniform), learning rate, gradient clipping and count of skipped steps.

Heads live on the device of the settings. Features come from the cache as they are stored and are moved and widened
here, which sends half as much to a GPU. While heads train, their outputs stay on the device, and so do the losses; what
they give otherwise comes back to the CPU, where it is decoded.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spear.compat import autocast
from spear.evaluate.heads import Heads
from spear.evaluate.protocol import Settings
from spear.seeds import derive, seed_global


class Bank(Protocol):
    """What the training loop asks of a bank."""

    settings: Settings

    def outputs(self, features_LBTD: Tensor, lens_B: Tensor) -> Iterable[Any]:
        """The output of each head, one after the other; for frame heads (B, T, C)."""

    def backward(self, losses: Iterable[Tensor], scale: float) -> Tensor:
        """Adds the gradients of the losses, one for each head, times `scale`; returns the losses (H,), detached."""

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


@contextlib.contextmanager
def arithmetic(settings: Settings) -> Iterator[None]:
    """Whether float32 products on a GPU round their inputs to ten bits (TF32), in the block.

    Left to itself torch does so in convolutions and recurrent layers, but not in other products.
    """
    products, others = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    rounded = settings.precision != "float32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = others


class SharedBank:
    """Base of the banks whose heads share their products, forward and back."""

    _training = True

    def backward(self, losses: Iterable[Tensor], scale: float) -> Tensor:
        """See `Bank`."""
        losses_H = torch.stack(list(losses))
        (losses_H.sum() * scale).backward()
        return losses_H.detach()

    def train(self, mode: bool) -> None:
        """See `Bank`."""
        self._training = mode


class LinearBank(SharedBank):
    """Heads without anything non-linear: weighted sum, Linear, Linear (utterances: T = 1, the time mean)."""

    def __init__(self, num_layers: int, dim: int, num_outputs: int, settings: Settings):
        self.settings = settings
        self._heads = Heads(num_layers, dim, num_outputs, settings, settings.device)

    def outputs(self, features_LBTD: Tensor, lens_B: Tensor) -> list[Tensor]:
        """(B, T, C) of each head."""
        _, batch, frames, _ = features_LBTD.shape
        features_LND = features_LBTD.flatten(1, 2).to(self.settings.device).float()
        with _widths(self.settings):
            logits_HNC = self._heads.logits(features_LND).float()
        logits_HNC = logits_HNC if self._training else logits_HNC.cpu()
        return list(logits_HNC.unflatten(1, (batch, frames)))

    def step(self, scale: float) -> None:
        """See `Bank`."""
        self._heads.optimizer.step(scale)

    def keep_best(self, improved_H: Tensor) -> None:
        """See `Bank`."""
        self._heads.best.keep(improved_H)

    def restore_best(self) -> None:
        """See `Bank`."""
        self._heads.best.restore()

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
        self._device = torch.device(settings.device)
        self.modules, self._optimizers = [], []
        for rate, seed in settings.heads:
            with _own_randomness(self._device):
                seed_global(seed, "superb-head")
                module = WeightedHead(num_layers, make_head()).to(self._device)
            self.modules.append(module)
            # One kernel reads and writes every parameter once.
            optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True)
            self._optimizers.append(optimizer)
        self._best: list[dict | None] = [None] * len(self.modules)
        self._skipped = [0] * len(self.modules)
        self._calls = 0

    def outputs(self, features_LBTD: Tensor, lens_B: Tensor) -> Iterator[Any]:
        """What each head gives, computed when it is asked for."""
        training, call = self.modules[0].training, self._calls
        self._calls += training
        features_LBTD = features_LBTD.to(self._device).float()
        for (_, seed), module in zip(self.settings.heads, self.modules):
            # Dropout and augmentation of a head depend on its seed and the step alone, not on its neighbours.
            with _own_randomness(self._device), _widths(self.settings):
                torch.manual_seed(derive(seed, "superb-dropout", call))
                found = _as_float32(module(features_LBTD, lens_B), self._device if training else torch.device("cpu"))
            yield found

    def backward(self, losses: Iterable[Tensor], scale: float) -> Tensor:
        """See `Bank`; when the losses come one after the other, no two heads hold their activations at a time."""
        found = []
        for loss in losses:
            (loss * scale).backward()
            found.append(loss.detach())
            del loss
        return torch.stack(found)

    def step(self, scale: float) -> None:
        """See `Bank`."""
        most = self.settings.max_gradient_norm
        norms = [nn.utils.clip_grad_norm_(module.parameters(), most) for module in self.modules]
        finite = torch.isfinite(torch.stack(norms)).tolist()  # waits for a GPU once, not for every head
        for number, optimizer in enumerate(self._optimizers):
            if finite[number]:
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


def _own_randomness(device: torch.device):
    """A block after which the random numbers go on as if it had not been."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _widths(settings: Settings):
    """The block in which heads compute: in bfloat16 where the settings say so."""
    return autocast(torch.device(settings.device).type, torch.bfloat16 if settings.precision == "bfloat16" else None)


def _as_float32(output: Any, device: torch.device) -> Any:
    """The tensors of an output in float32 on a device; functions and numbers as they are."""
    if isinstance(output, Tensor):
        return output.to(device).float() if output.is_floating_point() else output.to(device)
    if isinstance(output, tuple | list):
        return type(output)(_as_float32(value, device) for value in output)
    return output
