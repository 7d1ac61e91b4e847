"""Faults put into real runs of one and two processes: all end in time, nothing is lost, the message names the cause."""

import json
import re
import time
from pathlib import Path

import pytest

from spear.train import checkpoint

pytestmark = pytest.mark.slow


def log_of(exp_dir: Path) -> str:
    """Everything that the processes printed."""
    return Path(f"{exp_dir}.log").read_text()


def test_an_error_on_one_rank_ends_all_with_that_error_first(start, tmp_path):
    exp_dir = tmp_path / "exp"
    began = time.monotonic()
    status = start(exp_dir, "--num-steps", "100000", processes=2, fault=("raise", 1, 3)).wait(timeout=120)
    text = log_of(exp_dir)
    assert status != 0 and time.monotonic() - began < 60, text[-3000:]
    errors = [line for line in text.splitlines() if re.search(r"rank \d: error|Traceback|ends because", line)]
    assert errors[0].startswith("rank 1: error"), text[-3000:]
    assert "ValueError: the injected error" in text
    assert checkpoint.steps(exp_dir)[-1] == 3


def test_a_killed_rank_ends_the_run_and_it_resumes_exactly(start, train, undisturbed_two_ranks, tmp_path):
    exp_dir = tmp_path / "exp"
    began = time.monotonic()
    assert start(exp_dir, processes=2, fault=("kill", 1, 3)).wait(timeout=120) != 0
    assert time.monotonic() - began < 60
    assert train(exp_dir, processes=2) == undisturbed_two_ranks


def test_ranks_with_different_code_are_refused_with_a_table(start, tmp_path):
    exp_dir = tmp_path / "exp"
    assert start(exp_dir, processes=2, fault=("other_code", 1, 0)).wait(timeout=120) != 0
    text = log_of(exp_dir)
    assert len(re.findall(r"rank \d: error\n  found: ranks that differ in code", text)) == 1
    assert re.search(r"ranks  code\n\s+0 +[0-9a-f]{12}\n\s+1 +f{12}\n", text), text[-2000:]
    assert "to fix: bring all nodes to the same commit" in text and not checkpoint.steps(exp_dir)


def test_a_rank_that_hangs_leaves_its_stack(start, tmp_path):
    exp_dir = tmp_path / "exp"
    process = start(exp_dir, "--timeout-minutes", "0.2", processes=2, fault=("hang", 1, 2))
    assert process.wait(timeout=120) != 0
    stacks = (exp_dir / "logs" / "stacks.rank1.txt").read_text()
    assert "rank 1: " in stacks and "faulty.py" in stacks and "inject" in stacks
    assert "the stacks of its threads are in" in log_of(exp_dir)


def test_an_infinite_gradient_on_one_rank_skips_the_step_on_all_and_names_the_cuts(start, metrics_of, tmp_path):
    exp_dir = tmp_path / "exp"
    process = start(exp_dir, "--num-steps", "4", processes=2, fault=("infinite", 1, 1))
    assert process.wait(timeout=120) == 0, log_of(exp_dir)[-3000:]
    text = log_of(exp_dir)
    [line] = {line.split("] ")[1] for line in text.splitlines() if "skipped" in line and "WARNING" in line}
    assert re.search(r"step 1 skipped: gradient not finite; cuts .*cut\d+.*\(1 so far\)", line)
    losses = [value for row in metrics_of(exp_dir) for key, value in row.items() if key.startswith("loss/")]
    assert len(metrics_of(exp_dir)) == 5 and all(value < 20 for value in losses)


@pytest.mark.parametrize("fault, number", [("signal_in_validation", 4), ("signal_in_saving", 2)])
def test_a_signal_in_another_phase_saves_and_resumes_exactly(start, train, undisturbed, tmp_path, fault, number):
    exp_dir = tmp_path / "exp"
    assert start(exp_dir, fault=(fault, 0, number)).wait(timeout=120) == 85, log_of(exp_dir)[-3000:]
    assert checkpoint.steps(exp_dir)[-1] in (number, number + 1)
    assert train(exp_dir) == undisturbed[0]


def test_a_signal_in_the_validation_of_one_of_two_ranks_stops_both(start, train, undisturbed_two_ranks, tmp_path):
    exp_dir = tmp_path / "exp"
    process = start(exp_dir, processes=2, fault=("signal_in_validation", 1, 4))
    process.wait(timeout=120)
    assert checkpoint.steps(exp_dir)[-1] == 4 and checkpoint.newest(exp_dir)[1]["valid_pending"]
    assert not any("valid/loss/speech/masked" in json.loads(line) for line in open(exp_dir / "metrics.jsonl"))
    assert train(exp_dir, processes=2) == undisturbed_two_ranks


def test_no_warning_of_torch_under_two_ranks(train, tmp_path):
    train(tmp_path / "exp", "--num-steps", "1", processes=2)
    text = log_of(tmp_path / "exp")
    assert "UserWarning" not in text and "FutureWarning" not in text, text[-3000:]
