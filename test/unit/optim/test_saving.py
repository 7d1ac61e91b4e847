"""Optimiser state in safetensors and JSON."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spear.errors import CheckpointError
from spear.optim import (
    AdamW,
    Eden,
    ScaledAdam,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
    without_decay,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))


def train(module, optimizer, schedule, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        schedule.step_batch(step)
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


def scaled_adam(module):
    return ScaledAdam(parameter_groups(module, 0.04, {"0": 0.1}))


def adamw(module):
    return AdamW(without_decay(parameter_groups(module, 0.01, {"0": 0.1})), weight_decay=0.1)


def adam(module):
    return torch.optim.AdamW(module.parameters(), lr=0.01)


@pytest.mark.parametrize("make", [scaled_adam, adamw, adam])
def test_resuming_from_files_is_bit_identical(tmp_path, make):
    module = network()
    optimizer = make(module)
    schedule = Eden(optimizer, lr_batches=20, warmup_batches=5)
    train(module, optimizer, schedule, 0, 45)
    tensors, numbers = optimizer_tensors(optimizer)
    save_file(tensors, tmp_path / "optimizer.safetensors")
    (tmp_path / "optimizer.json").write_text(json.dumps(numbers, allow_nan=False))
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    train(module, optimizer, schedule, 45, 70)

    resumed = network()
    resumed.load_state_dict(weights)
    other = make(resumed)
    load_optimizer_tensors(
        other, load_file(tmp_path / "optimizer.safetensors"), json.loads((tmp_path / "optimizer.json").read_text())
    )
    train(resumed, other, Eden(other, lr_batches=20, warmup_batches=5), 45, 70)
    for name, value in module.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("make", [scaled_adam, adamw])
def test_later_steps_do_not_change_what_was_taken(make):
    module = network()
    optimizer = make(module)
    schedule = Eden(optimizer)
    train(module, optimizer, schedule, 0, 5)
    tensors, _ = optimizer_tensors(optimizer)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    train(module, optimizer, schedule, 5, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


def test_state_before_the_first_step():
    tensors, numbers = optimizer_tensors(scaled_adam(network()))
    module = network()
    optimizer = scaled_adam(module)
    load_optimizer_tensors(optimizer, tensors, json.loads(json.dumps(numbers)))
    train(module, optimizer, Eden(optimizer), 0, 3)


def test_tensors_are_named_after_parameters():
    tensors, numbers = optimizer_tensors(scaled_adam(network()))
    assert tensors["state/2.weight/exp_avg_sq"].shape == (8, 8)
    assert numbers["names"] == ["2.weight", "2.bias", "3.weight", "3.bias", "0.weight", "0.bias"]


def test_state_of_another_model_is_refused_by_name():
    saved = optimizer_tensors(scaled_adam(network()))
    with pytest.raises(CheckpointError, match="2.weight"):
        load_optimizer_tensors(ScaledAdam(nn.Linear(6, 8).named_parameters()), *saved)
    tensors, numbers = saved
    del tensors["state/2.weight/delta"]
    with pytest.raises(CheckpointError, match="2.weight"):
        load_optimizer_tensors(scaled_adam(network()), tensors, numbers)
    with pytest.raises(CheckpointError, match=r"no step of parameter 0"):
        other = AdamW(parameter_groups(network(), 0.04, {"0": 0.1}))
        load_optimizer_tensors(other, *optimizer_tensors(scaled_adam(network())))
