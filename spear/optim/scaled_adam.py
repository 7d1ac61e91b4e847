"""ScaledAdam: Adam whose steps are proportional to each parameter's size (Zipformer, arXiv 2310.11230, section 3.5).

Two more things than Adam: the size of each tensor is learnt as if it were a parameter of its own, and gradients are
clipped against the median of recent norms. The loss may have any scale: only ratios of gradients matter.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from spear.errors import ConfigError
from spear.optim.buckets import Bucket, Counters, Settings, State, gradient_norms, make_buckets
from spear.optim.clipped import ClippedOptimizer, as_sharded, check_groups, copy_state, packed_clipping, restore_group
from spear.optim.clipping import MedianClipper


def parameter_groups(module: Module, lr: float, lr_scales: dict[str, float] | None = None) -> list[dict]:
    """Named parameter groups of a model, for fine-tuning with several learning rates.

    Args:
        module: its parameters that require a gradient are grouped (freeze temporarily only after this call).
        lr: base learning rate.
        lr_scales: prefix of parameter names -> factor; the longest prefix that fits counts.

    Returns:
        groups {"name", "lr", "params": [(name, parameter), ...]}; "default" holds what no prefix fits. No empty ones.

    Raises:
        ConfigError: a prefix fits no parameter.
    """
    scales = {"": 1.0, **(lr_scales or {})}
    members: dict[str, list] = {prefix: [] for prefix in scales}
    for name, param in module.named_parameters():
        if param.requires_grad:
            fits = [prefix for prefix in scales if not prefix or f"{name}.".startswith(f"{prefix.rstrip('.')}.")]
            members[max(fits, key=len)].append((name, param))
    for prefix in lr_scales or {}:
        if not members[prefix]:
            children = ", ".join(name for name, _ in module.named_children())
            raise ConfigError(
                f"a learning-rate scale for {prefix!r}, which is no prefix of any trained parameter",
                f"module names such as {children}",
                "correct the name",
            )
    return [
        {"name": prefix or "default", "lr": lr * scales[prefix], "params": params}
        for prefix, params in members.items()
        if params
    ]


class ScaledAdam(ClippedOptimizer):
    """Updates parameters; use it with `Eden`.

    Every tensor with more than one element: momentum of Adam steps, times the tensor's root-mean-square, and every
    `size_update_period` steps a change of its size. Single numbers (biases of scale, temperatures): Adam with
    `lr * scalar_lr_scale`, kept within +-`scalar_max`. Parameters without a gradient keep their value and state, and a
    group without any (a frozen encoder) its clipping, too. A step whose gradients are not finite counts as one with
    zero gradients; `num_nonfinite` says how many there were.

    Parameters may be sharded over ranks (DTensors of `fully_shard`): sizes and norms are those of the whole tensors,
    and all ranks must do each step, and the first look at statistics or state, together.

    Args:
        params: parameters, (name, parameter) pairs, or groups (see `parameter_groups`).
        lr: the relative change in a step, about; 0.045 is usual for pre-training.
        clipping_scale: gradients above this multiple of the median norm are scaled down; None: no clipping.
        betas: decay of momentum and of squared gradients.
        scalar_lr_scale: learning rate of single numbers and of sizes, relative to `lr`.
        eps: added to the root of the mean squared gradient.
        param_min_rms, param_max_rms: bounds of root-mean-squares.
        scalar_max: bound of single numbers.
        size_update_period: steps between size updates.
        clipping_update_period: steps between new medians.
        clipping_start: no gradient is scaled down before this step; the SPEAR authors' optimiser begins at 100.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.045,
        clipping_scale: float | None = 2.0,
        betas: tuple[float, float] = (0.9, 0.98),
        scalar_lr_scale: float = 0.1,
        eps: float = 1e-8,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        clipping_update_period: int = 100,
        clipping_start: int = 0,
    ):
        if (
            not lr > 0
            or not 0 <= betas[0] < 1
            or not 0 < betas[1] < 1
            or min(size_update_period, clipping_update_period) < 1
        ):
            raise ConfigError(
                f"lr {lr}, betas {betas}, periods {size_update_period} and {clipping_update_period}",
                "a positive lr, betas within [0, 1), periods of at least 1",
                "correct the optimiser's settings",
            )
        self._settings = Settings(
            betas[0], betas[1], eps, scalar_lr_scale, param_min_rms, param_max_rms, scalar_max, size_update_period
        )
        self._clipping = {"scale": clipping_scale, "period": clipping_update_period, "start": clipping_start}
        self._buckets: list[list[Bucket]] = []
        self._counters: list[Counters] = []
        self._clippers: list[MedianClipper] = []
        super().__init__(params, {"lr": lr})
        for number, group in enumerate(self.param_groups):
            group.setdefault("name", "default" if number == 0 else f"group{number}")

    def _prepare(self) -> None:
        """State is made when it is first needed, after the model has moved to its device."""
        for group in self.param_groups[len(self._buckets) :]:
            devices = {param.device for param in group["params"]}
            if len(devices) != 1:
                raise ConfigError(
                    f"parameters of group {group['name']!r} on {sorted(map(str, devices))}",
                    "all on one device",
                    "move the model before the first step, or make a group for each device",
                )
            self._buckets.append(make_buckets(group["params"], self._settings))
            self._counters.append(Counters(self._buckets[-1], self._settings))
            self._clippers.append(MedianClipper(device=devices.pop(), **self._clipping))

    @torch.no_grad()
    def step(self, closure=None):
        """One update. Each group is clipped by its own norm.

        Returns:
            the closure's loss, if there is a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._prepare()
        for group, buckets, counters, clipper in zip(self.param_groups, self._buckets, self._counters, self._clippers):
            if all(param.grad is None for param in group["params"]):
                continue  # or the median norm of a frozen group would be 0, and what follows clipped away
            step = clipper.steps
            norms = gradient_norms(buckets, step)
            all_norms = torch.cat(norms)
            weights = torch.cat([bucket.norm_weights() for bucket in buckets])
            factor, finite = clipper.update(torch.linalg.vector_norm(all_norms * weights))
            for bucket, bucket_norms, correction in zip(buckets, norms, counters.advance(all_norms)):
                bucket.update(group["lr"], step, bucket_norms, factor, finite, correction)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """In torch's layout: tensors and numbers only; a copy, so that later steps do not change it.

        "state" maps the parameter's position to its tensors, sharded where the parameter is; each group also has
        "steps" and its "clipping" tensors.
        """
        self._prepare()
        state: dict[int, dict[str, Tensor]] = {}
        groups, first = [], 0
        for group, buckets, clipper in zip(self.param_groups, self._buckets, self._clippers):
            for bucket in buckets:
                for row, index in enumerate(bucket.indexes):
                    state[first + index] = {
                        name: _as_sharded(tensor[row].clone(), name, bucket.params[row])
                        for name, tensor in bucket.state.items()
                    }
            count = len(group["params"])
            packed = {key: value for key, value in group.items() if key != "params"}
            groups.append({**packed, "params": list(range(first, first + count)), **packed_clipping(clipper)})
            first += count
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict()`: further steps are bit-identical.

        Raises:
            CheckpointError: it belongs to another model; the message names the first difference.
        """
        self._prepare()
        check_groups(state_dict["param_groups"], self.param_groups)
        for group, saved, buckets, clipper in zip(
            self.param_groups, state_dict["param_groups"], self._buckets, self._clippers
        ):
            for bucket in buckets:
                for row, index in enumerate(bucket.indexes):
                    position = saved["params"][index]
                    entries = state_dict["state"].get(position, {})
                    label = saved["param_names"][index] if "param_names" in saved else f"parameter {position}"
                    for name, tensor in bucket.state.items():
                        like = _as_sharded(tensor[row], name, bucket.params[row])
                        copy_state(like, entries.get(name), f"{name} of {label}")
            restore_group(group, saved, clipper)


def _as_sharded(tensor: Tensor, name: str, param: Parameter) -> Tensor:
    return as_sharded(tensor, param) if name in State.ELEMENTWISE else tensor


def named_parameters(optimizer: Optimizer) -> list[tuple[str, Parameter]]:
    """(name, parameter) in the order of `state_dict()`; the name is the position where none was given."""
    pairs = []
    for group in optimizer.param_groups:
        names = group.get("param_names") or [str(len(pairs) + index) for index in range(len(group["params"]))]
        pairs.extend(zip(names, group["params"]))
    return pairs
