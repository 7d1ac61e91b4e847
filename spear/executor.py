"""Runs named units of work: in this process, in a pool, on Dask or on Slurm; restarts where it stopped.

Every unit leaves a done-file, written last, with its result and the hash of its specification. A rerun does only the
units without one and those whose specification has changed. The engines are existing ones; this file only feeds them.
"""

import contextlib
import faulthandler
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from spear import env, fs, log
from spear.errors import ConfigError, DataError, SpearError, require
from spear.memory import keep_freed_memory

EXECUTORS = ("local", "dask", "slurm")
Unit = dict[str, Any]
logger = log.get_logger("executor")


def run_units(
    function: Callable[[Unit], dict],
    units: Sequence[Unit],
    done_dir: str | Path,
    *,
    executor: str = "local",
    num_jobs: int = 1,
    label: str = "units",
    watch_seconds: float = 300.0,
) -> list[dict]:
    """Runs `function` on every unit that is not done yet and returns all results in the order of the units.

    Args:
        function: importable from the top level of a module; takes a unit, returns a dict that JSON can hold.
        units: JSON-able dicts, each with a different "name" that can be part of a file name.
        done_dir: receives `<name>.json` for every finished unit; delete it to run everything again.
        executor: "local" (a pool of processes; this process when `num_jobs` is 1), "dask" or "slurm".
        num_jobs: processes or jobs at a time; 0 means one per core.
        label: what is being done, for progress lines.
        watch_seconds: when no unit has finished for so long, the Python stacks of all local workers are printed.

    Raises:
        DataError: a unit failed; the message names it. Units finished before that keep their done-files.
        ConfigError: unknown executor, or names that are missing, equal or unfit for a file.
        MissingPackageError: the package of the chosen executor is not installed.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"executor '{executor}'", "one of " + ", ".join(EXECUTORS), "pass --executor local")
    _check_names(units)
    done_dir = Path(done_dir)
    done_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    pending: list[Unit] = []
    for unit in units:
        result = _read_done(function, unit, done_dir)
        if result is None:
            pending.append(unit)
        else:
            results[unit["name"]] = result
    if results:
        logger.info("%s: %d of %d are done already", label, len(results), len(units))
    num_jobs = min(num_jobs if num_jobs > 0 else env.num_cores(), max(len(pending), 1))
    work = functools.partial(_run_one, function, str(done_dir))
    if executor == "local" and num_jobs == 1:
        finished = _run_inline(work, pending, watch_seconds)
    else:
        engine = {"local": _local, "dask": _dask, "slurm": _slurm}[executor]
        finished = _run_with(engine, work, pending, num_jobs, watch_seconds, done_dir)
    progress = log.Progress(len(pending), label, unit="units")
    for unit, result in finished:
        results[unit["name"]] = result
        progress.update(note=unit["name"])
    return [results[unit["name"]] for unit in units]


# One unit ----------------------------------------------------------------------------------------------------------


def _check_names(units: Sequence[Unit]) -> None:
    seen: set[str] = set()
    for unit in units:
        name = unit.get("name")
        if not isinstance(name, str) or not name or "/" in name or name.startswith(".") or name in seen:
            raise ConfigError(
                f"a unit of work named {name!r}", "a different name for each unit, without '/'", "rename the unit"
            )
        seen.add(name)


def _hash(function: Callable, unit: Unit) -> str:
    return fs.sha256_json({"function": f"{function.__module__}.{function.__qualname__}", "unit": unit})


def _read_done(function: Callable, unit: Unit, done_dir: Path) -> dict | None:
    """The stored result, or None when the unit has to run; an outdated done-file is removed."""
    path = done_dir / f"{unit['name']}.json"
    if not path.exists():
        return None
    try:
        content = fs.read_json(path)
        if content["hash"] == _hash(function, unit):
            return content["result"]
    except (SpearError, KeyError, TypeError):
        logger.warning("%s is damaged: its unit runs again", path)
    path.unlink()
    return None


def _run_one(function: Callable, done_dir: str, unit: Unit) -> dict:
    """Runs one unit where the engine put it, and leaves its done-file."""
    start = time.monotonic()
    keep_freed_memory()
    try:
        result = function(unit)
    except SpearError as error:
        raise DataError(f"unit '{unit['name']}': {error.found}", error.expected, error.fix) from error
    except Exception as error:
        raise DataError(
            f"unit '{unit['name']}' failed with {type(error).__name__}: {error}",
            "every unit of work to finish",
            "repair the cause and run again: finished units are kept (SPEAR_TRACEBACK=1 shows where it happened)",
        ) from error
    content = {"name": unit["name"], "hash": _hash(function, unit), "result": result}
    fs.write_json(Path(done_dir) / f"{unit['name']}.json", content | {"seconds": round(time.monotonic() - start, 3)})
    return result


# Engines -----------------------------------------------------------------------------------------------------------


def _run_inline(work: Callable, pending: list[Unit], watch_seconds: float) -> Iterator[tuple[Unit, dict]]:
    for unit in pending:
        with _watch_this_process(watch_seconds):
            result = work(unit)
        yield unit, result


@contextlib.contextmanager
def _watch_this_process(watch_seconds: float) -> Iterator[None]:
    try:
        faulthandler.dump_traceback_later(watch_seconds, repeat=True, file=sys.__stderr__)
    except (AttributeError, ValueError, OSError):  # no real stderr, as in some notebooks
        yield
        return
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _run_with(
    engine: Callable, work: Callable, pending: list[Unit], num_jobs: int, watch_seconds: float, done_dir: Path
) -> Iterator[tuple[Unit, dict]]:
    """Hands all units to an engine and yields them as they finish; the first failure cancels what has not begun."""
    if not pending:
        return
    with engine(num_jobs, done_dir) as (submit, print_stacks):
        waiting = {submit(work, unit): unit for unit in pending}
        last = time.monotonic()
        try:
            while waiting:
                finished = [future for future in waiting if future.done()]
                for future in finished:
                    unit = waiting.pop(future)
                    yield unit, _result(future, unit, waiting)
                    last = time.monotonic()
                if not finished:
                    time.sleep(0.02)
                if time.monotonic() - last > watch_seconds:
                    logger.warning("no unit has finished for %s; stacks follow", log.human_seconds(watch_seconds))
                    print_stacks()
                    last = time.monotonic()
        finally:
            for future in waiting:
                future.cancel()


def _result(future: Future, unit: Unit, waiting: dict) -> dict:
    try:
        return future.result()
    except BrokenProcessPool as error:
        names = [unit["name"], *(other["name"] for other in waiting.values())][:8]
        raise DataError(
            f"a worker process died while it worked on one of: {', '.join(names)}",
            "workers that end by themselves",
            "look for a kill for lack of memory (dmesg); run again with fewer --num-jobs: finished units are kept",
        ) from error
    except SpearError:
        raise
    except Exception as error:  # of the engine itself: a lost node, a time limit
        raise DataError(
            f"unit '{unit['name']}' was not finished by its executor ({type(error).__name__}: {error})",
            "every unit of work to finish",
            "see the logs of that job, then run again: finished units are kept",
        ) from error


@contextlib.contextmanager
def _local(num_jobs: int, done_dir: Path) -> Iterator[tuple[Callable, Callable]]:
    # Not fork: a forked child of a process with threads (torch has some) may wait for ever for a lock.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    threads = max(1, env.num_cores() // num_jobs)
    context = multiprocessing.get_context(method)
    ready, tell = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(num_jobs, mp_context=context, initializer=_start_worker, initargs=(threads, tell))
    listening: set[int] = set()
    try:
        yield pool.submit, functools.partial(_print_stacks, pool, ready, listening)
    finally:
        pool.shutdown(cancel_futures=True)
        ready.close()
        tell.close()


def _start_worker(threads: int, tell: Connection) -> None:
    """Shares the cores among the workers, allows stacks to be asked for, and ends the worker with its parent."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    if hasattr(signal, "SIGUSR2"):
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)
        tell.send(os.getpid())
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _print_stacks(pool: ProcessPoolExecutor, ready: Connection, listening: set[int]) -> None:
    """Stacks of this process and of the workers; those that are still starting would be killed by the signal."""
    faulthandler.dump_traceback(file=sys.__stderr__)
    while ready.poll():
        listening.add(ready.recv())
    for pid in listening & set(getattr(pool, "_processes", None) or {}):
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.kill(pid, signal.SIGUSR2)


