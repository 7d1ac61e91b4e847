"""The torchrun environment: who am I, which device is mine, and the few collectives the project needs.

Without torchrun's variables there is one process and no process group, and every function here still works.
"""

import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as torch_dist

from spear import locks
from spear.errors import ConfigError, SpearError


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
    chosen = choose_device(device)
    use_cuda = chosen.type == "cuda"
    if use_cuda:
        torch.cuda.set_device(chosen)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1 and not torch_dist.is_initialized():
        # With both backends, numbers that the host decides on (stop flags) never wait for the GPU.
        backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
        torch_dist.init_process_group(backend, timeout=datetime.timedelta(minutes=timeout_minutes))
    return World(int(os.environ.get("RANK", 0)), size, chosen)


def choose_device(device: str) -> torch.device:
    """`auto` is a GPU where there is one, that of the local rank under torchrun; else what its name says.

    Raises:
        ConfigError: `cuda` was asked for and there is none.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device '{device}', but torch sees no GPU", "a visible GPU", "--device cpu, or check the driver"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if ":" not in device else torch.device(device)


def stop() -> None:
    """Leaves the process group, if there is one; after it the interpreter may end."""
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()
        _wait_for_gloo_threads()


def _wait_for_gloo_threads(timeout_seconds: float = 30.0) -> None:
    """Waits until gloo's threads have let go of the last collective's tensors.

    Each wakes whoever waits for a result first and frees the tensors after that, for which it may need the
    interpreter. Where a device mesh keeps the group alive (DTensor's caches hold the mesh), nothing joins these
    threads, and one that is late would find the interpreter gone and abort a program that had done all its work
    (pytorch issue 190489). They are told from others by their name, at rest by their state; only Linux shows either.
    """
    end, rests = time.monotonic() + timeout_seconds, 0
    while rests < 2 and time.monotonic() < end:
        time.sleep(0.001)  # a thread that waits for the interpreter gets it here
        rests = rests + 1 if not {"R", "D"} & set(_gloo_thread_states()) else 0


def _gloo_thread_states() -> list[str]:
    """The scheduler's letter for each gloo thread of this process: R runs or wants to, S sleeps."""
    states = []
    for path in Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if name.startswith("pt_gloo"):
                states.append(rest.split()[0])
    return states


def barrier() -> None:
    """Waits for all processes."""
    if torch_dist.is_initialized():
        torch_dist.barrier()


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Sums a tensor over all processes in place and returns it."""
    if torch_dist.is_initialized():
        torch_dist.all_reduce(tensor)
    return tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that is sharded over ranks (a DTensor), sharing memory; any other tensor itself."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether each rank holds a part of the tensor's rows."""
    return hasattr(tensor, "placements")  # importing DTensor takes half a second, which most programs need not pay


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor, for which all ranks must ask at the same time; any other tensor itself."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor


def as_part(local_tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A sharded tensor from this rank's part of it, of the shape of the sharded tensor `like`."""
    from torch.distributed.tensor import DTensor

    options = {"run_check": False, "shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(local_tensor, like.device_mesh, like.placements, **options)


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The rows of a whole tensor that this rank holds of `like`; all of it where `like` is not sharded."""
    if is_sharded(tensor) or not is_sharded(like):
        return local(tensor)
    # As fully_shard deals them out: equal pieces, the last ones shorter or empty.
    size = -(-tensor.shape[0] // like.device_mesh.size())
    start = min(size * like.device_mesh.get_local_rank(), tensor.shape[0])
    return tensor[start : start + size]


def any_(flag: bool) -> bool:
    """True in every process if it is true in one (a stop signal, for example). Travels between hosts, not GPUs."""
    if not torch_dist.is_initialized():
        return flag
    return bool(sum_(torch.tensor(float(flag))) > 0)


class FailureBoard:
    """Where the first rank that fails leaves its error for all others: two keys in the store that torchrun provides.

    Collectives cannot carry this news: the other ranks wait in one that will never end.

    Args:
        world: this process among all; with one process the board is empty and stays so.
    """

    def __init__(self, world: World):
        self.world, self._store = world, None
        if torch_dist.is_initialized():
            self._store = _launcher_store()

    def claim(self) -> bool:
        """True for the first rank that asks: its error is the cause, those of the others may be consequences."""
        return self._store is None or self._store.add("failures", 1) == 1

    def post(self, text: str) -> None:
        """Leaves this rank's error."""
        if self._store is not None:
            self._store.set("failure", f"rank {self.world.rank}: {text}")

    def read(self) -> str:
        """The first failure, or nothing.

        Raises:
            ConnectionError: the process that keeps the store is gone.
        """
        if self._store is None:
            return ""
        try:
            return self._store.get("failure").decode() if self._store.check(["failure"]) else ""
        except (RuntimeError, torch_dist.DistError) as error:
            raise ConnectionError(str(error)) from error


@contextlib.contextmanager
def hold(directory: str | Path, purpose: str) -> Iterator[None]:
    """`locks.hold` for all processes of a run: rank 0 asks, and all learn of a refusal at once instead of waiting.

    The processes of a run have a process group, or the store of their launcher (torchrun); through it rank 0 gives the
    lock back last. Those that were started by hand share nothing but the disk: each holds a lock of its own.

    Args:
        directory, purpose: see `locks.hold`.

    Raises:
        LockedError: another run holds the directory; the same in every process.
        DataError: see `locks.hold`.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    with contextlib.ExitStack() as held:
        if size == 1:
            held.enter_context(locks.hold(directory, purpose))
        elif torch_dist.is_initialized():
            refusal = _try_to_hold(held, directory, purpose) if rank == 0 else None
            _raise(gather_objects(refusal)[0])
        elif os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = torch_dist.PrefixStore(f"hold/{os.path.abspath(directory)}", _launcher_store())
            if rank == 0:
                refusal = _try_to_hold(held, directory, purpose)
                # One that fails must end, so that the launcher ends the others.
                held.push(lambda error, *_: None if error else _wait_for_others(store, size - 1))
                store.set("refusal", json.dumps(refusal))
            else:
                refusal = json.loads(store.get("refusal"))
                held.callback(store.add, "left", 1)
            if refusal:
                held.pop_all()  # nobody holds anything, and nobody waits for anybody
            _raise(refusal)
        else:
            held.enter_context(locks.hold(directory, purpose, name=locks.NAME + (f".rank{rank}" if rank else "")))
        yield


def _try_to_hold(held: contextlib.ExitStack, directory: str | Path, purpose: str) -> list[str] | None:
    """Why the lock cannot be had, in three parts; None when it is held now."""
    try:
        held.enter_context(locks.hold(directory, purpose))
    except SpearError as error:
        return [error.found, error.expected, error.fix]
    return None


def _raise(refusal: list[str] | None) -> None:
    if refusal:
        raise locks.LockedError(*refusal)


def _wait_for_others(store: torch_dist.Store, count: int) -> None:
    with contextlib.suppress(RuntimeError, torch_dist.DistError):  # the launcher is gone
        while store.add("left", 0) < count:
            time.sleep(0.1)


def _launcher_store() -> torch_dist.Store:
    """The store of torchrun: an own connection, since the group's may be held by a collective."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch_dist.TCPStore(*address, is_master=False, wait_for_workers=False)
    # Elastic restarts keep the store.
    return torch_dist.PrefixStore(f"spear/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def is_broken_collective(error: Exception) -> bool:
    """Whether an error says that another process left or hangs, rather than that this one did something wrong."""
    words = ("gloo", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def gather_objects(value) -> list:
    """Every process's value, in rank order, in every process."""
    if not torch_dist.is_initialized():
        return [value]
    values = [None] * torch_dist.get_world_size()
    torch_dist.all_gather_object(values, value)
    return values
