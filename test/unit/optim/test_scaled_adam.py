"""ScaledAdam's behaviour; its numbers are tested in test/golden."""

import math

import pytest
import torch
from torch import nn

from spear.errors import CheckpointError, ConfigError
from spear.optim import ScaledAdam, parameter_groups


def model(seed: int = 0) -> nn.Module:
    """Shapes that repeat, shapes that do not, a large tensor, scalars of both kinds, and zeros."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Module()
    shapes = {"a": (5, 3), "b": (5, 3), "c": (7,), "d": (7,), "e": (), "f": (1,), "g": (200, 200), "h": (4, 1, 3)}
    for name, shape in shapes.items():
        setattr(module, name, nn.Parameter(torch.randn(shape, generator=generator)))
    module.zeros = nn.Parameter(torch.zeros(7))
    return module


def fill_gradients(module: nn.Module, step: int, scale: float = 1.0, skip: tuple[str, ...] = ()) -> None:
    for index, (name, param) in enumerate(module.named_parameters()):
        generator = torch.Generator().manual_seed(1000 * step + index)
        param.grad = None if name in skip else scale * torch.randn(param.shape, generator=generator)


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: param.detach().clone() for name, param in module.named_parameters()}


def test_tensors_in_a_stack_are_updated_as_if_alone():
    together, apart = model(), model()
    one = ScaledAdam(together.parameters(), clipping_scale=None)
    many = [ScaledAdam([param], clipping_scale=None) for param in apart.parameters()]
    for step in range(30):
        fill_gradients(together, step)
        fill_gradients(apart, step)
        for optimizer in [one, *many]:
            optimizer.step()
    for name, value in values(together).items():
        torch.testing.assert_close(value, values(apart)[name], msg=name)


def test_the_scale_of_the_loss_does_not_matter():
    small, large = model(), model()
    optimizers = ScaledAdam(small.parameters()), ScaledAdam(large.parameters())
    for step in range(25):
        fill_gradients(small, step)
        fill_gradients(large, step, scale=1024.0)
        for optimizer in optimizers:
            optimizer.step()
    for name, value in values(small).items():
        torch.testing.assert_close(value, values(large)[name], atol=1e-4, rtol=1e-4)


def test_changes_are_relative_to_a_tensors_size():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(20, 20, generator=generator)
    small, large = nn.Parameter(base * 0.01), nn.Parameter(base.clone())
    optimizer = ScaledAdam([small, large], clipping_scale=None)
    for _ in range(3):  # the size is not updated yet
        small.grad = large.grad = torch.randn(20, 20, generator=generator)
        optimizer.step()
    torch.testing.assert_close((small - base * 0.01) * 100, large - base, rtol=1e-4, atol=1e-5)


def test_sizes_stay_within_their_bounds():
    grows, shrinks = nn.Parameter(torch.full((8,), 2.9)), nn.Parameter(torch.full((8,), 3e-5))
    number = nn.Parameter(torch.tensor(0.0))
    optimizer = ScaledAdam([grows, shrinks, number], lr=0.05, param_min_rms=1e-5, scalar_max=1.0)
    for _ in range(600):
        grows.grad, shrinks.grad, number.grad = (
            -torch.ones(8),
            torch.ones(8) * shrinks.detach().sign(),
            torch.tensor(-1.0),
        )
        optimizer.step()
        assert number <= 1.0
    assert grows.detach().square().mean().sqrt() < 4.0
    assert shrinks.detach().square().mean().sqrt() > 1e-7
    assert number == 1.0


def test_it_minimises():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(10, 4, generator=generator)
    x = torch.randn(200, 10, generator=generator)
    weight = nn.Parameter(0.1 * torch.randn(10, 4, generator=generator))
    optimizer = ScaledAdam([weight], lr=0.03)
    losses = []
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.03 / (1 + step / 100)
        optimizer.zero_grad()
        loss = (x @ weight - x @ target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]


def test_large_gradients_are_clipped_and_counted():
    module = model()
    optimizer = ScaledAdam(module.parameters())
    assert optimizer.clipping_threshold == math.inf and optimizer.fraction_clipped == 0.0
    for step in range(60):
        fill_gradients(module, step, scale=1000.0 if step >= 57 else 1.0)
        before = values(module)
        optimizer.step()
        change = max(float((value - before[name]).abs().max()) for name, value in values(module).items())
        assert change < 2.0
    usual = optimizer.clipping_threshold / 4  # set at step 40: twice the scale of 2
    assert optimizer.last_grad_norm > 500 * usual
    assert optimizer.fraction_clipped == pytest.approx(3 / 59)


def test_clipping_may_start_late():
    """With a start at 100, as in the SPEAR authors' optimiser, 100 steps are as without clipping; then it begins."""
    modules = model(), model(), model()
    optimizers = [
        ScaledAdam(modules[0].parameters(), clipping_start=100),
        ScaledAdam(modules[1].parameters(), clipping_scale=None),
        ScaledAdam(modules[2].parameters()),
    ]
    for step in range(102):
        for module, optimizer in zip(modules, optimizers):
            fill_gradients(module, step, scale=1000.0 if step in (50, 101) else 1.0)
            optimizer.step()
        late, never, early = (values(module) for module in modules)
        assert all(torch.equal(late[name], never[name]) for name in late) == (step <= 100), step
        assert all(torch.equal(late[name], early[name]) for name in late) == (step < 50), step
    assert optimizers[0].fraction_clipped == pytest.approx(1 / 100)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_count_as_zero(bad):
    module = model()
    optimizer = ScaledAdam(module.parameters())
    for step in range(15):
        fill_gradients(module, step)
        if step in (0, 5, 10):
            module.a.grad[0, 0] = bad
        optimizer.step()
    assert optimizer.num_nonfinite == 3
    assert all(value.isfinite().all() for value in values(module).values())
    assert math.isfinite(optimizer.clipping_threshold)


