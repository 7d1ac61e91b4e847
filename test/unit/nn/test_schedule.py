"""Scheduled values, and the randomness of training."""

import pytest
import torch
from torch import nn

from spear.nn import ScheduledFloat, set_batch_count
from spear.nn.schedule import happens


def test_default_until_a_batch_count_is_set():
    value = ScheduledFloat((0.0, 1.0), (10.0, 0.0), default=0.3)
    assert float(value) == 0.3
    value.set_batch_count(0)
    assert float(value) == 1.0


@pytest.mark.parametrize("count, expected", [(-5, 2.0), (0, 2.0), (5, 1.0), (10, 0.0), (15, 0.5), (20, 1.0), (99, 1.0)])
def test_piecewise_linear_and_constant_outside(count, expected):
    value = ScheduledFloat((0.0, 2.0), (10.0, 0.0), (20.0, 1.0))
    value.set_batch_count(count)
    assert float(value) == pytest.approx(expected)


def test_points_must_ascend():
    with pytest.raises(ValueError):
        ScheduledFloat((10.0, 2.0), (0.0, 0.0))


def test_set_batch_count_reaches_nested_values():
    module = nn.Sequential(nn.Linear(1, 1), nn.Sequential(ScheduledFloat((0.0, 0.0), (4.0, 1.0))))
    set_batch_count(module, 1.0)
    assert float(module[1][0]) == 0.25


def test_coin_flips_follow_the_global_seed_and_impossible_ones_draw_nothing():
    torch.manual_seed(3)
    first = [happens(0.5) for _ in range(20)]
    torch.manual_seed(3)
    assert not happens(0.0)
    assert first == [happens(0.5) for _ in range(20)]
    assert 0 < sum(first) < 20
