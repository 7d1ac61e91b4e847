"""`parallel: fsdp` on two ranks: the losses of DDP, exact resumes, and checkpoints that go either way."""

import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from spear.train import checkpoint

pytestmark = pytest.mark.slow
SHARDED = ("--parallel", "fsdp")


def losses(rows: list[dict], steps: range = range(9), training: bool = False) -> list[float]:
    """All losses of some steps, in order, or those of training alone."""
    chosen = [row for row in rows if row["step"] in steps and ("lr" in row or not training)]
    return [row[key] for row in chosen for key in sorted(row) if "loss/" in key]


def shapes(exp_dir, step: int) -> dict[str, list[int]]:
    """Shape of every tensor in a checkpoint, by file and name."""
    found = {}
    for path in sorted(checkpoint.directory_of(exp_dir, step).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {f"{path.stem}/{name}": file.get_slice(name).get_shape() for name in file.keys()}
    return found


@pytest.fixture(scope="module")
def sharded(train, tmp_path_factory):
    """Metrics and directory of an undisturbed run of two ranks that share the parameters."""
    exp_dir = tmp_path_factory.mktemp("sharded") / "exp"
    return train(exp_dir, *SHARDED, "--keep-checkpoints", "8", processes=2), exp_dir


def test_losses_are_those_of_ddp(sharded, undisturbed_two_ranks):
    rows, _ = sharded
    assert [row["step"] for row in rows] == [row["step"] for row in undisturbed_two_ranks]
    assert losses(rows) == pytest.approx(losses(undisturbed_two_ranks), rel=1e-5)
    clipped = [[row["grad_norm"] for row in of if "lr" in row] for of in (rows, undisturbed_two_ranks)]
    assert clipped[0] == pytest.approx(clipped[1], rel=1e-3)


def test_a_start_from_another_encoder_is_that_of_ddp(train, sharded, tmp_path):
    options = ("--num-steps", "2", "--init-from", str(sharded[1]))
    rows = [train(tmp_path / name, *options, *more, processes=2) for name, more in (("ddp", ()), ("fsdp", SHARDED))]
    assert losses(rows[1]) == pytest.approx(losses(rows[0]), rel=1e-5)
    # The same seed and batches, from random weights:
    assert losses(rows[0], range(2)) != pytest.approx(losses(sharded[0], range(2)), rel=1e-3)


def test_an_infinite_gradient_on_one_rank_skips_the_step_on_all(start, sharded, tmp_path):
    exp_dir = tmp_path / "exp"
    arguments = (*SHARDED, "--num-steps", "4", "--accumulation", "2", "--activation-checkpointing", "true")
    process = start(exp_dir, *arguments, processes=2, fault=("infinite", 1, 1))
    assert process.wait(timeout=120) == 0
    log = Path(f"{exp_dir}.log").read_text()
    assert "step 1 skipped: gradient not finite" in log and "step 2 skipped" not in log


def test_a_killed_rank_and_resume_gives_the_losses_of_an_undisturbed_run(start, train, sharded, tmp_path):
    exp_dir = tmp_path / "exp"
    assert start(exp_dir, *SHARDED, processes=2, fault=("kill", 1, 3)).wait(timeout=120) != 0
    assert train(exp_dir, *SHARDED, processes=2) == sharded[0]


def test_checkpoints_go_from_sharded_to_whole_and_back(train, sharded, tmp_path):
    rows, source = sharded
    exp_dir = tmp_path / "exp"
    shutil.copytree(checkpoint.directory_of(source, 4), checkpoint.directory_of(exp_dir, 4))
    options = ("--keep-checkpoints", "8")
    train(exp_dir, "--num-steps", "5", *options, processes=2)
    found = train(exp_dir, "--num-steps", "6", *SHARDED, *options, processes=2)
    expected = losses(rows, range(5, 7), training=True)
    assert len(expected) > 4 and losses(found, range(5, 7), training=True) == pytest.approx(expected, rel=1e-5)
    train(exp_dir, "--num-steps", "7", *options)  # one process
    for number in (5, 6, 7):
        assert shapes(exp_dir, number) == shapes(source, number)
