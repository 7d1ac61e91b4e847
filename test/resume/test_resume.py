"""A run that is killed and started again goes on as if nothing had happened, bit for bit."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from spear.errors import CheckpointError
from spear.train import checkpoint

pytestmark = pytest.mark.slow


def wait_for_step(exp_dir: Path, step: int, process) -> None:
    """Waits until the log has the line of a step."""
    path = exp_dir / "metrics.jsonl"
    for _ in range(24000):  # four minutes: the machine may be busy
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        assert process.poll() is None, Path(f"{exp_dir}.log").read_text()[-3000:]
        time.sleep(0.01)
    raise AssertionError(f"step {step} never came")


def logged_steps(exp_dir: Path) -> list[int]:
    """Steps in metrics.jsonl, without the rows of validation."""
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "lr" in row]


@pytest.mark.parametrize("step, workers", [(1, 0), (3, 2), (4, 0), (7, 0)])
def test_kill_9_and_resume_gives_the_losses_of_an_undisturbed_run(start, train, undisturbed, tmp_path, step, workers):
    expected, expected_dir = undisturbed
    exp_dir = tmp_path / "exp"
    process = start(exp_dir, "--num-workers", str(workers))
    wait_for_step(exp_dir, step, process)
    process.kill()  # at this moment a checkpoint is being written, more often than not
    process.wait()
    assert train(exp_dir, "--num-workers", str(workers)) == expected
    for name, tensor in load_file(expected_dir / "final/model.safetensors").items():
        assert (load_file(exp_dir / "final/model.safetensors")[name] == tensor).all(), name


def test_what_exact_whiteners_remember_survives(train, tmp_path):
    exact = ("--model.regularisers", "exact")
    whole = train(tmp_path / "whole", *exact)
    train(tmp_path / "parts", *exact, "--num-steps", "4")
    assert train(tmp_path / "parts", *exact)[-4:] == whole[-4:]
    newest = [checkpoint.newest(tmp_path / name)[0] for name in ("whole", "parts")]
    first, second = (load_file(directory / "model.safetensors") for directory in newest)
    assert all((first[name] == second[name]).all() for name in first)
    [memory] = checkpoint.verify(newest[0])["whitening"]
    assert {"0", "1"} == set(memory)


def test_sigterm_saves_and_exits_with_85(start, train, undisturbed, tmp_path):
    exp_dir = tmp_path / "exp"
    process = start(exp_dir, "--checkpoint-every-steps", "1000")
    wait_for_step(exp_dir, 3, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 85
    saved = checkpoint.steps(exp_dir)
    assert saved and saved[-1] >= 3
    rows = train(exp_dir, "--checkpoint-every-steps", "1000")
    assert rows == undisturbed[0]


def test_a_signal_to_one_rank_stops_both(start_ranks, tmp_path):
    exp_dir = tmp_path / "exp"
    # More steps than there is time for: the signal ends the run, whatever step it finds.
    ranks = start_ranks(exp_dir, "--checkpoint-every-steps", "1000", "--num-steps", "100000")
    wait_for_step(exp_dir, 2, ranks[0])
    ranks[1].send_signal(signal.SIGTERM)
    log = Path(f"{exp_dir}.log")
    assert [rank.wait(timeout=120) for rank in ranks] == [85, 85], log.read_text()[-3000:]
    [step] = checkpoint.steps(exp_dir)
    assert step >= 2 and checkpoint.newest(exp_dir)[1]["step"] == step
    assert logged_steps(exp_dir) == list(range(1, step + 1))  # it stopped at once after the step in which it came
    ranks = start_ranks(exp_dir, "--num-steps", str(step + 2))
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0], log.read_text()[-3000:]
    assert logged_steps(exp_dir) == list(range(1, step + 3))
    # The average over the last 3 steps would begin at a step that has no checkpoint; the nearest one serves.
    assert (exp_dir / "final/model.safetensors").exists()
    assert f"no checkpoint of step {step - 1}" in log.read_text()


def test_truncated_newest_checkpoint_is_passed_over(train, undisturbed, tmp_path, caplog):
    exp_dir = tmp_path / "exp"
    train(exp_dir, "--num-steps", "5", "--average-last-steps", "0")
    newest = checkpoint.directory_of(exp_dir, 5)
    data = (newest / "optimizer.safetensors").read_bytes()
    (newest / "optimizer.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="optimizer.safetensors is truncated"):
        checkpoint.verify(newest)
    directory, meta = checkpoint.newest(exp_dir)
    assert meta["step"] == 4 and "truncated" in caplog.text


def test_another_setting_is_refused_with_both_values(start, train, tmp_path):
    exp_dir = tmp_path / "exp"
    train(exp_dir, "--num-steps", "2")
    assert start(exp_dir, "--optimizer.base-lr", "0.01").wait(timeout=120) == 1
    text = Path(f"{exp_dir}.log").read_text()
    assert "optimizer.base_lr = 0.01" in text and "0.045" in text and "to fix:" in text


def test_two_ranks_and_accumulation_see_the_same_data(train, tmp_path):
    """Two ranks with accumulation 1 and one rank with accumulation 2: the same losses within rounding."""
    one = train(tmp_path / "one", "--accumulation", "2", "--num-steps", "3")
    two = train(tmp_path / "two", "--num-steps", "3", processes=2)
    losses = [[row[key] for row in rows for key in sorted(row) if key.startswith("loss/")] for rows in (one, two)]
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_losses_fall(undisturbed):
    """On the held-out cuts, which are the same every time: single training batches of this size are noise."""
    rows = [row for row in undisturbed[0] if "valid/loss/speech/masked" in row]
    for stream in ("speech", "best_rq"):
        key = f"valid/loss/{stream}/masked"
        assert rows[-1][key] < rows[0][key] - 0.3, key


def test_kill_9_as_a_step_begins_and_in_the_middle_of_saving(config_file, tmp_path):
    """A sample of what `sweep.py` does to every step of twenty, with 0, 2 and 4 workers and 1 and 2 ranks."""
    command = [sys.executable, str(Path(__file__).with_name("sweep.py")), str(config_file), str(tmp_path)]
    command += ["--workers", "0,2", "--steps", "6", "--kills", "2,5", "--more", "--valid-every-steps 10"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(re.findall("4 kills, .* equal", found.stdout)) == 2
