"""What optimizers share whose gradients are clipped by the median of their norms: numbers, and checked state."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from spear import dist
from spear.errors import CheckpointError
from spear.optim.clipping import ClippingStatistics, MedianClipper


class ClippedOptimizer(Optimizer):
    """Base of the optimizers; a subclass fills `_clippers` in `_prepare`."""

    _clippers: list[MedianClipper]

    def _prepare(self) -> None:
        """Makes the state, when it is first needed: after the model has moved to its device."""
        raise NotImplementedError

    def _clipped_names(self) -> list[str]:
        """Of the clippers, in their order."""
        return [group["name"] for group in self.param_groups]

    @property
    def clipping(self) -> dict[str, ClippingStatistics]:
        """Group name -> statistics. Reading them waits for the device; do it when logging."""
        self._prepare()
        return {name: clipper.statistics() for name, clipper in zip(self._clipped_names(), self._clippers)}

    @property
    def last_grad_norm(self) -> float:
        """Norm of the last gradients as they are clipped, over all groups."""
        return sum(statistics.last_grad_norm**2 for statistics in self.clipping.values()) ** 0.5

    @property
    def clipping_threshold(self) -> float:
        """The largest norm that is not clipped (of the first group; infinite before step 10)."""
        return next(iter(self.clipping.values())).threshold

    @property
    def fraction_clipped(self) -> float:
        """Share of recent steps that were clipped (of the group that has most)."""
        return max(statistics.fraction_clipped for statistics in self.clipping.values())

    @property
    def num_nonfinite(self) -> int:
        """Steps so far whose gradients were not finite (counted in each group). Waits for the device once a group."""
        self._prepare()
        return sum(int(clipper.num_nonfinite) for clipper in self._clippers)


def check_groups(saved: Sequence[dict], own: Sequence[dict]) -> None:
    """Compares groups of a state with those of an optimizer, by numbers and names of parameters.

    Raises:
        CheckpointError: they differ; says how.
    """
    found, expected = ([len(group["params"]) for group in groups] for groups in (saved, own))
    if found != expected:
        raise foreign(f"groups of {found} parameters", f"groups of {expected} parameters")
    if any(one.get("param_names") != other.get("param_names") for one, other in zip(saved, own)):
        raise foreign("other parameter names", "the names of this model")


def packed_clipping(clipper: MedianClipper) -> dict:
    """The entries of a group that hold its clipping; a copy."""
    return {
        "steps": clipper.steps,
        "clipping": {name: tensor.clone() for name, tensor in clipper.tensors().items()},
    }


def restore_group(group: dict, saved: dict, clipper: MedianClipper | None) -> None:
    """Gives a group its saved settings, and its clipper the state of `packed_clipping`."""
    if clipper is not None:
        for name, tensor in clipper.tensors().items():
            copy_state(tensor, saved.get("clipping", {}).get(name), f"clipping {name}")
        clipper.steps = saved["steps"]
    group.update({k: v for k, v in saved.items() if k not in ("params", "steps", "clipping", "param_names")})


def copy_state(target: Tensor, source: Tensor | None, what: str) -> None:
    """Copies a tensor of a state, of which this rank takes its part where `target` is sharded.

    Raises:
        CheckpointError: there is none, or of another shape; names it.
    """
    if source is None:
        raise foreign(f"no {what}", f"a tensor of shape {tuple(target.shape)}")
    if target.shape != source.shape:
        raise foreign(f"{what} of shape {tuple(source.shape)}", f"shape {tuple(target.shape)}")
    dist.local(target).copy_(dist.part_of(source, target))


def as_sharded(tensor: Tensor, param: Parameter) -> Tensor:
    """A state tensor of a parameter's shape, marked as this rank's part where it is one."""
    return dist.as_part(tensor, param) if dist.is_sharded(param) else tensor


def foreign(found: str, expected: str) -> CheckpointError:
    """The error for a state of another model or optimizer."""
    return CheckpointError(
        f"optimiser state with {found}", expected, "resume with the configuration that the checkpoint was written with"
    )
