"""`regularisers: exact`, constant attention and schedules, as the SPEAR authors' training has them."""

import pytest
import torch
from test_regularisers import gradient, reference_balancer
from tiny import SEVEN_STACKS

from spear.models.config import SpearConfig
from spear.models.spear import SpearModel
from spear.nn import Balancer, BiasNorm, Whiten, ZipformerLayer, set_batch_count, set_whitening_memory, whitening_memory
from spear.nn import layer as layer_module
from spear.nn.whiten import whitening_metric

SMALL = SEVEN_STACKS | {"value_head_dim": "12", "subsampling_channels": "4,4,8"}


def test_an_exact_balancer_takes_all_frames():
    """Every second frame is unlike the others: a balancer that looks at a part of them sees another channel."""
    torch.manual_seed(0)
    x = torch.randn(1, 6000, 3)
    x[:, ::2] *= 0.01
    grad, bounds = torch.randn_like(x), (0.4, 0.6, 0.6, 1.0)
    fast, exact = (Balancer(*bounds, probability=1.0) for _ in range(2))
    exact.exact = True
    expected = reference_balancer(x, grad, bounds)
    torch.testing.assert_close(gradient(exact, x, grad), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(gradient(fast, x, grad), expected, rtol=1e-2, atol=1e-2)


def test_an_exact_whitener_takes_all_frames():
    torch.manual_seed(0)
    x = torch.randn(2, 4000, 8)
    x[:, ::2] = x[:, ::2, :1]  # half of the frames lie on a line
    grad = torch.randn_like(x)
    leaf = x.clone().requires_grad_()
    whitening_metric(leaf.flatten(0, 1)).backward()
    expected = grad + leaf.grad * (0.01 * grad.norm() / leaf.grad.norm())
    exact = Whiten(1.0, probability=1.0)
    exact.exact = True
    torch.testing.assert_close(gradient(exact, x, grad), expected, rtol=1e-3, atol=1e-4)


def test_an_exact_whitener_looks_seldom_once_all_is_well():
    """Ten times as seldom as one whose limit was exceeded when it last looked; the fast one has one probability."""
    torch.manual_seed(0)
    line = (torch.randn(60, 1) * torch.ones(8)).requires_grad_()
    white = torch.randn(60, 8).requires_grad_()

    def share(module, x, steps=4000):
        return sum(module(x) is not x for _ in range(steps)) / steps

    module = Whiten(2.0)
    module.exact = True
    assert share(module, line) == pytest.approx(0.25, abs=0.03)
    for x, exceeded, rate in ((white, False, 0.025), (line, True, 0.25)):
        for _ in range(1000):  # until it has looked
            module(x).sum().backward()
        assert module.exceeded == exceeded
        assert share(module, x) == pytest.approx(rate, abs=0.03)
    module.exact = False
    module.exceeded = False
    assert share(module, white) == pytest.approx(0.25, abs=0.03)


def test_the_limit_of_an_exact_norm_acts_on_six_steps_of_ten():
    torch.manual_seed(0)
    norm = BiasNorm(4)
    with torch.no_grad():
        norm.log_scale.fill_(2.0)

    def turned():
        norm.log_scale.grad = None
        (-norm(torch.ones(1, 1, 4))).sum().backward()  # descent would let it grow
        return norm.log_scale.grad.item() > 0

    assert all(turned() for _ in range(20))
    norm.exact = True
    assert sum(turned() for _ in range(1000)) == pytest.approx(600, abs=60)


def test_the_configuration_reaches_every_part():
    exact = SpearModel(SpearConfig(**SMALL, regularisers="exact"))
    fast = SpearModel(SpearConfig(**SMALL))
    for model, wanted in ((exact, True), (fast, False)):
        parts = [part for part in model.modules() if isinstance(part, Balancer | Whiten | BiasNorm)]
        assert len(parts) > 100 and all(part.exact == wanted for part in parts)
    assert exact.state_dict().keys() == fast.state_dict().keys()


def test_the_memory_of_whiteners_can_be_kept():
    model = SpearModel(SpearConfig(**SMALL, regularisers="exact"))
    memory = whitening_memory(model)
    assert set(memory) == {"1"} and len(memory) > 50
    changed = "01" + memory[2:]
    set_whitening_memory(model, changed)
    assert whitening_memory(model) == changed


@pytest.mark.parametrize("wanted", [False, True])
def test_constant_attention_is_an_option(wanted, monkeypatch):
    """Published models never had it: the condition of their code never holds."""
    calls = []
    monkeypatch.setattr(layer_module, "constant_weights", lambda weights: calls.append(1) or weights)
    config = SpearConfig(**SMALL, constant_attention=True) if wanted else SpearConfig(**SMALL)
    model = SpearModel(config).train()
    set_batch_count(model, 0)
    assert sum(isinstance(part, ZipformerLayer) for part in model.modules()) == 7
    for _ in range(20):  # a quarter of the layers of untrained models
        model.encode(torch.randn(1, 40, 128), torch.tensor([40]))
    assert bool(calls) == wanted


@pytest.mark.parametrize("count, rate", [(0, 0.2), (10_000, 0.1075), (16_000, 0.052), (20_000, 0.015), (90_000, 0.015)])
def test_the_front_end_drops_its_layer_less_and_less_until_20000(count, rate):
    model = SpearModel(SpearConfig(**SMALL))
    set_batch_count(model, count)
    assert float(model.encoder_embed.convnext.layer_skip_rate) == pytest.approx(rate)
