"""The torchrun environment: who am I, which device is mine, and the few collectives the project needs.

Without torchrun's variables there is one process and no process group, and every function here still works.
"""

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as torch_dist

from spear.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process among all processes.

    Attributes:
        rank: index of this process, 0 to `size` - 1.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and logs."""
        return self.rank == 0


def start(device: str = "auto", timeout_minutes: float = 10.0) -> World:
    """Joins the process group that torchrun describes (NCCL on CUDA, gloo on CPU).

    Args:
        device: `auto` takes CUDA when there is one; or `cpu`, `cuda`.
        timeout_minutes: a collective that waits longer fails in all processes.

    Raises:
        ConfigError: `cuda` was asked for and there is none.
    """
    use_cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    if use_cuda and not torch.cuda.is_available():
        raise ConfigError("device 'cuda', but torch sees no GPU", "a visible GPU", "--device cpu, or check the driver")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1 and not torch_dist.is_initialized():
        torch_dist.init_process_group(
            "nccl" if use_cuda else "gloo", timeout=datetime.timedelta(minutes=timeout_minutes)
        )
    return World(int(os.environ.get("RANK", 0)), size, chosen)


def stop() -> None:
    """Leaves the process group, if there is one."""
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


def barrier() -> None:
    """Waits for all processes."""
    if torch_dist.is_initialized():
        torch_dist.barrier()


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Sums a tensor over all processes in place and returns it."""
    if torch_dist.is_initialized():
        torch_dist.all_reduce(tensor)
    return tensor


def any_(flag: bool, device: torch.device) -> bool:
    """True in every process if it is true in one (a stop signal, for example)."""
    if not torch_dist.is_initialized():
        return flag
    return bool(sum_(torch.tensor(float(flag), device=device)) > 0)


def gather_objects(value) -> list:
    """Every process's value, in rank order, in every process."""
    if not torch_dist.is_initialized():
        return [value]
    values = [None] * torch_dist.get_world_size()
    torch_dist.all_gather_object(values, value)
    return values
