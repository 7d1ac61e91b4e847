"""Checkpoints: directories that are whole or absent, checked on reading, and enough to go on bit for bit.

    exp_dir/checkpoints/step-00000200/
        model.safetensors        parameters of encoder, mask embedding and heads
        model_avg.safetensors    their running mean
        optimizer.safetensors    the optimizer's tensors
        checkpoint.json          position, schedules, configuration, versions, cards, SHA-256 of the files above

There is no random state in it: every stream is derived from (seed, purpose, epoch, batch).
"""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from spear import fs, records, seal
from spear.errors import CheckpointError, DataError
from spear.log import get_logger

logger = get_logger(__name__)
FORMAT_VERSION = 1


@dataclass
class _Meta:
    """What every checkpoint.json says; `save` is told the rest."""

    step: records.Count
    files: dict[str, records.Sha256]


class Run(Protocol):
    """Whose checkpoints are meant; `spear.train.runs.Run`."""

    def owns(self, directory: Path) -> bool:
        """Whether a checkpoint is this run's."""
        ...


def directory_of(exp_dir: str | Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps lives."""
    return Path(exp_dir) / "checkpoints" / f"step-{step:08d}"


def save(directory: str | Path, tensors: dict[str, dict[str, Tensor]], meta: dict) -> Path:
    """Writes a checkpoint under a temporary name and renames it.

    Args:
        directory: the final place; one that exists is replaced.
        tensors: file stem (`model`, `optimizer`, ...) -> named tensors.
        meta: JSON-compatible description.
    """
    directory = Path(directory)
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for stem, values in tensors.items():
        path = temporary / f"{stem}.safetensors"
        save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, path)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
    digests = seal.digests(temporary, [f"{stem}.safetensors" for stem in tensors])
    seal.write_json(temporary / "checkpoint.json", {**meta, "format": FORMAT_VERSION, "files": digests})
    if directory.exists():
        shutil.rmtree(directory)
    os.replace(temporary, directory)
    _sync_directory(directory.parent)
    return directory


def _sync_directory(directory: Path) -> None:
    """Makes a rename outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writer:
    """Writes checkpoints in a thread of its own, one at a time, so that training goes on meanwhile.

    A write that fails (full disk, lost mount) removes what it had written and is reported; older checkpoints stay, and
    the next write tries again.

    Args:
        max_failures: after so many failures in a row, `ready` raises.
    """

    def __init__(self, max_failures: int = 3):
        self.max_failures, self.failures = max_failures, 0
        self._error: CheckpointError | None = None
        self._thread: threading.Thread | None = None

    def ready(self) -> None:
        """Waits for the write under way, whatever becomes of it.

        Raises:
            CheckpointError: the last `max_failures` writes failed.
        """
        self._join()
        if self.failures >= self.max_failures:
            raise self._error

    def submit(self, directory: Path, tensors: dict[str, dict[str, Tensor]], meta: dict, then: Callable) -> None:
        """Begins to write; waits first for the write before it.

        Args:
            directory, tensors, meta: see `save`; nobody may change the tensors any more.
            then: called after the write, in the thread.

        Raises:
            CheckpointError: see `ready`.
        """
        self.ready()
        self._thread = threading.Thread(target=self._write, args=(directory, tensors, meta, then), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the write under way.

        Raises:
            CheckpointError: the last write failed.
        """
        self._join()
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        if self._thread is not None:
            began = time.perf_counter()
            self._thread.join()
            self._thread = None
            if time.perf_counter() - began > 10:
                logger.info("waited %.0f s for the checkpoint to be written", time.perf_counter() - began)

    def _write(self, directory: Path, tensors: dict[str, dict[str, Tensor]], meta: dict, then: Callable) -> None:
        try:
            save(directory, tensors, meta)
            then()
            self.failures, self._error = 0, None
        except Exception as error:  # safetensors raises its own, the file system OSError
            shutil.rmtree(directory.with_name(f".{directory.name}.tmp"), ignore_errors=True)
            self.failures += 1
            size = sum(t.numel() * t.element_size() for values in tensors.values() for t in values.values())
            free = fs.human_bytes(fs.free_bytes(directory))
            self._error = CheckpointError(
                f"{directory} could not be written: {error}; {free} free",
                f"room for {fs.human_bytes(size)} and a file system that can be written to",
                "free space or mount it again; training goes on and the next checkpoint tries again"
                if self.failures < self.max_failures
                else "free space or mount it again, then run the same command: it goes on from the last checkpoint",
            )
            logger.error("%s", self._error)


def verify(directory: str | Path) -> dict:
    """Reads checkpoint.json and compares every file with its digest.

    Raises:
        CheckpointError: something is missing, truncated or altered; the file is named.
    """
    directory = Path(directory)
    if not (directory / "checkpoint.json").exists():
        raise CheckpointError(
            f"no checkpoint.json in {directory}", "a complete checkpoint directory", "delete it, or name another"
        )
    try:
        meta = seal.read_json(directory / "checkpoint.json")
        described = records.convert(meta, _Meta, str(directory / "checkpoint.json"))
        seal.check_files(directory, described.files)
    except DataError as error:
        raise CheckpointError(error.found, error.expected, f"delete {directory} and use an older one") from error
    return meta


def read_tensors(directory: str | Path, stem: str) -> dict[str, Tensor]:
    """The named tensors of one file."""
    return load_file(Path(directory) / f"{stem}.safetensors")


def directories(exp_dir: str | Path) -> list[Path]:
    """Checkpoints below `exp_dir`, oldest first, damaged ones included; copies with other names are not among them."""
    found = (Path(exp_dir) / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch("step-[0-9]{8}", path.name) and path.is_dir())


def steps(exp_dir: str | Path, run: Run | None = None) -> list[int]:
    """Optimizer steps of the checkpoints of a run (None: of all), oldest first."""
    owned = [path for path in directories(exp_dir) if run is None or run.owns(path)]
    return [int(path.name.removeprefix("step-")) for path in owned]


def newest(exp_dir: str | Path, run: Run | None = None) -> tuple[Path, dict] | None:
    """A run's newest checkpoint that is whole, with its description; damaged ones are reported and passed over."""
    return _first_whole(exp_dir, reversed(steps(exp_dir, run)))


def nearest(exp_dir: str | Path, step: int, before: int, run: Run | None = None) -> tuple[Path, dict] | None:
    """The whole checkpoint nearest to `step` among those of steps below `before`.

    It is another than that of `step` when `num_steps` was changed on the way, or when that one is damaged.
    """
    candidates = sorted((each for each in steps(exp_dir, run) if each < before), key=lambda each: abs(each - step))
    found = _first_whole(exp_dir, candidates)
    if found is None or found[0] != directory_of(exp_dir, step):
        instead = f"from {found[0].name} on" if found else "not at all"
        logger.warning("no checkpoint of step %d, where the average should begin: averaging %s", step, instead)
    return found


def _first_whole(exp_dir: str | Path, candidates: Iterable[int]) -> tuple[Path, dict] | None:
    for step in candidates:
        directory = directory_of(exp_dir, step)
        try:
            return directory, verify(directory)
        except (CheckpointError, KeyError) as error:
            logger.warning("checkpoint %s cannot be used, trying another:\n%s", directory.name, error)
    return None


def remove_unfinished(exp_dir: str | Path) -> None:
    """Deletes what writers that were killed left behind; nobody may be writing."""
    for path in (Path(exp_dir) / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def prune(exp_dir: str | Path, keep: int, always: set[int], run: Run | None = None) -> None:
    """Deletes all but the newest `keep` checkpoints of a run and those in `always`."""
    for step in steps(exp_dir, run)[:-keep] if keep else []:
        if step not in always:
            shutil.rmtree(directory_of(exp_dir, step), ignore_errors=True)
