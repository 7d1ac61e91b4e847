"""A signal ends a rank that waits for another one for ever: its main thread sits in a collective and runs no Python."""

import signal
import time
from pathlib import Path

import pytest

from spear.train import checkpoint

pytestmark = pytest.mark.slow


def test_a_rank_that_waits_for_a_stopped_one_follows_sigterm(start_ranks, tmp_path):
    exp_dir = tmp_path / "exp"
    ranks = start_ranks(exp_dir, "--num-steps", "100000", "--rehearsal-batches", "0")
    try:
        end = time.monotonic() + 240
        while not checkpoint.steps(exp_dir) and time.monotonic() < end:
            time.sleep(0.1)
        ranks[1].send_signal(signal.SIGSTOP)
        time.sleep(2)
        ranks[0].send_signal(signal.SIGTERM)
        assert ranks[0].wait(timeout=240) == 85, Path(f"{exp_dir}.log").read_text()[-3000:]
        log = (exp_dir / "logs" / "train.log").read_text()
        assert "ends because of SIGTERM: it is " in log and "cannot save" in log
        assert (exp_dir / "logs" / "stacks.rank0.txt").exists()
        assert checkpoint.newest(exp_dir)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
