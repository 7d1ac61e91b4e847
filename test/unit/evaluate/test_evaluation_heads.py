"""Banks of heads: as fast ways of computing give the numbers of torch's own modules, one by one."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from spear.evaluate.banks import LinearBank, ModuleBank, arithmetic
from spear.evaluate.modules import RecurrentHead, SpeakerHead, packed_lstm, padded_lstm
from spear.evaluate.problems import FrameProblem, shuffled_batches
from spear.evaluate.protocol import Settings
from spear.evaluate.run import EvaluateConfig
from spear.evaluate.suites import SUITES
from spear.evaluate.tasks import TASKS
from spear.seeds import torch_rng

RATES = (1e-2, 1e-3, 1e-4)
LENS_B = torch.tensor([3, 9, 1])


def features(dtype=torch.float32):
    return torch.randn(2, 3, 9, 4, generator=torch_rng(0, "features")).to(dtype)


def settings(**changes):
    return dataclasses.replace(Settings(RATES, hidden_dim=6, weight_decay=0.1), **changes)


def speaker_head():
    return SpeakerHead(4, 6, 8, 5)


def recurrent_head():
    return RecurrentHead(4, 5, 6, 2, 3, join=2)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_padded_lstm_gives_outputs_and_gradients_of_torchs_packed_one(layers, bidirectional):
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 7, layers, batch_first=True, bidirectional=bidirectional)
    found = []
    for run in (packed_lstm, padded_lstm):
        x_BTP = torch.randn(3, 9, 5, generator=torch_rng(0, "x")).requires_grad_()
        output = run(lstm, x_BTP, LENS_B)
        (output * torch.arange(9.0)[:, None]).square().sum().backward()
        found.append([output.detach(), x_BTP.grad, *(p.grad for p in lstm.parameters())])
        lstm.zero_grad()
    assert not found[1][0][0, 3:].any()  # zeros behind the end
    for packed, padded in zip(*found):
        torch.testing.assert_close(padded, packed, rtol=1e-4, atol=1e-5)


def test_dropout_between_the_layers_of_an_lstm_is_that_of_training_alone():
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True, dropout=0.5)
    x_BTP = torch.randn(3, 9, 5)
    first, second = (padded_lstm(lstm, x_BTP, LENS_B) for _ in range(2))
    assert not torch.equal(first, second)
    lstm.eval()
    torch.testing.assert_close(padded_lstm(lstm, x_BTP, LENS_B), packed_lstm(lstm, x_BTP, LENS_B))


@pytest.mark.parametrize("make_head", [speaker_head, recurrent_head])
def test_a_bank_trains_each_head_as_torch_would_alone(make_head):
    """Three steps of two batches each, clipped, with AdamW."""
    bank = ModuleBank(2, make_head, settings(max_gradient_norm=0.05))
    assert bank.settings.device == "cpu" and len(bank.modules) == 3
    alone = copy.deepcopy(bank.modules)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=rate, weight_decay=0.1) for m, rate in zip(alone, RATES)]

    def loss(output):
        return (output[1] if isinstance(output, tuple) else output).square().mean()

    for _ in range(3):
        for scale in (1.0, 0.5):
            found_H = bank.backward((loss(out) for out in bank.outputs(features() * scale, LENS_B)), 0.5)
            expected = [loss(module(features() * scale, LENS_B)) for module in alone]
            sum(value / 2 for value in expected).backward()
            torch.testing.assert_close(found_H, torch.stack(expected).detach())
        for module, single in zip(bank.modules, alone):
            for (name, p), (_, q) in zip(module.named_parameters(), single.named_parameters()):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-8, msg=name)
        bank.step(1.0)
        for module, optimizer in zip(alone, optimizers):
            nn.utils.clip_grad_norm_(module.parameters(), 0.05)
            optimizer.step()
            optimizer.zero_grad()
    for module, single in zip(bank.modules, alone):
        for (name, p), (_, q) in zip(module.named_parameters(), single.named_parameters()):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=name)


def test_linear_heads_have_the_gradients_of_separate_modules():
    bank = LinearBank(2, 4, 3, settings())
    bank.backward([out.square().mean() for out in bank.outputs(features(), LENS_B)], 0.5)
    heads = bank._heads
    for number in range(3):
        layer_L = torch.zeros(2, requires_grad=True)
        down, out = nn.Linear(4, 6), nn.Linear(6, 3)
        with torch.no_grad():
            down.weight.copy_(heads.down_HDP[number].T), down.bias.copy_(heads.down_bias_H1P[number, 0])
            out.weight.copy_(heads.out_HPC[number].T), out.bias.copy_(heads.out_bias_H1C[number, 0])
        mixed_BTD = torch.tensordot(layer_L.softmax(dim=0), features(), dims=1)
        (out(down(mixed_BTD)).square().mean() / 2).backward()
        torch.testing.assert_close(heads.layer_HL.grad[number], layer_L.grad)
        torch.testing.assert_close(heads.down_HDP.grad[number], down.weight.grad.T)
        torch.testing.assert_close(heads.out_HPC.grad[number], out.weight.grad.T)


@pytest.mark.parametrize("make_head", [speaker_head, recurrent_head])
def test_heads_of_a_bank_take_features_as_they_are_stored(make_head):
    bank = ModuleBank(2, make_head, settings())
    bank.train(False)
    stored, widened = features(torch.bfloat16), features(torch.bfloat16).float()
    for found, expected in zip(bank.outputs(stored, LENS_B), bank.outputs(widened, LENS_B)):
        for one, two in zip(found, expected):
            assert one.dtype == torch.float32 and torch.equal(one, two)


def test_a_bank_computes_a_head_when_its_loss_is_taken_so_that_one_alone_holds_activations():
    alive = []

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, features_BTD, lens_B):
            alive.append("forward")
            output = features_BTD * self.scale
            output.register_hook(lambda grad: alive.append("backward"))
            return output

    bank = ModuleBank(2, Head, settings())
    bank.backward((out.sum() for out in bank.outputs(features(), LENS_B)), 1.0)
    assert alive == ["forward", "backward"] * 3


def test_tf32_is_off_unless_the_settings_say_so():
    torch.backends.cudnn.allow_tf32 = True
    before = torch.get_float32_matmul_precision()
    for precision, rounded in (("float32", False), ("tf32", True), ("bfloat16", True)):
        with arithmetic(settings(precision=precision)):
            assert torch.backends.cudnn.allow_tf32 is rounded
            assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
    assert torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == before


def test_heads_in_bfloat16_are_close_and_give_float32():
    outputs = []
    for precision in ("float32", "bfloat16"):
        bank = ModuleBank(2, speaker_head, settings(precision=precision))
        outputs.append(next(iter(bank.outputs(features(), LENS_B)))[0])
    assert outputs[1].dtype == torch.float32 and not torch.equal(*outputs)
    torch.testing.assert_close(*outputs, rtol=0.05, atol=0.02)


def test_batches_are_halved_at_the_same_items_whatever_the_frame_rate():
    """Halved by frames, an encoder of 100 Hz would train on half batches where one of 25 Hz has whole ones."""
    seconds = np.asarray([8.0, 12.0, 16.0, 4.0, 20.0, 24.0, 28.0, 40.0])

    class Store:
        def __init__(self, rate_hz):
            self.frame_rate_hz = rate_hz

        def num_frames(self, key):
            return round(seconds[key] * self.frame_rate_hz)

        def hidden_states(self, key):
            return torch.zeros(1, self.num_frames(key), 2)

    rows = [SimpleNamespace(key=n, target="a", item=SimpleNamespace(duration_seconds=s)) for n, s in enumerate(seconds)]
    found = {}
    for rate_hz in (25.0, 50.0, 100.0):
        chosen = settings(batch_size=4, max_batch_seconds=60.0)
        problem = FrameProblem({"train": rows, "dev": rows}, Store(rate_hz), chosen)
        batches = [*problem.train_batches(0), *problem.in_batches("dev")]
        found[rate_hz] = [batch.tolist() for batch in batches]
        assert all(len(b) == 1 or len(b) * max(seconds[b]) <= 60 for b in batches)
        assert any(len(b) > 1 for b in batches) and any(len(b) == 1 for b in batches)
    assert found[25.0] == found[50.0] == found[100.0]


def test_a_single_item_longer_than_the_most_is_a_batch():
    assert [b.tolist() for b in shuffled_batches(np.asarray([90.0]), 4, 0, 60.0)] == [[0]]


def test_the_device_of_a_run_is_that_of_its_heads(tmp_path):
    suite = SUITES["superb"](tmp_path, "superb")
    for name in ("KS", "ASR", "ASV"):
        assert EvaluateConfig().settings(suite, TASKS[name]).device == "cpu"
        assert EvaluateConfig(device="cuda").settings(suite, TASKS[name]).device == "cuda"
