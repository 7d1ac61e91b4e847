"""AdamW (arXiv 1711.05101) behind the interface of `ScaledAdam`: clipping by the median norm, whole-tensor state."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

from spear import dist
from spear.optim.clipped import ClippedOptimizer, as_sharded, check_groups, copy_state, packed_clipping, restore_group
from spear.optim.clipping import MedianClipper

_UNDECAYED = "undecayed"


def without_decay(groups: Iterable[dict]) -> list[dict]:
    """Splits groups of `parameter_groups` so that biases, gains of norms and single numbers have no weight decay.

    Args:
        groups: of (name, parameter) pairs.

    Returns:
        groups of what has two dimensions or more, each before one of the rest with `weight_decay` 0; no empty ones.
    """
    split = []
    for group in groups:
        matrices = [(name, param) for name, param in group["params"] if param.dim() >= 2]
        rest = [(name, param) for name, param in group["params"] if param.dim() < 2]
        split.append({**group, "params": matrices})
        split.append({**group, "params": rest, "weight_decay": 0.0, _UNDECAYED: True})
    return [group for group in split if group["params"]]


class AdamW(ClippedOptimizer):
    """Adam with decoupled weight decay; use it with `Eden`, at a learning rate near 0.0005.

    Gradients above `clipping_scale` times the median norm are scaled down, those of a group and of its part without
    decay together. A step whose gradients are not finite counts as one with zero gradients. Parameters without a
    gradient keep value and state. Parameters may be sharded over ranks (DTensors of `fully_shard`); all ranks must do
    each step, and the first look at statistics or state, together.

    Args:
        params: parameters, (name, parameter) pairs, or groups (see `without_decay`).
        lr: learning rate.
        weight_decay: share of a parameter that a step of learning rate 1 takes away.
        clipping_scale: gradients above this multiple of the median norm are scaled down; None: no clipping.
        betas: decay of momentum and of squared gradients.
        eps: added to the root of the mean squared gradient.
        clipping_update_period, clipping_start: see `ScaledAdam`.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 5e-4,
        weight_decay: float = 0.01,
        clipping_scale: float | None = 2.0,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        clipping_update_period: int = 100,
        clipping_start: int = 0,
    ):
        self._betas, self._eps = betas, eps
        self._clipping = {"scale": clipping_scale, "period": clipping_update_period, "start": clipping_start}
        self._clippers: list[MedianClipper] = []
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        for number, group in enumerate(self.param_groups):
            group.setdefault("name", "default" if number == 0 else f"group{number}")

    def _clipped_together(self) -> list[list[dict]]:
        """Groups by what is clipped as one: each with the part that was split off it."""
        together: list[list[dict]] = []
        for group in self.param_groups:
            if together and group.get(_UNDECAYED) and together[-1][0]["name"] == group["name"]:
                together[-1].append(group)
            else:
                together.append([group])
        return together

    def _prepare(self) -> None:
        """State is made when it is first needed, after the model has moved to its device."""
        if self._clippers:
            return
        for groups in self._clipped_together():
            self._clippers.append(MedianClipper(device=groups[0]["params"][0].device, **self._clipping))
        for param in (param for group in self.param_groups for param in group["params"]):
            zeros = torch.zeros_like(dist.local(param), memory_format=torch.contiguous_format)
            self.state[param] = {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}

    @torch.no_grad()
    def step(self, closure=None):
        """One update.

        Returns:
            the closure's loss, if there is a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._prepare()
        for groups, clipper in zip(self._clipped_together(), self._clippers):
            used = [param for group in groups for param in group["params"] if param.grad is not None]
            if not used:
                continue  # a frozen encoder
            factor, finite = clipper.update(_norm(used))
            for group in groups:
                self._update([param for param in group["params"] if param.grad is not None], group, factor, finite)
        return loss

    def _update(self, params: list[Parameter], group: dict, factor: float | Tensor, finite: bool | Tensor) -> None:
        if not params:
            return
        grads = [dist.local(param.grad) * factor for param in params]
        if finite is not True:
            zero = torch.zeros((), device=grads[0].device)
            grads = [
                torch.where(torch.as_tensor(finite, device=zero.device), grad, zero.to(grad.dtype)) for grad in grads
            ]
        states = [self.state[param] for param in params]
        adamw(
            [dist.local(param) for param in params],
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self._eps,
            maximize=False,
        )

    def _clipped_names(self) -> list[str]:
        """A group and what was split off it have one clipper, and the group's name."""
        return [groups[0]["name"] for groups in self._clipped_together()]

    def state_dict(self) -> dict[str, Any]:
        """In torch's layout: tensors and numbers only; a copy. Clipping stands in the first group of what it is of."""
        self._prepare()
        packed = super().state_dict()
        params = [param for group in self.param_groups for param in group["params"]]
        for position, state in packed["state"].items():
            copies = {name: _as_sharded(tensor.clone(), name, params[position]) for name, tensor in state.items()}
            packed["state"][position] = copies
        for saved, clipper in zip(packed["param_groups"], self._clipper_of_groups()):
            saved |= packed_clipping(clipper) if clipper else {}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict()`: further steps are bit-identical.

        Raises:
            CheckpointError: it belongs to another model or optimiser; the message names the first difference.
        """
        self._prepare()
        check_groups(state_dict["param_groups"], self.param_groups)
        params = [param for group in self.param_groups for param in group["params"]]
        for position, param in enumerate(params):
            entries = state_dict["state"].get(position, {})
            for name, tensor in self.state[param].items():
                copy_state(_as_sharded(tensor, name, param), entries.get(name), f"{name} of parameter {position}")
        for group, saved, clipper in zip(self.param_groups, state_dict["param_groups"], self._clipper_of_groups()):
            restore_group(group, saved, clipper)

    def _clipper_of_groups(self) -> list[MedianClipper | None]:
        """For each group its clipper, if it is the first that this one clips."""
        first = {id(groups[0]): clipper for groups, clipper in zip(self._clipped_together(), self._clippers)}
        return [first.get(id(group)) for group in self.param_groups]


def _as_sharded(tensor: Tensor, name: str, param: Parameter) -> Tensor:
    return as_sharded(tensor, param) if name != "step" else tensor


def _norm(params: list[Parameter]) -> Tensor:
    """Norm of the gradients of whole tensors, over all ranks that hold parts of them."""
    squares = torch.stack([torch.linalg.vector_norm(dist.local(p.grad).float()).double().square() for p in params])
    sharded = torch.tensor([dist.is_sharded(param) for param in params], device=squares.device)
    total = squares.masked_fill(sharded, 0.0).sum()
    if any(dist.is_sharded(param) for param in params):
        total = total + dist.sum_(squares.masked_fill(~sharded, 0.0).sum())
    return total.sqrt().float()
