"""Balancers, whiteners and limits: values untouched, gradients as defined."""

import math

import pytest
import torch

from spear.nn import Balancer, Whiten
from spear.nn.balancer import _normalised_mean
from spear.nn.gradient import limit_parameter, scale_gradient
from spear.nn.whiten import whitening_metric


def gradient(module, x, grad):
    x = x.detach().clone().requires_grad_()
    y = module(x)
    assert torch.equal(y, x)
    y.backward(grad)
    return x.grad


def reference_balancer(x, grad, bounds, grad_scale=0.04):
    """The definition, by autograd."""
    min_positive, max_positive, min_abs, max_abs = bounds
    x = x.detach().clone().double().requires_grad_()
    mean, second = x.mean((0, 1)), x.square().mean((0, 1))
    ratio, rms = mean / (second - mean**2).sqrt(), second.sqrt()
    low, high = _normalised_mean(min_positive), _normalised_mean(max_positive)
    scale = math.sqrt(math.pi / 2)
    penalty = (ratio - ratio.clamp(low, high)).abs() + (rms.clamp(min_abs * scale, max_abs * scale) / rms).log().abs()
    (slope,) = torch.autograd.grad(penalty.sum(), x)
    slope = slope * grad_scale / slope.square().mean((0, 1)).sqrt().clamp(min=1e-20)
    return (grad + grad.abs() * slope).float()


@pytest.mark.parametrize("frames", [40, 700])
@pytest.mark.parametrize("bounds", [(0.4, 0.6, 0.5, 1.0), (0.0, 1.0, 0.2, 0.9), (0.3, 1.0, 2.0, 9.0)])
def test_balancer_gradient_is_the_definition(bounds, frames):
    torch.manual_seed(0)
    x = torch.randn(3, frames, 6) * torch.tensor([0.1, 1, 3, 1, 1, 1]) + torch.tensor([0, 0, 0, 2.0, -0.5, 0.05])
    grad = torch.randn(3, frames, 6)
    ours = gradient(Balancer(*bounds, probability=1.0), x, grad)
    torch.testing.assert_close(ours, reference_balancer(x, grad, bounds), rtol=1e-3, atol=1e-4)


def test_balancer_leaves_healthy_channels_alone():
    torch.manual_seed(0)
    x, grad = torch.randn(2, 500, 4), torch.randn(2, 500, 4)
    assert torch.equal(gradient(Balancer(0.3, 0.7, 0.5, 1.5, probability=1.0), x, grad), grad)


def test_balancer_on_some_channels():
    x, grad = torch.randn(2, 50, 4), torch.randn(2, 50, 4)
    changed = gradient(Balancer(0.3, 0.7, 5.0, 9.0, probability=1.0, channels=slice(2, None)), x, grad)
    assert torch.equal(changed[..., :2], grad[..., :2])
    assert not torch.allclose(changed[..., 2:], grad[..., 2:])


@pytest.mark.parametrize("module", [Balancer(min_abs=5.0, probability=1.0), Whiten(1.0, probability=1.0)])
def test_regularisers_act_in_training_only_and_survive_constant_input(module):
    x, grad = torch.randn(2, 50, 4), torch.randn(2, 50, 4)
    assert not torch.allclose(gradient(module.train(), x, grad), grad)
    assert torch.isfinite(gradient(module, torch.zeros_like(x), grad)).all()
    assert torch.isfinite(gradient(module, torch.ones_like(x), grad)).all()
    assert torch.equal(gradient(module.eval(), x, grad), grad)
    module.train().enabled = False
    assert torch.equal(gradient(module, x, grad), grad)


def test_whitening_metric():
    torch.manual_seed(0)
    assert whitening_metric(torch.randn(20000, 8)) == pytest.approx(1.0, abs=0.01)
    line = torch.randn(100, 1) * torch.ones(8)
    assert whitening_metric(line) == pytest.approx(8.0, rel=1e-3)
    assert whitening_metric(line, num_groups=4) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("groups", [1, 2])
def test_whitener_gradient_lowers_the_metric_with_the_stated_norm(groups):
    torch.manual_seed(0)
    x = torch.randn(60, 8) @ torch.randn(8, 8)
    grad = torch.randn(60, 8)
    leaf = x.clone().requires_grad_()
    whitening_metric(leaf, groups).backward()
    expected = grad + leaf.grad * (0.01 * grad.norm() / leaf.grad.norm())
    ours = gradient(Whiten(1.0, num_groups=groups, probability=1.0), x, grad)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(gradient(Whiten(100.0, probability=1.0), x, grad), grad)


def test_limited_parameters_are_turned_back():
    parameter = torch.tensor([0.1, 0.5, 1.5], requires_grad=True)
    limit_parameter(parameter, 0.2, 1.0).backward(torch.tensor([1.0, 1.0, -1.0]))
    assert parameter.grad.tolist() == [-1.0, 1.0, 1.0]


def test_scaled_gradient():
    x = torch.ones(2, requires_grad=True)
    scale_gradient(x, 0.2).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2,), 0.2))
