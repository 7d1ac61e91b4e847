"""For all tests: one thread in this process, quiet logs of libraries, no writing outside temporary folders."""

import os
import re
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

LARGE_GOLDEN = Path(__file__).resolve().parents[1].parent / "shared" / "golden"

# Processes that tests start inherit these; test/run.sh sets them too, this is for a bare `pytest`.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def no_torchrun_environment(monkeypatch):
    """Tests that run under somebody's torchrun or SLURM job must not believe that they are one of its ranks."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SPEAR_TRACEBACK", raising=False)
    sys.stdout.flush()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tests that do not depend on the device compute: the CPU, or what `test/run.sh --device` says."""
    chosen = torch.device(os.environ.get("SPEAR_TEST_DEVICE") or "cpu")
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # torch's default rounds inputs of convolutions to ten bits
    return chosen


@pytest.fixture(scope="session")
def free_port():
    """Returns a function that finds a port of this machine that nothing listens on."""

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return free_port


SKIP_KINDS = {
    "for a GPU": r"no GPU|cuda",
    "for real recordings": r"real-mini|real recordings|shared/data|shared/cases",
    "for a package": r"could not import|no module|pip install|needs the package",
}
"""Why tests are skipped, and how the reasons of each kind read."""

_skipped: Counter[str] = Counter()


def skip_kind(reason: str) -> str:
    """The kind of a reason to skip; what is of none is told as it is."""
    return next((kind for kind, words in SKIP_KINDS.items() if re.search(words, reason, re.I)), f"because: {reason}")


def pytest_terminal_summary(terminalreporter):
    """Counts the skipped tests by kind (with pytest-xdist this process has the reports of all)."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped[skip_kind(reason.removeprefix("Skipped: "))] += 1


def pytest_unconfigure(config):
    """The last lines of a run: what it did not test."""
    if hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("terminalreporter"):
        return
    if _skipped:
        rows = sorted(_skipped.items(), key=lambda row: (row[0] not in SKIP_KINDS, -row[1], row[0]))
        print("skipped: " + ", ".join(f"{count} {kind}" for kind, count in rows))
    if not LARGE_GOLDEN.is_dir():
        print("golden numbers: the compact set, test/golden/data (whole encoders: the large one, ../shared/golden)")
