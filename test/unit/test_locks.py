"""A directory has one writer at a time, and a dead one's lock needs no hand."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from spear import locks

_HOLD = """
import sys, time
from spear import locks
with locks.hold(sys.argv[1], "spear test", watch_seconds=1):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _start(directory, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(directory), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process


def test_the_second_process_is_refused_and_told_who_holds(tmp_path):
    first = _start(tmp_path, 60)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(locks.LockedError, match=f"written by spear test, process {first.pid} on "):
        with locks.hold(tmp_path, "spear train"):
            pass
    first.kill()
    first.wait()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path):
    first = _start(tmp_path, 60)
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGKILL)  # not waited for yet: a zombie is dead, too
    time.sleep(0.2)
    with locks.hold(tmp_path, "spear train"):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    first.wait()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_got_the_number_of_a_dead_one_is_not_its_holder(tmp_path):
    with locks.hold(tmp_path, "spear train"):
        content = json.loads((tmp_path / ".lock").read_text())
    # Not this process' own start: the parent may have started within the same tick of the clock, a hundredth second.
    dead = content | {"process": os.getppid(), "started": content["started"] + "0", "token": "other"}
    (tmp_path / ".lock").write_text(json.dumps(dead))
    with locks.hold(tmp_path, "spear train"):
        pass


def test_a_holder_on_another_machine_lives_while_it_renews_the_file(tmp_path):
    with locks.hold(tmp_path, "x"):
        content = json.loads((tmp_path / ".lock").read_text())
    away = content | {"machine": "other", "host": "node7", "token": "other"}
    (tmp_path / ".lock").write_text(json.dumps(away))
    beating = subprocess.Popen(
        [sys.executable, "-c", f"import os, time\nwhile True: os.utime({str(tmp_path / '.lock')!r}); time.sleep(0.1)"]
    )
    try:
        with pytest.raises(locks.LockedError, match="on node7"), locks.hold(tmp_path, "y", watch_seconds=5):
            pass
    finally:
        beating.kill()
        beating.wait()
    with locks.hold(tmp_path, "y", watch_seconds=1):  # nothing beats any more
        pass


def test_of_many_that_find_a_dead_lock_one_takes_it(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"machine": locks._machine(), "process": 2**22 + 1, "started": "1"}))
    processes = [_start(tmp_path, 300) for _ in range(6)]
    while sum(process.poll() is not None for process in processes) < 5:
        time.sleep(0.05)
    (holder,) = [process for process in processes if process.poll() is None]
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    errors = [process.communicate()[1] for process in processes]
    assert sum("LockedError" in error for error in errors) == 5


def test_a_process_that_holds_a_directory_may_ask_again(tmp_path):
    with locks.hold(tmp_path, "outer"), locks.hold(tmp_path / ".." / tmp_path.name, "inner"):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_damaged_lock_file_does_not_stay_for_ever(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\x00\xff")
    with locks.hold(tmp_path, "x", watch_seconds=1):
        pass
