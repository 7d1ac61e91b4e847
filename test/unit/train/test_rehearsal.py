"""The costliest batches before the first step, and limits that the memory decides."""

import json
from pathlib import Path

import pytest
import torch

from spear.config import from_dict
from spear.data import PlanLimits, build_plan
from spear.errors import ConfigError
from spear.train import rehearsal
from spear.train.config import TrainConfig
from spear.train.rehearsal import advise_max_seconds


def test_a_parameter_that_takes_no_part_is_named(make_trainer):
    trainer = make_trainer()
    trainer.model.forgotten = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigError, match="1 parameters without a gradient: forgotten"):
        trainer.run()


def test_memory_grows_by_a_line():
    assert advise_max_seconds([(0, 100), (10, 300), (5, 200)], 1000) == 45
    assert advise_max_seconds([(10, 300)], 1000) == 0
    assert advise_max_seconds([(0, 500), (10, 600)], 400) == 0


def fake_memory(monkeypatch, gigabytes_per_second: float) -> None:
    """A device that holds 1 GB before the first batch, and so much more for each padded second of it."""
    seconds = [0.0]
    forward = rehearsal.Rehearser.__init__

    def init(self, model, data, config, world, forward_backward, targets):
        def noted(batch, *arguments, **options):
            seconds[0] = max(seconds[0], batch.padded_seconds)
            return forward_backward(batch, *arguments, **options)

        forward(self, model, data, config, world, noted, targets)

    monkeypatch.setattr(rehearsal.Rehearser, "__init__", init)

    def used(device):
        seconds[0] = 0.0
        return int(1e9)

    monkeypatch.setattr(rehearsal, "used_bytes", used)
    monkeypatch.setattr(rehearsal, "peak_bytes", lambda device: int((1 + gigabytes_per_second * seconds[0]) * 1e9))


def test_a_batch_over_the_memory_limit_is_refused_with_the_limit_that_fits(make_trainer, monkeypatch):
    fake_memory(monkeypatch, 0.5)
    with pytest.raises(ConfigError, match=r"(?s)does not fit.*1\.5 GB.*to fix: set plan\.max_seconds 1,") as caught:
        make_trainer(memory_limit_gb=1.51).run()
    assert "padded seconds, the costliest of the plan" in caught.value.found


def test_auto_takes_what_fits_and_keeps_it(make_trainer, monkeypatch):
    fake_memory(monkeypatch, 0.5)
    trainer = make_trainer(memory_limit_gb=6.0, plan={"max_seconds": "auto"})
    trainer.run()
    assert trainer.config.plan.max_seconds == 10
    exp_dir = Path(trainer.config.exp_dir)
    assert json.loads((exp_dir / "auto_limits.json").read_text())["max_seconds"] == 10
    assert "max_seconds: 10" in (exp_dir / "config.yaml").read_text()
    again = make_trainer(memory_limit_gb=50.0, plan={"max_seconds": "auto"}, num_steps=5)
    again.run()  # another machine: the batches stay those of the checkpoint
    assert again.config.plan.max_seconds == 10 and again.step == 5


def test_auto_is_a_value_and_other_words_are_not():
    assert from_dict(TrainConfig, {"plan": {"max_seconds": "auto"}}).plan.max_seconds == "auto"
    assert from_dict(TrainConfig, {"plan": {"max_seconds": 60}}).plan.max_seconds == 60
    with pytest.raises(ConfigError, match="max_seconds"):
        from_dict(TrainConfig, {"plan": {"max_seconds": "much"}})
    with pytest.raises(ConfigError, match="auto"):
        build_plan([1.0, 2.0], seed=0, epoch=0, world_size=1, limits=PlanLimits(max_seconds="auto"))


def test_a_run_that_is_complete_rehearses_nothing(make_trainer):
    make_trainer(num_steps=2).run()
    again = make_trainer(num_steps=2)
    again.run()
    assert again.rehearsal is None and again.step == 2
