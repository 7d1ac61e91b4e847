"""Fine-tuning: an encoder that learns nothing at first, and one that learns more slowly."""

import pytest
import torch

import spear
from spear.errors import ConfigError
from spear.nn import ScheduledFloat
from spear.optim import Eden, ScaledAdam, parameter_groups
from spear.train import checkpoint
from spear.train.setup import schedules

FROZEN = {"freeze_encoder_steps": 2, "num_steps": 4, "checkpoint_every_steps": 1, "keep_checkpoints": 9}


def tensors(exp_dir, step: int, stem: str = "model") -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(checkpoint.directory_of(exp_dir, step), stem)


def differing(first: dict, second: dict) -> set[str]:
    """First parts of the names of tensors that differ."""
    return {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}


def test_the_encoder_stands_still_for_so_many_steps_and_the_heads_do_not(make_trainer, tmp_path):
    trainer = make_trainer(**FROZEN)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    exp_dir = tmp_path / "exp"
    assert differing(start, tensors(exp_dir, 1)) == differing(start, tensors(exp_dir, 2)) == {"heads"}
    assert differing(start, tensors(exp_dir, 2, "model_avg")) == {"heads"}
    assert differing(tensors(exp_dir, 2), tensors(exp_dir, 3)) == {"heads", "encoder", "encoder_embed", "mask_emb"}


def test_a_frozen_run_resumes_bit_for_bit_before_at_and_after_the_thaw(make_trainer, tmp_path):
    make_trainer(**FROZEN, exp_dir=str(tmp_path / "whole")).run()
    for steps in (1, 2, 3, 4):
        make_trainer(**{**FROZEN, "num_steps": steps}, exp_dir=str(tmp_path / "parts")).run()
    for stem in ("model", "model_avg", "optimizer"):
        whole, parts = (tensors(tmp_path / run, 4, stem) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys() and not differing(whole, parts)


def test_a_frozen_encoder_is_in_use_and_has_no_graph(make_trainer):
    model = make_trainer().model
    features_BTF = torch.randn(2, 60, 128)

    def encoded():
        return model.encode_masked(features_BTF, torch.tensor([60, 60])).hidden_BTD

    learning = [p.requires_grad for p in model.parameters()]
    model.freeze_encoder(True)
    model.train()
    assert model.training and model.heads.training
    assert not (model.encoder.training or model.encoder_embed.training)
    assert not encoded().requires_grad and torch.equal(encoded(), encoded())
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"heads"}
    model.freeze_encoder(False)
    assert model.encoder.training and encoded().requires_grad
    assert [p.requires_grad for p in model.parameters()] == learning


def test_a_group_that_was_frozen_begins_as_a_new_one():
    """Steps without a gradient would make the median norm 0, and clip away what comes after them."""
    torch.manual_seed(0)
    start, gradients = torch.randn(4, 3), torch.randn(12, 4, 3)
    values = []
    for frozen_steps in (30, 0):
        parameter, head = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.ones(5))
        groups = [{"params": [parameter], "lr": 0.01}, {"params": [head], "lr": 0.01}]
        optimizer = ScaledAdam(groups)
        schedule = Eden(optimizer, warmup_batches=0)
        for step in range(frozen_steps):
            schedule.step_batch(step)
            head.grad = torch.ones(5)
            optimizer.step()
        schedule.step_batch(0)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        values.append(parameter.detach())
    assert torch.equal(*values) and not torch.equal(values[0], start)


def test_the_prefix_encoder_is_the_encoder_alone(make_trainer):
    model = make_trainer().model
    groups = parameter_groups(model, 0.04, {"encoder": 0.05, "encoder_embed": 0.5})
    rates = {name: group["lr"] for group in groups for name, _ in group["params"]}
    expected = {"encoder": 0.04 * 0.05, "encoder_embed": 0.02}
    assert all(rate == expected.get(name.split(".")[0], 0.04) for name, rate in rates.items())
    assert len(rates) == sum(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="'encoders'"):
        parameter_groups(model, 0.04, {"encoders": 0.05})


def test_an_encoder_starts_from_an_icefall_checkpoint(make_trainer, tmp_path):
    source = make_trainer(seed=7).model
    research = {name: value for name, value in source.state_dict().items() if not name.startswith("heads.")}
    torch.save({"model": research, "batch_idx_train": 3}, tmp_path / "epoch-3.pt")
    final = make_trainer(init_from=str(tmp_path / "epoch-3.pt"), num_steps=0).run()
    found, expected = spear.load_model(final).state_dict(), spear.load_model(tmp_path / "epoch-3.pt").state_dict()
    assert not differing(found, expected) and found.keys() == expected.keys()


def test_schedules_of_the_encoder_begin_where_they_are_told_to_and_those_of_heads_at_the_start(make_trainer):
    trainer = make_trainer(optimizer={"first_batch_count": 100000.0}, num_steps=1)
    trainer.run()
    assert trainer.scheduled and all(float(value) == value.points[-1][1] for value, _ in trainer.scheduled)
    trainer.model.heads["speech"].new = ScheduledFloat((0.0, 1.0), (20.0, 0.0))
    first = dict(schedules(trainer.model, 100000.0))
    assert first.pop(trainer.model.heads["speech"].new) == 0 and set(first.values()) == {100000.0}
