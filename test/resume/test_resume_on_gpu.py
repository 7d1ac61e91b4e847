"""Runs on a GPU through the command, alone and under torchrun: killed and resumed they go on where they were."""

import math
import subprocess
import sys

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]


def losses(rows: list[dict]) -> list[float]:
    return [row["loss/speech/masked"] for row in rows if "lr" in row]


def test_a_killed_run_goes_on(train, tmp_path):
    undisturbed = losses(train(tmp_path / "whole", "--device", "cuda"))
    assert len(undisturbed) == 8 and all(math.isfinite(loss) for loss in undisturbed)
    train(tmp_path / "exp", "--device", "cuda", "--num-steps", "4")
    resumed = losses(train(tmp_path / "exp", "--device", "cuda"))
    # Sums on a GPU are taken in changing order, so bits may differ.
    assert resumed == pytest.approx(undisturbed, rel=2e-2)
    assert resumed[:4] == pytest.approx(undisturbed[:4], rel=1e-2)


def test_the_first_losses_are_those_of_the_cpu(train, tmp_path):
    quiet = ("--num-steps", "2", "--precision", "fp32")
    found, expected = (losses(train(tmp_path / name, "--device", name, *quiet)) for name in ("cuda", "cpu"))
    # Dropout and layer skips are drawn on the device, so they are not the same ones.
    assert found == pytest.approx(expected, rel=5e-2)


def test_under_torchrun(tmp_path, config_file):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    command += ["-m", "spear.bin.main", "train", "--config", str(config_file), "--exp-dir", str(tmp_path / "exp")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on cuda:0" in done.stdout + done.stderr
