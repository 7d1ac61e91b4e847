"""Faults put into real runs of one and two processes: all end in time, nothing is lost, the message names the cause."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from spear.train import checkpoint

pytestmark = pytest.mark.slow


def log_of(exp_dir: Path) -> str:
    """Everything that the processes printed."""
    return Path(f"{exp_dir}.log").read_text()


def end_of(process, exp_dir: Path, seconds: float) -> int:
    """Exit status; within 60 s of the fault, and `seconds` of the start, which takes long on a busy machine."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and "now: " not in log_of(exp_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process.wait(timeout=max(0.0, min(60.0, deadline - time.monotonic())))


def test_an_error_on_one_rank_ends_all_with_that_error_first(start, tmp_path):
    exp_dir = tmp_path / "exp"
    assert end_of(start(exp_dir, "--num-steps", "100000", processes=2, fault=("raise", 1, 3)), exp_dir, 180) != 0
    text = log_of(exp_dir)
    errors = [line for line in text.splitlines() if re.search(r"rank \d: error|Traceback|ends because", line)]
    assert errors[0].startswith("rank 1: error"), text[-3000:]
    assert "ValueError: the injected error" in text
    assert checkpoint.steps(exp_dir)[-1] in (2, 3)  # the last one may have been half written


def test_a_killed_rank_ends_the_run_and_it_resumes_exactly(start, train, undisturbed_two_ranks, tmp_path):
    exp_dir = tmp_path / "exp"
    assert end_of(start(exp_dir, processes=2, fault=("kill", 1, 3)), exp_dir, 120) != 0
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
    rows = [{key: value for key, value in row.items() if key.startswith("loss/")} for row in metrics_of(exp_dir)]
    losses = [row for row in rows if row]
    assert len(losses) == 4 and all(value < 20 for row in losses for value in row.values())


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


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_but_no_training(start, undisturbed, metrics_of, tmp_path):
    exp_dir = tmp_path / "exp"
    assert start(exp_dir, fault=("disk_full", 0, 3)).wait(timeout=120) == 0
    text = log_of(exp_dir)
    assert "step-00000004 could not be written" in text and "to fix: free space" in text
    assert metrics_of(exp_dir) == undisturbed[0]
    assert checkpoint.steps(exp_dir)[-1] == 8 and not list((exp_dir / "checkpoints").glob(".*"))


def test_a_disk_that_stays_full_ends_the_run_and_it_resumes_exactly(start, train, undisturbed, tmp_path):
    exp_dir = tmp_path / "exp"
    assert start(exp_dir, fault=("disk_full_for_ever", 0, 3)).wait(timeout=120) == 1
    text = log_of(exp_dir)
    assert "found: " in text and "expected: room for" in text and "it goes on from the last checkpoint" in text
    assert checkpoint.newest(exp_dir)[1]["step"] in (2, 3)  # the disk was full before the third was written
    assert train(exp_dir) == undisturbed[0]


def test_a_killed_loader_worker_is_replaced(start, undisturbed, metrics_of, tmp_path):
    exp_dir = tmp_path / "exp"
    process = start(exp_dir, "--num-workers", "2", fault=("kill_worker", 0, 2))
    assert process.wait(timeout=120) == 0, log_of(exp_dir)[-3000:]
    assert "a loader worker died" in log_of(exp_dir)
    assert metrics_of(exp_dir) == undisturbed[0]


def test_a_clock_that_goes_backwards_changes_nothing(start, undisturbed, metrics_of, tmp_path):
    exp_dir = tmp_path / "exp"
    assert start(exp_dir, fault=("clock_back", 0, 3)).wait(timeout=120) == 0, log_of(exp_dir)[-3000:]
    assert metrics_of(exp_dir) == undisturbed[0]


def test_missing_recordings_are_left_out_and_named_and_truncated_tokens_refused(data_dir, start, train, tmp_path):
    damaged = tmp_path / "data"
    shutil.copytree(data_dir, damaged)
    for path in (damaged / "raw").glob("cut1?.wav"):
        path.unlink()
    assert train(tmp_path / "exp", "--data-dir", str(damaged))[-1]["step"] == 8
    text = log_of(tmp_path / "exp")
    assert re.search(r"skipped cut1\d: .*cut1\d\.wav", text), text[-3000:]
    [shard] = (damaged / "tokens/speech").glob("*.npy")
    data = shard.read_bytes()
    shard.write_bytes(data[: 3 * len(data) // 4])
    assert start(tmp_path / "other", "--data-dir", str(damaged)).wait(timeout=120) == 1
    text = log_of(tmp_path / "other")
    assert re.search(r"found: .*tokens-00000\.npy has \d+ bytes", text) and "to fix: " in text, text[-3000:]
