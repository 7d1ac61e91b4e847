"""Before the first step: the costliest batches are run, and `plan.max_seconds: auto` is replaced by what fits.

The memory of a step is a constant (parameters, optimizer, average) and a part that grows with the padded seconds of
its batch. Two batches of the longest cuts show both; nothing has to fail to find the limit.
"""

import contextlib
import ctypes
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spear import dist, env, fs, records, seal
from spear.data import Batch, Plan, PlanLimits, PretrainDataset
from spear.errors import ConfigError, DataError, SpearError
from spear.log import get_logger
from spear.train import checkpoint
from spear.train.config import TrainConfig
from spear.train.runs import Run
from spear.train.throughput import StepFlops, count_flops

logger = get_logger(__name__)
# Of the memory that there is; the rest is for fragments, buffers of DDP and other batches' shapes.
USABLE_SHARE = 0.85
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Rehearsal(NamedTuple):
    """What the costliest batches took.

    Attributes:
        seconds: of the slowest of them.
        padded_seconds: of the largest batch.
        flops: operations for each padded second of audio.
        peak_bytes: the process's memory at its largest.
    """

    seconds: float
    padded_seconds: float
    flops: StepFlops
    peak_bytes: int


class Rehearser:
    """Runs batches and forgets their gradients.

    Args:
        model: in training mode; its gradients are set to None.
        data, config, world: of the run.
        forward_backward: called with a batch on the device, its number, and synchronise=False.
        targets: makes the targets of a batch on the device, as `forward_backward` does.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data: PretrainDataset,
        config: TrainConfig,
        world: dist.World,
        forward_backward: Callable,
        targets: Callable,
    ):
        self.model, self.data, self.config, self.world = model, data, config, world
        self.forward_backward, self.targets = forward_backward, targets
        self.limit_bytes = memory_limit(config, world)

    def run(self, plan: Plan, epoch: int, count: int) -> Rehearsal:
        """Runs the `count` costliest batches of a plan.

        Raises:
            ConfigError: a parameter has no gradient (all such are named), or a batch does not fit the memory (with the
                limit that would).
        """
        slowest, flops, points = 0.0, StepFlops(), [(0.0, used_bytes(self.world.device))]
        places = plan.costliest(count)
        largest = max(float(plan.batch_seconds[plan.global_batch(*place)]) for place in places)
        logger.info(
            "rehearsal: %d of the costliest batches before the first step, %.0f padded seconds", len(places), largest
        )
        for number, place in enumerate(places):
            batch = self.data.batch(plan, epoch, *place).to(self.world.device)

            def work(batch=batch, place=place):
                self.forward_backward(batch, plan.global_batch(*place), synchronise=False)

            began = time.perf_counter()
            try:
                if number == 0:
                    flops = self._flops(work, batch)
                else:
                    work()
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                raise self._too_large(batch.padded_seconds, points, str(error).splitlines()[0]) from error
            slowest = max(slowest, time.perf_counter() - began)
            points.append((batch.padded_seconds, peak_bytes(self.world.device)))
            self._check_gradients()
            if points[-1][1] > self.limit_bytes:
                found = f"it took {fs.human_bytes(points[-1][1])} of {fs.human_bytes(self.limit_bytes)}"
                raise self._too_large(batch.padded_seconds, points, found)
        memory = fs.human_bytes(max(taken for _, taken in points))
        logger.info("rehearsal: the slowest batch took %.1f s; %s of memory at most", slowest, memory)
        return Rehearsal(slowest, points[1][0], flops, points[-1][1])

    def _flops(self, work: Callable, batch: Batch) -> StepFlops:
        """Counts a step; `work` is its forward and backward pass, targets included."""
        whole = count_flops(work)
        targets = count_flops(lambda: self.targets(batch))
        return StepFlops((whole - targets) / batch.padded_seconds, targets / batch.padded_seconds)

    def fitting_seconds(self) -> float:
        """The largest `plan.max_seconds` that fits the memory, from two batches of the longest cuts."""
        durations = self.data.cuts.durations_seconds
        longest = np.argsort(-durations, kind="stable")[:3]
        points = [(0.0, used_bytes(self.world.device))]
        for number, count in enumerate((1, min(3, len(longest)))):
            chosen = longest[:count]
            plan = Plan(chosen, np.asarray([0, count]), np.asarray([durations[chosen].max() * count]), 1, "auto")
            batch = self.data.batch(plan, 0, 0, 0).to(self.world.device)
            try:
                self.forward_backward(batch, number, synchronise=False)
            except (RuntimeError, MemoryError) as error:
                # Where layers are sharded, the other ranks would wait for this one.
                sharded = any(dist.is_sharded(param) for param in self.model.parameters())
                if number == 0 or sharded or not _is_out_of_memory(error):
                    raise
                break
            finally:
                self.model.zero_grad(set_to_none=True)
            points.append((batch.padded_seconds, peak_bytes(self.world.device)))
        advised = advise_max_seconds(points[1:] if len(points) > 2 else points, self.limit_bytes)
        return max(advised, float(self.data.limits.padded(durations.max())))

    def _check_gradients(self) -> None:
        unused = [name for name, param in self.model.named_parameters() if param.requires_grad and param.grad is None]
        self.model.zero_grad(set_to_none=True)
        if unused:
            raise ConfigError(
                f"{len(unused)} parameters without a gradient: {', '.join(unused[:20])}",
                "every parameter to take part in every batch, or ranks would wait for each other's gradients",
                "remove them, or set requires_grad to False",
            )

    def _too_large(self, seconds: float, points: list[tuple[float, int]], found: str) -> ConfigError:
        advised = advise_max_seconds(points, self.limit_bytes)
        largest = f"plan.max_seconds {advised:.0f}, by the batches so far" if advised else "a smaller plan.max_seconds"
        return ConfigError(
            f"a batch of {seconds:.0f} padded seconds, the costliest of the plan, that does not fit: {found}",
            f"batches that fit the memory of {self.world.device}",
            f"set {largest}, with more accumulation for the same step; or activation_checkpointing: true",
        )


def advise_max_seconds(points: list[tuple[float, int]], limit_bytes: float) -> float:
    """The padded seconds at which memory reaches the limit, by the line through the smallest and the largest point.

    Args:
        points: (padded seconds, peak bytes).
        limit_bytes: what may be used.

    Returns:
        seconds, rounded down to whole ones; 0 when the points do not tell.
    """
    (first, low), (last, high) = min(points), max(points)
    if last <= first or high <= low:
        return 0.0
    return float(max(0, int(first + (limit_bytes - low) * (last - first) / (high - low))))


def memory_limit(config: TrainConfig, world: dist.World) -> float:
    """Bytes that this rank may use: `memory_limit_gb`, or a share of what the device has."""
    if config.memory_limit_gb:
        return config.memory_limit_gb * 1e9
    if world.device.type == "cuda":
        return USABLE_SHARE * torch.cuda.get_device_properties(world.device).total_memory
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    return USABLE_SHARE * (env.memory_bytes() or float("inf")) / ranks_here


def used_bytes(device: torch.device) -> int:
    """Memory in use now; `peak_bytes` starts from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:  # without this, a process that frees little stays as large as it was when it loaded its data
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass
    return _status_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The largest memory since `used_bytes`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What auto_limits.json holds; older versions wrote no run."""

    max_seconds: records.Positive
    run_id: str = ""


def resolve_auto(config: TrainConfig, data: PretrainDataset, rehearser: Rehearser, run: Run) -> PlanLimits:
    """Replaces `plan.max_seconds: auto` by the smallest of what fits the ranks; a run keeps what it found first."""
    kept, is_main = Path(config.exp_dir) / "auto_limits.json", rehearser.world.is_main
    found = dist.gather_objects(_kept_seconds(kept, config, run) if is_main else None)[0]
    if found is None:
        found = min(dist.gather_objects(rehearser.fitting_seconds()))
        if is_main:
            values = {"max_seconds": found, "limit_bytes": rehearser.limit_bytes, "run_id": run.run_id}
            fs.write_json(kept, values)
    dist.barrier()
    limit = fs.human_bytes(rehearser.limit_bytes)
    logger.info("plan.max_seconds: auto is %g padded seconds (%s usable; kept in %s)", found, limit, kept)
    return dataclasses.replace(data.limits, max_seconds=found)


def _kept_seconds(kept: Path, config: TrainConfig, run: Run) -> float | None:
    """What the run found when it began: by its checkpoints, else by the file."""
    for step in checkpoint.steps(config.exp_dir, run):
        with contextlib.suppress(SpearError, KeyError, TypeError, ValueError):
            description = seal.read_json(checkpoint.directory_of(config.exp_dir, step) / "checkpoint.json")
            return float(description["config"]["plan"]["max_seconds"])
    try:
        found = records.read(kept, _Kept) if kept.exists() else None
    except DataError as error:
        logger.warning("%s; plan.max_seconds: auto is measured again", error.found)
        return None
    return found.max_seconds if found and found.run_id == run.run_id else None


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in text for word in _OUT_OF_MEMORY)
