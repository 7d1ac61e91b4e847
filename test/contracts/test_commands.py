"""Every command and script answers --help, from any directory, and refuses what it does not know."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import repository

from spear.bin.main import commands

PYTHON_SCRIPTS = [path for path in repository.python_files("egs", "local") if path.parent.name != "conf"]
SHELL_SCRIPTS = [
    path for path in repository.tracked() if path.suffix == ".sh" and path.name in ("run.sh", "prepare.sh")
]
PYTHON_CALLS = {f"spear {name}": ["", name] for name in commands()}
PYTHON_CALLS |= {repository.name(path): [str(path)] for path in PYTHON_SCRIPTS}
CALLS = list(PYTHON_CALLS) + [repository.name(path) for path in SHELL_SCRIPTS]
FLAGS = ("--help", "--no-such-flag=1")
# Imports what takes seconds once, then answers every call in a child of its own, as a new process would.
_ANSWER = """
import json, os, runpy, sys, traceback
import spear.bin, spear.bin.main, spear.train.main, spear.evaluate.run
out, calls = sys.argv[1], json.load(sys.stdin)
for number, (script, *words) in enumerate(calls):
    if (child := os.fork()) == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{out}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        code = 0
        try:
            if script:
                sys.argv, sys.path[0] = [script, *words], os.path.dirname(script)
                runpy.run_path(script, run_name="__main__")
            else:
                code = spear.bin.main.main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Standard output, standard error and code of each call with --help and with an unknown flag, from elsewhere."""
    elsewhere, out = tmp_path_factory.mktemp("elsewhere"), tmp_path_factory.mktemp("out")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = {(name, flag): [*call, flag] for name, call in PYTHON_CALLS.items() for flag in FLAGS}
    with open(out / "codes", "w") as codes:
        subprocess.run(
            [sys.executable, "-c", _ANSWER, str(out)],
            input=json.dumps(list(words.values())),
            text=True,
            stdout=codes,
            cwd=elsewhere,
            env=environment | {"PYTHONPATH": str(repository.ROOT)},
            timeout=400,
            check=True,
        )
    found = {}
    for number, (call, code) in enumerate(zip(words, (out / "codes").read_text().split(), strict=True)):
        texts = [(out / f"{number}.{name}").read_text() for name in ("out", "err")]
        found[call] = subprocess.CompletedProcess(words[call], int(code), *texts)

    def ask(call) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", str(repository.ROOT / call[0]), call[1]],
            capture_output=True,
            text=True,
            cwd=elsewhere,
            env=environment,
            timeout=120,
        )

    calls = [(repository.name(path), flag) for path in SHELL_SCRIPTS for flag in FLAGS]
    with ThreadPoolExecutor(2) as pool:
        found |= dict(zip(calls, pool.map(ask, calls)))
    assert not list(elsewhere.iterdir()), "asking for help left files behind"
    return found


def test_a_command_starts_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "spear.bin.main", "doctor", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository.ROOT)},
    )
    assert done.returncode == 0 and "doctor" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CALLS)
def test_help(answers, name):
    done = answers[name, "--help"]
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) >= 3, done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", CALLS)
def test_unknown_flags_are_refused(answers, name):
    done = answers[name, "--no-such-flag=1"]
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    # A script that lacks an argument may complain of that first.
    assert "no-such-flag" in done.stderr.replace("_", "-") or "are required" in done.stderr, done.stderr


def test_scripts_can_be_executed():
    for path in [*SHELL_SCRIPTS, repository.ROOT / ".ci" / "run"]:
        assert os.access(path, os.X_OK), path
