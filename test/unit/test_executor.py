"""Units of work: results, done-files, restart after a failure and after a kill, stacks of a hanging worker."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from spear import errors, fs
from spear.executor import _print_stacks, run_units

# A real module, because workers import the function by its name.
WORK = """
import os, time
from pathlib import Path
from spear.errors import DataError

def square(unit):
    log = Path(unit["log"])
    with open(log, "a") as handle:
        handle.write(unit["name"] + "\\n")
    time.sleep(unit.get("seconds", 0))
    if unit.get("fails") == "user":
        raise DataError("a bad file", "a good file", "replace it")
    if unit.get("fails") == "bug" and not Path(unit["log"] + ".repaired").exists():
        raise ValueError("a bug")
    if unit.get("fails") == "die":
        os._exit(9)
    return {"square": unit["number"] ** 2, "threads": os.environ.get("OMP_NUM_THREADS")}
"""


@pytest.fixture
def square(tmp_path, monkeypatch):
    name = f"work_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return __import__(name).square


def make_units(tmp_path, count=4, **extra):
    return [{"name": f"unit-{n}", "number": n, "log": str(tmp_path / "log"), **extra} for n in range(count)]


def runs(tmp_path) -> list[str]:
    return (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_results_in_order_and_only_once(tmp_path, square, num_jobs):
    units = make_units(tmp_path)
    for _ in range(2):
        results = run_units(square, units, tmp_path / "done", num_jobs=num_jobs, label="squares")
        assert [result["square"] for result in results] == [0, 1, 4, 9]
    assert sorted(runs(tmp_path)) == ["unit-0", "unit-1", "unit-2", "unit-3"]


def test_a_changed_unit_or_a_damaged_done_file_runs_again(tmp_path, square):
    units = make_units(tmp_path)
    run_units(square, units, tmp_path / "done")
    units[1]["number"] = 10
    (tmp_path / "done" / "unit-2.json").write_text("{")
    results = run_units(square, units, tmp_path / "done")
    assert [result["square"] for result in results] == [0, 100, 4, 9]
    assert runs(tmp_path)[4:] == ["unit-1", "unit-2"]


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_failing_unit_is_named_and_the_others_are_kept(tmp_path, square, num_jobs):
    units = make_units(tmp_path)
    units[2]["fails"] = "bug"
    with pytest.raises(errors.DataError, match="unit 'unit-2' failed with ValueError: a bug"):
        run_units(square, units, tmp_path / "done", num_jobs=num_jobs)
    before = len(runs(tmp_path))
    (tmp_path / "log.repaired").touch()
    results = run_units(square, units, tmp_path / "done", num_jobs=num_jobs)
    assert [result["square"] for result in results] == [0, 1, 4, 9]
    assert len(runs(tmp_path)) <= before + 2


def test_the_three_parts_of_a_users_mistake_survive(tmp_path, square):
    units = make_units(tmp_path)
    units[0]["fails"] = "user"
    with pytest.raises(errors.DataError) as caught:
        run_units(square, units, tmp_path / "done", num_jobs=2)
    assert (caught.value.expected, caught.value.fix) == ("a good file", "replace it")
    assert "unit-0" in caught.value.found


def test_a_dead_worker_is_reported(tmp_path, square):
    units = make_units(tmp_path)
    units[1]["fails"] = "die"
    with pytest.raises(errors.DataError, match="worker process died.*unit-1"):
        run_units(square, units, tmp_path / "done", num_jobs=2)


@pytest.mark.parametrize("name", [None, "", "a/b", ".hidden", "unit-0"])
def test_unfit_names_are_refused(tmp_path, square, name):
    with pytest.raises(errors.ConfigError, match="different name"):
        run_units(square, [*make_units(tmp_path, 1), {"name": name}], tmp_path / "done")


def test_no_units_and_unknown_executors(tmp_path, square):
    assert run_units(square, [], tmp_path / "done", num_jobs=2) == []
    with pytest.raises(errors.ConfigError, match="local, dask, slurm"):
        run_units(square, [], tmp_path / "done", executor="cloud")


@pytest.mark.parametrize("executor, package", [("dask", "distributed"), ("slurm", "submitit")])
def test_a_missing_engine_gives_the_install_command(tmp_path, square, monkeypatch, executor, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.MissingPackageError, match=f"pip install '{package}'"):
        run_units(square, make_units(tmp_path), tmp_path / "done", executor=executor)


def test_dask(tmp_path, square):
    pytest.importorskip("distributed")
    results = run_units(square, make_units(tmp_path), tmp_path / "done", executor="dask", num_jobs=2)
    assert [result["square"] for result in results] == [0, 1, 4, 9]


def test_slurm_jobs_without_slurm(tmp_path, square, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("SPEAR_SLURM_CLUSTER", "local")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    results = run_units(square, make_units(tmp_path, 2), tmp_path / "done", executor="slurm", num_jobs=2)
    assert [result["square"] for result in results] == [0, 1]


def start_script(tmp_path, square, body: str) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"from {square.__module__} import square\nfrom spear.executor import run_units\n"
        f"if __name__ == '__main__':\n    {body}\n"
    )
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_killed_at_some_moment_and_started_again(tmp_path, square, num_jobs):
    units = make_units(tmp_path, 6, seconds=0.1)
    (tmp_path / "units.json").write_text(json.dumps(units))
    done = tmp_path / "done"
    process = start_script(
        tmp_path,
        square,
        f"import json; run_units(square, json.load(open({str(tmp_path / 'units.json')!r})), {str(done)!r},"
        f" num_jobs={num_jobs})",
    )
    wait_for(lambda: len(runs(tmp_path)) >= 3)
    process.kill()
    process.communicate()
    time.sleep(0.5)  # workers leave when their parent is gone
    finished = {path.stem for path in fs.finished(done, "*.json")}
    started = len(runs(tmp_path))
    assert len(finished) < 6
    results = run_units(square, units, done, num_jobs=num_jobs)
    assert [result["square"] for result in results] == [n * n for n in range(6)]
    assert len(runs(tmp_path)) == started + 6 - len(finished)


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_unit_without_progress_shows_its_stack(tmp_path, square, num_jobs):
    units = make_units(tmp_path, 2, seconds=1.5)
    process = start_script(
        tmp_path,
        square,
        f"run_units(square, {units!r}, {str(tmp_path / 'done')!r}, num_jobs={num_jobs}, watch_seconds=0.5)",
    )
    _, text = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "in square" in text
    assert Path(square.__code__.co_filename).name in text


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no SIGUSR2 on this system")
def test_a_worker_that_is_still_starting_is_not_killed_by_asking_for_its_stack():
    ready, tell = multiprocessing.Pipe(duplex=False)
    ours = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    pool = SimpleNamespace(_processes={process.pid: process for process in ours})
    try:
        tell.send(ours[0].pid)  # which has no handler, so that the signal shows
        _print_stacks(pool, ready, set())
        assert ours[0].wait(10) == -signal.SIGUSR2 and ours[1].poll() is None
    finally:
        for process in ours:
            process.kill()
            process.wait()


def test_workers_share_the_cores(tmp_path, square):
    before = signal.getsignal(signal.SIGINT)  # ignored already, where a shell started the tests in the background
    results = run_units(square, make_units(tmp_path, 2), tmp_path / "done", num_jobs=2)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {result["threads"] for result in results} == {str(max(1, cores // 2))}
    assert signal.getsignal(signal.SIGINT) is before
