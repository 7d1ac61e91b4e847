"""Loaders: the batches of one rank and epoch, made by worker processes, in the plan's order."""

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from spear.data.collate import PARTS, Batch
from spear.data.dataset import PretrainDataset
from spear.data.plan import Plan
from spear.data.sources import Sources
from spear.errors import DataError
from spear.fs import human_bytes
from spear.log import get_logger

logger = get_logger(__name__)
_WARNINGS_SHOWN = 20
_LOOK_SECONDS = 5.0
_MAX_RESTARTS = 3  # of workers that die before they deliver a batch
# Through this folder workers hand over their tensors. Docker gives it 64 MB, and a worker that finds it full dies or
# waits for ever.
SHARED_MEMORY = Path("/dev/shm")


class EpochLoader:
    """Iterates over the batches of one rank from `start_step` to the end of the epoch.

    Attributes:
        plan: the epoch's plan; `len(loader)` is the number of steps that are left.
        skipped: reason by id of the cuts and noises that could not be read so far; each is logged once.
        seconds: time that workers spent on each part so far; the largest names the slow part.
    """

    def __init__(
        self,
        dataset: PretrainDataset,
        plan: Plan,
        epoch: int,
        start_step: int,
        rank: int,
        timeout_seconds: float,
        **options,
    ):
        self.plan, self.skipped, self.seconds = plan, {}, Counter({part: 0.0 for part in PARTS})
        self._timeout_seconds = timeout_seconds
        self._steps = range(start_step, plan.num_steps)
        self._view, self._options = _EpochView(dataset, plan, epoch, rank), options
        if options.get("num_workers", 0) == 0:
            options.pop("prefetch_factor", None)
        else:
            # Without SIGCHLD, the workers are looked at whenever this is over.
            options["timeout"] = min(_LOOK_SECONDS, timeout_seconds)
            ahead = options["num_workers"] * (options["prefetch_factor"] + 1)
            self._view.packs = not _fits_shared_memory(ahead * _batch_bytes(dataset, plan))
        # The generator keeps DataLoader from drawing a seed from torch's global state, which belongs to the model.
        options["generator"] = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches():
            for item_id, reason in batch.skipped:
                if item_id not in self.skipped:
                    level = logging.WARNING if len(self.skipped) < _WARNINGS_SHOWN else logging.DEBUG
                    logger.log(level, "epoch %d step %d: skipped %s: %s", batch.epoch, batch.step, item_id, reason)
                self.skipped[item_id] = reason
            self.seconds.update(batch.seconds)
            yield batch

    def _batches(self) -> Iterator[Batch]:
        """The batches; when a worker dies (out of memory, a broken decoder), new ones go on where it was.

        Raises:
            DataError: workers die again and again before they deliver a batch.
        """
        done, restarts = 0, 0
        while done < len(self._steps):
            loader = DataLoader(self._view, batch_size=None, sampler=self._steps[done:], **self._options)
            try:
                for batch in _contained(iter(loader), loader.num_workers > 0, self._timeout_seconds):
                    yield batch.unpacked() if isinstance(batch, _Packed) else batch
                    done, restarts = done + 1, 0
            except _WorkerDied as error:
                restarts += 1
                step = self._steps[done]
                if restarts > _MAX_RESTARTS:
                    raise DataError(
                        f"loader workers that die at batch {step} of the epoch, {restarts} times in a row ({error})",
                        "workers that live: each needs memory for a few batches of decoded audio",
                        "use fewer workers (num_workers), look for the kernel's out-of-memory message in dmesg, or set "
                        "num_workers to 0 to see the error itself",
                    ) from error
                logger.warning("a loader worker died (%s); new ones go on with batch %d of the epoch", error, step)


class _WorkerDied(Exception):
    """A worker process ended before its time."""


def _contained(batches: Iterator[Batch], from_workers: bool, timeout_seconds: float = 0.0) -> Iterator[Batch]:
    """The same batches; the death of a worker is noticed here, not in whatever the main thread does at that moment.

    Raises:
        _WorkerDied
        DataError: no batch came in the time that there is for one.
    """
    if threading.current_thread() is threading.main_thread():
        # DataLoader's handler raises from the signal, even in the middle of an optimizer step. Without it, DataLoader
        # looks at its workers every five seconds while it waits for them.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked = time.monotonic()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" in str(error):  # a look at the workers: they live
                if time.monotonic() - asked < timeout_seconds:
                    continue
                raise DataError(
                    f"no batch from the loader workers for {timeout_seconds:.0f} s; {_shared_memory_in_words()}",
                    "a batch in that time, which is nine tenths of timeout_minutes",
                    "look whether the storage of the recordings answers; set num_workers to 0 to see where it waits; "
                    "give a container more shared memory (docker run --shm-size 1g)",
                ) from None
            if "DataLoader worker" in str(error):
                raise _WorkerDied(str(error).split(". ")[0]) from error
            raise
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            # A worker that dies while it hands over a batch breaks the connection. What went wrong inside a worker says
            # so, and without workers there is nothing to hand over.
            if not from_workers or str(error).startswith("Caught "):
                raise
            raise _WorkerDied(f"{type(error).__name__} while it handed over a batch") from error
        yield batch
        asked = time.monotonic()


