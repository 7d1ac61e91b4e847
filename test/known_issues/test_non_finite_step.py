"""Losses that become NaN in the middle of a run: the step is skipped and its cuts are named, the model stays finite.

Forums are full of runs that ended days ago with every weight NaN, from one broken batch. Here such a step leaves the
parameters finite, the log and a file say which cuts it had, and training stops only when they keep coming.
"""

import json
import subprocess
import sys

import pytest
import torch

from spear.errors import DataError
from spear.optim import ScaledAdam, load_optimizer_tensors, optimizer_tensors, parameter_groups
from spear.train.health import NonFiniteSteps


def make():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    return model, ScaledAdam(parameter_groups(model, 0.01), lr=0.01)


def step(model, optimizer, value: float) -> None:
    optimizer.zero_grad()
    (model(torch.full((2, 6), value)) ** 2).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_step_is_skipped_and_its_cuts_are_named(tmp_path, caplog, value):
    model, optimizer = make()
    health = NonFiniteSteps(20, tmp_path)
    for number in range(8):
        step(model, optimizer, value if number == 4 else 1.0)
        health.check(optimizer.num_nonfinite, number, [f"cut-{number}-a", f"cut-{number}-b"])
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1 and "step 4 skipped" in warnings[0] and "cut-4-a, cut-4-b" in warnings[0]
    assert model(torch.ones(1, 6)).isfinite().all()


def test_training_stops_when_they_keep_coming_and_lists_the_cuts(tmp_path):
    model, optimizer = make()
    health = NonFiniteSteps(3, tmp_path)
    with pytest.raises(DataError, match="(?s)3 steps with non-finite gradients.*to fix"):
        for number in range(10):
            step(model, optimizer, float("nan") if number % 2 else 1.0)
            health.check(optimizer.num_nonfinite, number, [f"cut-{number}"])
    rows = [json.loads(line) for line in (tmp_path / "non_finite_steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 3, 5] and rows[0]["ids"] == ["cut-1"]


def test_steps_skipped_before_a_resume_are_not_reported_again(tmp_path, caplog):
    model, optimizer = make()
    for value in (1.0, float("nan"), 1.0):
        step(model, optimizer, value)
    tensors, numbers = optimizer_tensors(optimizer)
    model, optimizer = make()
    load_optimizer_tensors(optimizer, tensors, json.loads(json.dumps(numbers)))
    health = NonFiniteSteps(20, tmp_path)
    health.start_at(optimizer.num_nonfinite)
    step(model, optimizer, 1.0)
    health.check(optimizer.num_nonfinite, 3, ["innocent"])
    assert not caplog.records


def test_the_cuts_of_the_batch_whose_loss_is_not_finite_are_named_with_the_stream(tmp_path, caplog):
    """Of several batches of a step (accumulation), and whichever objective it is."""
    health = NonFiniteSteps(20, tmp_path)
    good, bad = torch.ones(2, 3), torch.tensor([[1.0, 2.0, 3.0], [float("nan"), 2.0, 3.0]])
    batches = [(["a", "b"], {"speech": good, "audio": good}), (["c"], {"speech": good, "audio": bad})]
    health.check(1, 7, ["a", "b", "c"], batches)
    assert health.rows == [{"step": 7, "ids": ["c"], "streams": ["audio"]}]
    assert "loss of audio not finite; cuts c (" in caplog.records[-1].getMessage()


RANK = """
import json, pathlib, sys, torch
from spear import dist
from spear.optim import ScaledAdam, parameter_groups
from spear.train.health import NonFiniteSteps

world = dist.start("cpu")
torch.manual_seed(0)
model = torch.nn.Linear(6, 3)
wrapped = torch.nn.parallel.DistributedDataParallel(model)
optimizer = ScaledAdam(parameter_groups(model, 0.01), lr=0.01)
health = NonFiniteSteps(20, pathlib.Path(sys.argv[1]))
for step in range(4):
    optimizer.zero_grad()
    bad = world.rank == 1 and step == 2
    (wrapped(torch.full((2, 6), float("inf") if bad else 1.0 + world.rank)) ** 2).sum().backward()
    optimizer.step()
    health.check(optimizer.num_nonfinite, step, [f"cut-{step}-{world.rank}"])
found = {"rows": health.rows, "weights": model.weight.flatten().tolist(), "count": optimizer.num_nonfinite}
pathlib.Path(sys.argv[1], f"{world.rank}.json").write_text(json.dumps(found))
dist.stop()
"""


@pytest.mark.slow
def test_an_inf_on_one_rank_of_two_is_skipped_by_both(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "rank.py"), str(tmp_path)], capture_output=True, text=True, cwd="/", timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two and torch.tensor(one["weights"]).isfinite().all()
    assert one["count"] == 1 and one["rows"] == [{"step": 2, "ids": ["cut-2-0", "cut-2-1"]}]