def test_the_callers_gradients_are_not_changed():
    module = model()
    optimizer = ScaledAdam(module.parameters())
    for step in range(12):
        fill_gradients(module, step, scale=1000.0 if step == 11 else 1.0)
        before = [param.grad.clone() for param in module.parameters()]
        optimizer.step()
        assert all(torch.equal(param.grad, grad) for param, grad in zip(module.parameters(), before))
    assert optimizer.fraction_clipped > 0


def test_parameters_without_gradient_stay_as_they_are():
    module, reference = model(), model()
    optimizer = ScaledAdam(module.parameters(), clipping_scale=None)
    other = ScaledAdam(reference.parameters(), clipping_scale=None)
    skipped = ("a", "g", "e", "c")
    for step in range(8):
        fill_gradients(module, step, skip=skipped if step >= 4 else ())
        fill_gradients(reference, step)
        before = values(module)
        optimizer.step()
        other.step()
        for name in skipped if step >= 4 else ():
            assert torch.equal(values(module)[name], before[name])
    for name in ("b", "d", "f", "h", "zeros"):  # in the same stacks
        torch.testing.assert_close(values(module)[name], values(reference)[name])


def test_a_parameter_that_starts_late_starts_like_a_new_one():
    late, fresh = nn.Parameter(torch.full((6,), 0.5)), nn.Parameter(torch.full((6,), 0.5))
    optimizer = ScaledAdam([late], clipping_scale=None)
    for _ in range(40):
        late.grad = torch.zeros(6)
        optimizer.step()
    new = ScaledAdam([fresh], clipping_scale=None)
    for step in range(6):
        late.grad = fresh.grad = torch.randn(6, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        new.step()
    torch.testing.assert_close(late, fresh)


def test_frozen_layers_can_be_thawed():
    module = model()
    optimizer = ScaledAdam(module.parameters())
    for step in range(4):
        fill_gradients(module, step, skip=tuple(name for name, _ in module.named_parameters() if name != "a"))
        optimizer.step()
    fill_gradients(module, 4)
    before = values(module)
    optimizer.step()
    assert all(not torch.equal(before[name], value) for name, value in values(module).items())
    for param in module.parameters():
        param.grad = None
    optimizer.step()


def test_half_precision_parameters():
    param = nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).bfloat16())
    optimizer = ScaledAdam([param])
    before = param.detach().clone()
    for _ in range(5):
        param.grad = torch.ones(6, 6, dtype=torch.bfloat16)
        optimizer.step()
    assert param.dtype == torch.bfloat16 and (param < before).all()


def test_no_step_waits_for_the_device():
    # On the meta device every attempt of the host to read a value raises.
    module = model().to("meta")
    optimizer = ScaledAdam(module.parameters())
    for _ in range(12):
        for param in module.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()


@pytest.mark.parametrize("stop", [1, 3, 10, 41, 100, 103])
def test_resuming_is_bit_identical(stop):
    whole = model()
    optimizer = ScaledAdam(whole.named_parameters(), clipping_update_period=20)
    saved = None
    for step in range(stop + 25):
        if step == stop:
            saved = values(whole), optimizer.state_dict()
        fill_gradients(whole, step, scale=20.0 if step % 13 == 12 else 1.0)
        optimizer.step()
    resumed = model(seed=5)
    resumed.load_state_dict(saved[0])
    other = ScaledAdam(resumed.named_parameters(), lr=1.0, clipping_update_period=20)
    other.load_state_dict(saved[1])
    for step in range(stop, stop + 25):
        fill_gradients(resumed, step, scale=20.0 if step % 13 == 12 else 1.0)
        other.step()
    for name, value in values(whole).items():
        assert torch.equal(value, values(resumed)[name]), name
    assert other.clipping == optimizer.clipping


def test_state_of_another_model_is_refused():
    optimizer = ScaledAdam(model().named_parameters())
    with pytest.raises(CheckpointError, match="groups of .1"):
        optimizer.load_state_dict(ScaledAdam([nn.Parameter(torch.ones(3))]).state_dict())
    with pytest.raises(CheckpointError, match="names"):
        optimizer.load_state_dict(ScaledAdam(model().parameters()).state_dict())
    other = model()
    other.c = nn.Parameter(torch.ones(9))
    with pytest.raises(CheckpointError, match="shape"):
        optimizer.load_state_dict(ScaledAdam(other.named_parameters()).state_dict())


def test_groups_by_prefix():
    module = nn.ModuleDict(
        {"encoder": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "encoder_embed": nn.Linear(2, 2)}
    )
    module["encoder"][1].bias.requires_grad_(False)
    groups = parameter_groups(module, 0.04, {"encoder": 0.1, "encoder.1": 0.5})
    assert {group["name"]: [name for name, _ in group["params"]] for group in groups} == {
        "default": ["encoder_embed.weight", "encoder_embed.bias"],
        "encoder": ["encoder.0.weight", "encoder.0.bias"],
        "encoder.1": ["encoder.1.weight"],
    }
    assert [group["lr"] for group in groups] == [0.04, pytest.approx(0.004), 0.02]
    optimizer = ScaledAdam(groups)
    for param in module.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert set(optimizer.clipping) == {"default", "encoder", "encoder.1"}
    with pytest.raises(ConfigError, match="decoder"):
        parameter_groups(module, 0.04, {"decoder": 0.1})


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"betas": (1.0, 0.98)}, {"size_update_period": 0}])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ConfigError):
        ScaledAdam(model().parameters(), **bad)