class _Packed:
    """A batch on its way through a pipe: arrays go as bytes, where tensors would go through shared memory."""

    def __init__(self, batch: Batch):
        self._batch = batch.map(lambda tensor: tensor.numpy())

    def unpacked(self) -> Batch:
        return self._batch.map(torch.from_numpy)

    def pin_memory(self) -> Batch:
        return self.unpacked().pin_memory()


def _batch_bytes(dataset: PretrainDataset, plan: Plan) -> float:
    """Of the largest batch of a plan: features, and targets of every stream."""
    targets = sum(stream.frame_rate_hz * stream.row_bytes for stream in dataset.streams)
    per_second = 100 * dataset.fbank.config.num_mel_bins * 4 + targets
    return float(plan.batch_seconds.max()) * per_second


def _fits_shared_memory(needed_bytes: float) -> bool:
    """Whether the batches that workers prepare ahead fit what is free, with as many from every rank of this machine."""
    needed_bytes *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # where there is no such folder, shared memory lies elsewhere
        return True
    if needed_bytes < 0.8 * free:
        return True
    logger.info(
        "%s has %s free and the batches of the loader workers need %s: they come through pipes, which takes a little "
        "longer (docker run --shm-size gives a container more)",
        *(SHARED_MEMORY, human_bytes(free), human_bytes(needed_bytes)),
    )
    return False


def _shared_memory_in_words() -> str:
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return f"no {SHARED_MEMORY}"
    return f"{SHARED_MEMORY} has {human_bytes(usage.free)} free of {human_bytes(usage.total)}"


class _EpochView:
    """Step -> batch; what worker processes hold. With `packs`, batches come packed."""

    packs = False

    def __init__(self, dataset: PretrainDataset, plan: Plan, epoch: int, rank: int):
        self._dataset, self._plan, self._epoch, self._rank = dataset, plan, epoch, rank

    def __len__(self) -> int:
        return self._plan.num_steps

    def __getitem__(self, step: int) -> Batch | _Packed:
        with _one_thread():
            batch = self._dataset.batch(self._plan, self._epoch, step, self._rank)
        return _Packed(batch) if self.packs else batch


@contextlib.contextmanager
def _one_thread():
    """The same sums in the training process as in workers, which torch gives one thread."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_loader(
    dataset: PretrainDataset,
    epoch: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    *,
    accumulation: int = 1,
    prefetch: int = 2,
    pin_memory: bool = False,
    timeout_seconds: float = 0.0,
) -> EpochLoader:
    """The batches of an epoch for one rank, from `start_step` (a micro step: one batch) on.

    Args:
        dataset: what to load.
        epoch, start_step, rank, world_size: which batches.
        num_workers: processes that make batches; 0 makes them in this process. The batches are the same.
        accumulation: batches per optimizer step, see `build_plan`.
        prefetch: batches that each worker prepares ahead.
        pin_memory: into page-locked memory, for CUDA.
        timeout_seconds: a batch that takes longer is an error; 0: none.
    """
    plan = dataset.plan(epoch, world_size, accumulation)
    options = {"num_workers": num_workers, "prefetch_factor": prefetch, "pin_memory": pin_memory}
    options["timeout_seconds"] = timeout_seconds
    return EpochLoader(dataset, plan, epoch, start_step, rank, **options)


def make_validation_loader(
    dataset: PretrainDataset,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    *,
    pin_memory: bool = False,
    timeout_seconds: float = 0.0,
) -> EpochLoader:
    """The cuts of `dataset`, each once, unmixed, in the same batches every time.

    Raises:
        DataError: there are fewer cuts than ranks.
    """
    plain = PretrainDataset(
        Sources(dataset.cuts, None, dataset.streams, {}),
        seed=0,
        limits=dataclasses.replace(dataset.limits, headroom_seconds=0.0),
    )
    options = {"pin_memory": pin_memory, "timeout_seconds": timeout_seconds}
    return make_loader(plain, 0, 0, rank, world_size, num_workers, **options)
