"""The batch plan: limits, each cut once, layouts, storage, speed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spear.data import Plan, PlanLimits, build_plan
from spear.errors import ConfigError, DataError

durations_strategy = st.lists(
    st.one_of(st.floats(0.01, 40.0), st.sampled_from([0.05, 10.0, 10.0, 3600.0])), min_size=1, max_size=300
)


def make(durations, *, seed=1, epoch=0, world_size=1, weights=None, accumulation=1, **limits):
    return build_plan(
        np.asarray(durations),
        seed=seed,
        epoch=epoch,
        world_size=world_size,
        limits=PlanLimits(**limits),
        weights=weights,
        accumulation=accumulation,
    )


def batches(plan):
    """All batches in global order."""
    return [plan.batch(step, rank) for step in range(plan.num_steps) for rank in range(plan.world_size)]


@settings(max_examples=150, deadline=None)
@given(
    durations=durations_strategy,
    world_size=st.integers(1, 5),
    max_seconds=st.floats(1.0, 300.0),
    max_cuts=st.integers(1, 40),
    num_buckets=st.integers(1, 30),
    headroom=st.sampled_from([0.0, 2.0]),
    epoch=st.integers(0, 3),
)
def test_no_batch_over_a_limit_and_every_kept_cut_once(
    durations, world_size, max_seconds, max_cuts, num_buckets, headroom, epoch
):
    durations = np.asarray(durations)
    fits = durations + np.minimum(headroom, durations) <= max_seconds
    limits = dict(max_seconds=max_seconds, max_cuts=max_cuts, num_buckets=num_buckets, headroom_seconds=headroom)
    if fits.sum() < world_size:
        with pytest.raises(DataError, match="cuts to train on"):
            make(durations, world_size=world_size, epoch=epoch, **limits)
        return
    plan = make(durations, world_size=world_size, epoch=epoch, **limits)
    counts = np.bincount(np.concatenate(batches(plan)), minlength=len(durations))
    assert (counts[~fits] == 0).all() and (counts[fits] >= 1).all()
    assert (counts[fits] > 1).sum() == plan.summary["num_repeated"] < world_size
    if plan.summary["num_repeated"]:
        assert all(len(batch) == 1 for batch in batches(plan))
    assert plan.summary["num_too_long"] == (~fits).sum()
    assert plan.num_batches == plan.num_steps * world_size
    for number, batch in enumerate(batches(plan)):
        longest = durations[batch].max()
        assert 1 <= len(batch) <= max_cuts
        assert (longest + min(headroom, longest)) * len(batch) <= max_seconds
        assert plan.batch_seconds[number] == pytest.approx((longest + min(headroom, longest)) * len(batch))


def test_extreme_cuts_and_ten_thousand_equal_ones():
    durations = np.concatenate([[3600.0, 0.05], np.full(10_000, 10.0)])
    plan = make(durations, max_seconds=200, max_cuts=100)
    assert plan.summary["num_too_long"] == 1 and plan.summary["seconds_too_long"] == 3600
    assert plan.num_batches == 501  # 500 full ones and the cut of 0.05 s
    assert plan.summary["padding_share"] < 0.001
    whole = make(durations, max_seconds=3600, max_cuts=100)
    assert whole.summary["num_too_long"] == 0
    assert min(len(b) for b in batches(whole) if 0 in b) == 1
    # Equal lengths leave full freedom: neighbours in the manifest must not stay together.
    together = [np.mean(np.abs(np.diff(np.sort(b))) == 1) for b in batches(plan) if len(b) > 1]
    assert np.mean(together) < 0.05


def test_is_a_pure_function_and_changes_with_epoch_and_seed():
    durations = np.random.default_rng(0).uniform(1, 20, 500)
    first, again = make(durations), make(durations)
    assert first.hash == again.hash and np.array_equal(first.items, again.items)
    assert len({make(durations, epoch=epoch, seed=seed).hash for epoch in range(3) for seed in range(2)}) == 6
    # Another epoch also makes other batches, not only another order of them.
    sets = [{frozenset(b.tolist()) for b in batches(make(durations, epoch=epoch))} for epoch in (0, 1)]
    assert len(sets[0] & sets[1]) < 0.1 * len(sets[0])


def test_two_ranks_and_one_rank_with_twice_the_accumulation_see_the_same():
    durations = np.random.default_rng(0).uniform(1, 20, 333)
    one = make(durations, world_size=1, accumulation=4, max_seconds=60)
    two = make(durations, world_size=2, accumulation=2, max_seconds=60)
    four = make(durations, world_size=4, accumulation=1, max_seconds=60)
    assert one.hash == two.hash == four.hash
    for step in range(four.num_steps):
        for rank in range(4):
            assert np.array_equal(four.batch(step, rank), one.batch(4 * step + rank, 0))
            assert np.array_equal(four.batch(step, rank), two.batch(2 * step + rank // 2, rank % 2))


def test_more_ranks_than_batches_splits_down_to_single_cuts():
    plan = make(np.full(10, 1.0), world_size=10, max_seconds=100)
    assert plan.num_steps == 1 and all(len(b) == 1 for b in batches(plan))
    single = make([1.0, 2.0, 3.0], world_size=2, max_cuts=1)
    assert single.num_steps == 2 and single.summary["num_repeated"] == 1
    with pytest.raises(DataError, match="11 ranks"):
        make(np.full(10, 1.0), world_size=11)


def test_length_spread_of_a_batch_is_small():
    durations = np.clip(np.random.default_rng(0).lognormal(2, 0.7, 20_000), 0.3, 32)
    assert make(durations, max_seconds=200).summary["padding_share"] < 0.05
    assert make(durations[:1000], max_seconds=60, num_buckets=50).summary["padding_share"] < 0.06


def test_weights_repeat_and_thin_out():
    weights = np.concatenate([np.zeros(100), np.full(1000, 0.25), np.full(1000, 1.0), np.full(1000, 2.5)])
    plan = make(np.full(len(weights), 5.0), weights=weights)
    counts = np.bincount(np.concatenate(batches(plan)), minlength=len(weights))
    assert not counts[:100].any()
    assert set(counts[100:1100]) == {0, 1} and 200 < counts[100:1100].sum() < 300
    assert (counts[1100:2100] == 1).all()
    assert set(counts[2100:]) == {2, 3} and 2400 < counts[2100:].sum() < 2600
    other = np.bincount(np.concatenate(batches(make(np.full(len(weights), 5.0), weights=weights, epoch=1))))
    assert not np.array_equal(other, counts[: len(other)])


def test_costliest_batches_come_first():
    plan = make(np.random.default_rng(0).uniform(1, 30, 400), world_size=2, max_seconds=90)
    order = [plan.batch_seconds[plan.global_batch(*place)] for place in plan.costliest(3)]
    assert order == sorted(plan.batch_seconds, reverse=True)[:3]


def test_stored_plan_is_mapped_and_equal(tmp_path):
    plan = make(np.random.default_rng(0).uniform(1, 20, 500), world_size=2)
    plan.save(tmp_path / "epoch")
    loaded = Plan.load(tmp_path / "epoch")
    assert isinstance(loaded.items, np.memmap) and loaded.hash == plan.hash and loaded.summary == plan.summary
    assert all(np.array_equal(a, b) for a, b in zip(batches(plan), batches(loaded)))


def test_damaged_plans_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        Plan.load(tmp_path / "nowhere")
    make(np.full(50, 1.0)).save(tmp_path / "epoch")
    path = tmp_path / "epoch" / "items.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="damaged"):
        Plan.load(tmp_path / "epoch")


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_impossible_durations_are_refused(bad):
    with pytest.raises(DataError, match="index 1"):
        make([1.0, bad])


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="weights"):
        make([1.0, 1.0], weights=np.array([1.0, -1.0]))
    with pytest.raises(ConfigError, match="max_cuts"):
        PlanLimits(max_cuts=0)
    with pytest.raises(ConfigError, match="max_seconds"):
        PlanLimits(max_seconds=float("nan"))
    with pytest.raises(IndexError):
        make([1.0, 1.0]).batch(100, 0)


# Processor time, so that what others do on the machine does not count.
def test_a_million_cuts_are_planned_and_resumed_in_seconds(tmp_path):
    durations = np.random.default_rng(0).uniform(1, 30, 1_000_000)
    start = time.process_time()
    plan = make(durations, max_seconds=120, world_size=8, headroom_seconds=2.0)
    assert time.process_time() - start < 10
    plan.save(tmp_path)
    start = time.process_time()
    assert len(Plan.load(tmp_path).batch(10_000, 3)) > 0
    assert time.process_time() - start < 1


@pytest.mark.slow
def test_ten_million_cuts_are_planned_in_a_minute():
    durations = np.random.default_rng(0).uniform(1, 30, 10_000_000)
    start = time.process_time()
    plan = make(durations, max_seconds=600, world_size=64, headroom_seconds=2.0)
    assert time.process_time() - start < 30
    assert plan.summary["num_planned"] == 10_000_000
