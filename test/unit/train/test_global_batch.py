"""The batch that learning rate and steps were made for; the shortest and longest cut of training."""

import logging

import numpy as np
import pytest

from spear.config import from_dict, parse
from spear.data import CutLimits, PlanLimits, build_plan
from spear.errors import ConfigError
from spear.train import setup
from spear.train.config import ALIASES, TrainConfig
from spear.train.global_batch import settle_accumulation
from spear.train.setup import check_resumable


def settled(caplog, num_ranks, **settings):
    """The accumulation and the warnings."""
    caplog.clear()
    caplog.set_level(logging.INFO, logger="spear")
    config = from_dict(TrainConfig, settings)
    settle_accumulation(config, num_ranks)
    return config.accumulation, [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_what_a_step_takes_is_printed_and_compared(caplog):
    plan = {"max_seconds": 400, "global_seconds": 6400}
    assert settled(caplog, 16, plan=plan) == (1, [])
    assert "a step takes up to 6400 padded seconds: 16 rank(s) x 1 batch(es) x 400 s" in caplog.text
    assert settled(caplog, 4, plan=plan, accumulation=4) == (4, [])
    accumulation, [warning] = settled(caplog, 2, plan=plan)
    assert accumulation == 1 and "takes up to 800 padded seconds" in warning and "made for 6400" in warning
    assert "16 rank(s) with one batch each, or --accumulation 8 with the present 2" in warning
    assert settled(caplog, 2, plan={"max_seconds": 400}) == (1, [])  # nothing is stated


def test_accumulation_can_be_worked_out(caplog):
    plan = {"max_seconds": 400, "global_seconds": 6400}
    assert settled(caplog, 2, plan=plan, accumulation="auto") == (8, [])
    accumulation, [warning] = settled(caplog, 3, plan=plan, accumulation="auto")
    assert accumulation == 5 and "6000" in warning and "6400" in warning
    with pytest.raises(ConfigError, match="global_seconds"):
        settled(caplog, 2, plan={"max_seconds": 400}, accumulation="auto")


@pytest.mark.parametrize("value", ["0", "-1", "some", "1.5"])
def test_other_accumulations_are_refused(value):
    with pytest.raises(ConfigError):
        parse(TrainConfig, ["--accumulation", value], ALIASES)
    assert parse(TrainConfig, ["--accumulation", "3"], ALIASES).accumulation == 3


def test_a_run_may_state_later_what_its_batch_was_made_for():
    from spear.config import to_dict

    meta = {"config": to_dict(TrainConfig()), "cards": {}, "world_size": 1}
    del meta["config"]["plan"]["global_seconds"], meta["config"]["cut_limits"]
    check_resumable(TrainConfig(plan=PlanLimits(global_seconds=4800)), meta, 1, {})


def test_plans_are_what_they_were():
    """A statement about the batch decides nothing: stored plans of earlier versions stay in use."""
    durations, weights = np.arange(1, 41) / 4, np.full(40, 1.5)
    for stated in (0.0, 4800.0):
        limits = PlanLimits(max_seconds=20.0, global_seconds=stated)
        plan = build_plan(durations, seed=3, epoch=1, world_size=2, limits=limits, weights=weights)
        assert (plan.hash[:12], plan.inputs_hash[:12]) == ("b937a80ed844", "3ba651a1ed4e")


def test_the_shortest_and_longest_cut_are_settings(data_dir, make_trainer):
    durations = make_trainer().data.train.cuts.durations_seconds
    limits = {"min_seconds": 0.9, "max_seconds": 1.5}
    data = make_trainer(cut_limits=limits).data
    expected = durations[(durations >= 0.9) & (durations <= 1.5)]
    assert sorted(data.train.cuts.durations_seconds) == sorted(expected) and 2 < len(expected) < len(durations)
    assert data.valid is None or data.valid.cuts.durations_seconds.min() >= 0.9
    assert set(data.summary["noise"]["dropped"]) == {"too short", "too long"}
    assert setup.TrainConfig().cut_limits == CutLimits(0.3, 32.0)


@pytest.mark.parametrize("limits", [(2.0, 1.0), (1.0, 1.0), (-1.0, 2.0), (float("nan"), 3.0), (1.0, float("inf"))])
def test_limits_that_leave_nothing_are_refused(limits):
    with pytest.raises(ConfigError, match="cut_limits"):
        CutLimits(*limits)
