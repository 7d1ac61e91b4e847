"""Every command and script answers --help, from any directory, and refuses what it does not know."""

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
CALLS = {f"spear {name}": [sys.executable, "-m", "spear.bin.main", name] for name in commands()}
CALLS |= {repository.name(path): [sys.executable, str(path)] for path in PYTHON_SCRIPTS}
CALLS |= {repository.name(path): ["bash", str(path)] for path in SHELL_SCRIPTS}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Standard output, standard error and code of each call with --help and with an unknown flag, from elsewhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def ask(call: tuple[str, str]) -> subprocess.CompletedProcess:
        words = [*CALLS[call[0]], call[1]]
        return subprocess.run(words, capture_output=True, text=True, cwd=elsewhere, env=environment, timeout=120)

    calls = [(name, flag) for name in CALLS for flag in ("--help", "--no-such-flag=1")]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(calls, pool.map(ask, calls)))
    assert not list(elsewhere.iterdir()), "asking for help left files behind"
    return found


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
