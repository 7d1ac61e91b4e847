"""AdamW: torch's steps, no decay of vectors, clipping by the median, and runs that are resumed exactly."""

from pathlib import Path

import pytest
import torch
from torch import nn

from spear.config import from_dict
from spear.errors import CheckpointError, ConfigError
from spear.optim import AdamW, ScaledAdam, parameter_groups, without_decay
from spear.train.config import TrainConfig
from spear.train.setup import make_optimizer


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def step(module, optimizer, number: int, scale: float = 1.0) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    (module(x).square().sum() * scale).backward()
    optimizer.step()


def test_steps_are_those_of_torch_with_decay_on_matrices_alone():
    module, other = network(), network()
    optimizer = AdamW(without_decay(parameter_groups(module, 0.01)), weight_decay=0.5, clipping_scale=None)
    of_torch = torch.optim.AdamW(
        [
            {"params": [p for p in other.parameters() if p.dim() > 1], "weight_decay": 0.5},
            {"params": [p for p in other.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.9, 0.98),
    )
    for number in range(5):
        step(module, optimizer, number)
        step(other, of_torch, number)
    for mine, expected in zip(module.parameters(), other.parameters()):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-7)
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]}
    assert decays == {
        "0.weight": 0.5,
        "2.weight": 0.5,
        **dict.fromkeys(("0.bias", "1.weight", "1.bias", "2.bias"), 0.0),
    }


def test_outliers_are_clipped_and_what_is_not_finite_is_counted_as_zero():
    module = network()
    optimizer = AdamW(without_decay(parameter_groups(module, 0.001)))
    for number in range(12):
        step(module, optimizer, number)
    before = optimizer.last_grad_norm
    step(module, optimizer, 12, scale=1e6)
    clipped = optimizer.clipping["default"]
    assert optimizer.last_grad_norm > 1e4 * before and clipped.fraction_clipped == pytest.approx(1 / 12)
    moments = [state["exp_avg"].abs().max() for state in optimizer.state.values()]
    assert max(moments) < 100 * before
    step(module, optimizer, 13, scale=float("inf"))
    assert optimizer.num_nonfinite == 1
    assert all(param.isfinite().all() for param in module.parameters())


@pytest.mark.parametrize("kind", [AdamW, ScaledAdam])
def test_a_state_of_other_parameters_is_refused(kind):
    module = network()
    groups = parameter_groups(module, 0.001)
    state = kind(without_decay(groups) if kind is AdamW else groups, lr=0.001).state_dict()
    renamed = nn.ModuleDict({f"layer{name}": layer for name, layer in module.named_children()})
    groups = parameter_groups(renamed, 0.001)
    other = kind(without_decay(groups) if kind is AdamW else groups, lr=0.001)
    with pytest.raises(CheckpointError, match="other parameter names"):
        other.load_state_dict(state)


def test_the_optimizer_is_scaled_adam_unless_another_is_named(make_trainer):
    assert type(make_trainer().optimizer) is ScaledAdam
    with pytest.raises(ConfigError, match=r"adamw with base_lr 0\.045(?s:.*)base_lr, such as 0\.0005"):
        from_dict(TrainConfig, {"optimizer": {"name": "adamw"}})
    with pytest.raises(ConfigError, match="scaled_adam, adamw"):
        from_dict(TrainConfig, {"optimizer": {"name": "sgd"}})
    trainer = make_trainer(optimizer={"name": "adamw", "base_lr": 0.001, "lr_scales": {"encoder_embed": 0.1}})
    groups = [
        (group["name"], group["weight_decay"]) for group in make_optimizer(trainer.config, trainer.model).param_groups
    ]
    assert groups == [("default", 0.01), ("default", 0.0), ("encoder_embed", 0.01), ("encoder_embed", 0.0)]


def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(make_trainer, tmp_path):
    settings = {"optimizer": {"name": "adamw", "base_lr": 0.001}, "average_last_steps": 0, "rehearsal_batches": 0}
    whole = make_trainer(exp_dir=str(tmp_path / "whole"), num_steps=4, **settings).run()
    make_trainer(exp_dir=str(tmp_path / "parts"), num_steps=2, **settings).run()
    parts = make_trainer(exp_dir=str(tmp_path / "parts"), num_steps=4, **settings).run()
    found, expected = (Path(final, "model.safetensors").read_bytes() for final in (parts, whole))
    assert found == expected