@contextlib.contextmanager
def _dask(num_jobs: int, done_dir: Path) -> Iterator[tuple[Callable, Callable]]:
    distributed = require("distributed", "distributed", "--executor dask")
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if address:
        client = distributed.Client(address)
    else:
        client = distributed.Client(n_workers=num_jobs, threads_per_worker=1, dashboard_address=None)
    logger.info("Dask: %s", client)
    with client:
        submit = functools.partial(client.submit, pure=False, retries=1)
        yield submit, lambda: logger.warning("%s", client.call_stack())


@contextlib.contextmanager
def _slurm(num_jobs: int, done_dir: Path) -> Iterator[tuple[Callable, Callable]]:
    """Slurm jobs through submitit; SPEAR_SLURM_PARTITION, _MINUTES, _CPUS and _MEMORY_GB say what to ask for."""
    submitit = require("submitit", "submitit", "--executor slurm")
    setting = {name: os.environ.get(f"SPEAR_SLURM_{name}") for name in ("PARTITION", "MINUTES", "CPUS", "MEMORY_GB")}
    # SPEAR_SLURM_CLUSTER=local or debug runs the same jobs without Slurm, to try a set-up out.
    jobs = submitit.AutoExecutor(done_dir / "slurm", cluster=os.environ.get("SPEAR_SLURM_CLUSTER"))
    jobs.update_parameters(
        timeout_min=int(setting["MINUTES"] or 240),
        cpus_per_task=int(setting["CPUS"] or 1),
        mem_gb=float(setting["MEMORY_GB"] or 4),
        slurm_array_parallelism=num_jobs,
        **({"slurm_partition": setting["PARTITION"]} if setting["PARTITION"] else {}),
    )
    yield jobs.submit, lambda: logger.warning("logs of the jobs are in %s", done_dir / "slurm")
