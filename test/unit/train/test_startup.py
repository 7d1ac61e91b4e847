"""What ranks compare before the first step."""

import copy

import pytest
import torch

from spear import dist
from spear.errors import ConfigError
from spear.train import startup
from spear.train.config import TrainConfig


def test_equal_runs_are_equal_and_each_difference_is_seen():
    model = torch.nn.Linear(3, 2)
    base = startup.identity(TrainConfig(), "p" * 64, model, "step 0")
    assert base == startup.identity(TrainConfig(data_dir="elsewhere", num_workers=7), "p" * 64, model, "step 0")
    assert base["config"] != startup.identity(TrainConfig(seed=1), "p" * 64, model, "step 0")["config"]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight[0, 0] = torch.nextafter(other.weight[0, 0], torch.tensor(9.0))
    assert base["weights"] != startup.weights_hash(other)[:12]


def test_ranks_that_agree_share_a_line(monkeypatch):
    ranks = [{"code": "aaa", "plan": "x"}] * 3 + [{"code": "bbb", "plan": "x"}] + [{"code": "aaa", "plan": "x"}]
    monkeypatch.setattr(dist, "gather_objects", lambda value: ranks)
    with pytest.raises(ConfigError) as caught:
        startup.check_ranks(ranks[0])
    assert "differ in code" in caught.value.found
    rows = [line.split() for line in caught.value.found.splitlines()[1:]]
    assert rows == [["ranks", "code"], ["0,1,2,4", "aaa"], ["3", "bbb"]]
    monkeypatch.setattr(dist, "gather_objects", lambda value: ranks[:3])
    startup.check_ranks(ranks[0])
