"""For all tests: one thread in this process, quiet logs of libraries, no writing outside temporary folders."""

import os
import socket
import sys

import pytest
import torch

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
