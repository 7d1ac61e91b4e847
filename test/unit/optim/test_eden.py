"""The learning-rate schedule."""

import json

import pytest
import torch
from torch import nn

from spear.errors import ConfigError
from spear.optim import Eden, ScaledAdam, eden_factor


def optimizer(*lrs: float) -> ScaledAdam:
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": lr, "name": str(lr)} for lr in lrs]
    return ScaledAdam(groups)


def test_by_batches_and_hours():
    base = 0.04
    schedule = Eden(optimizer(base), lr_batches=7500, lr_hours=30000)
    assert schedule.last_lr == [pytest.approx(base * 0.5)]
    for batch, hours in [(250, 10.0), (500, 100.0), (7500, 30000.0), (400000, 600000.0)]:
        schedule.step_batch(batch)
        schedule.step_hours(hours)
        warmup = min(1.0, 0.5 + 0.5 * batch / 500)
        expected = base * (1 + (batch / 7500) ** 2) ** -0.25 * (1 + (hours / 30000) ** 2) ** -0.25 * warmup
        assert schedule.last_lr[0] == pytest.approx(expected)


def test_by_batches_and_epochs_counting_by_itself():
    schedule = Eden(optimizer(0.1), lr_batches=10, lr_epochs=2, warmup_batches=0)
    for _ in range(10):
        schedule.step_batch()
    schedule.step_epoch()
    schedule.step_epoch()
    assert schedule.last_lr[0] == pytest.approx(0.1 * 2**-0.5)


def test_every_group_keeps_its_own_base():
    one = optimizer(0.04, 0.004)
    schedule = Eden(one, lr_batches=100, warmup_batches=10, warmup_start=0.1)
    schedule.step_batch(5)
    factor = eden_factor(5, 0, lr_batches=100, lr_progress=None, warmup_batches=10, warmup_start=0.1)
    assert schedule.last_lr == [pytest.approx(0.04 * factor), pytest.approx(0.004 * factor)]
    assert factor == pytest.approx(0.55 * 1.0025**-0.25)


def test_state_goes_through_json_and_comes_back():
    first = Eden(optimizer(0.04), lr_hours=5.0)
    first.step_batch(1234)
    first.step_hours(7.25)
    second = Eden(optimizer(1.0), lr_hours=5.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.last_lr == first.last_lr
    first.step_batch()
    second.step_batch()
    assert second.last_lr == first.last_lr


def test_a_schedule_made_after_resuming_does_not_decay_twice():
    # The optimiser's own state remembers the rate that decay starts from.
    first = optimizer(0.04)
    Eden(first).step_batch(100000)
    resumed = optimizer(0.04)
    resumed.load_state_dict(first.state_dict())
    schedule = Eden(resumed)
    schedule.step_batch(100000)
    assert schedule.last_lr == [first.param_groups[0]["lr"]]


@pytest.mark.parametrize(
    "bad", [{"lr_epochs": 3.0, "lr_hours": 3.0}, {"lr_batches": 0.0}, {"lr_hours": -1.0}, {"warmup_start": 2.0}]
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ConfigError):
        Eden(optimizer(0.04), **bad)
