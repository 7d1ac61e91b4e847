"""The regression head against the formulas of USAD (arXiv 2506.18843), written out for one frame after the other."""

import math
from types import SimpleNamespace

import pytest
import torch

from spear.errors import ConfigError
from spear.models.feature_head import OUTPUT, FeatureHead, FeatureHeadSpec, spread_layers
from spear.models.heads import Encoded
from spear.teachers.align import rate_ratio

STUDENT_DIMS, OUTPUT_DIM, TARGET_DIMS = (6, 8, 6, 10), 12, (5, 5)


def build(rate_hz: float = 50.0, output_rate_hz: float = 50.0, **settings) -> FeatureHead:
    config = SimpleNamespace(layer_dims=STUDENT_DIMS, hidden_rate_hz=50)
    encoder = SimpleNamespace(config=config, output_dim=OUTPUT_DIM, frame_rate_hz=output_rate_hz)
    torch.manual_seed(1)
    dims = settings.pop("target_dims", TARGET_DIMS)
    return FeatureHeadSpec(dims, lambda student: rate_ratio(rate_hz, student), **settings).build(encoder)


def encoded_of(lens, factor: int = 1, masked: bool = False) -> Encoded:
    """Random states of utterances of so many frames at 50 Hz, the output slower by a factor."""
    torch.manual_seed(0)
    lens_B = torch.tensor(lens)
    frames, batch = max(lens), len(lens)
    count = -(-frames // factor)
    hidden_BTD = torch.randn(batch, count, OUTPUT_DIM, requires_grad=True)
    layers = [torch.randn(batch, frames, dim, requires_grad=True) for dim in STUDENT_DIMS]
    masked_BT = torch.rand(batch, count) < 0.5 if masked else torch.zeros(batch, count, dtype=torch.bool)
    return Encoded(hidden_BTD, -(-lens_B // factor), layers, lens_B, masked_BT, torch.ones(batch, count))


def targets_of(lens, dims=TARGET_DIMS) -> torch.Tensor:
    targets_BTW = torch.full((len(lens), max(lens), sum(dims)), torch.nan)
    for row, length in zip(targets_BTW, lens):
        row[:length] = torch.randn(length, sum(dims))
    return targets_BTW


def frame_loss(predicted: torch.Tensor, target: torch.Tensor) -> float:
    """(1/D) ||p - z||_1 - log sigmoid(cos(p, z)), in double precision and by hand."""
    p, z = predicted.double().tolist(), target.double().tolist()
    cosine = sum(a * b for a, b in zip(p, z)) / math.sqrt(sum(a * a for a in p) * sum(b * b for b in z))
    return sum(abs(a - b) for a, b in zip(p, z)) / len(z) + math.log(1 + math.exp(-cosine))


def test_the_loss_is_usads_for_two_teachers_of_two_rates():
    """1/(2KT) sum over t and k of both teachers' losses; of the slower one, predictions are averaged in pairs."""
    lens, count = [24, 24], 24
    encoded = encoded_of(lens)
    fast, slow = build(50.0), build(25.0)
    targets = {"fast": targets_of(lens), "slow": targets_of([12, 12])}
    ours = sum(
        head.predict(encoded, targets[name], torch.ones(2)).loss for name, head in (("fast", fast), ("slow", slow))
    ).item() / (2 * 2 * count)
    totals = {"fast": [], "slow": []}
    for name, head, stride in (("fast", fast, 1), ("slow", slow, 2)):
        for k, layer in enumerate((1, OUTPUT)):
            states = (encoded.hidden_BTD if layer == OUTPUT else encoded.layers[layer]).detach()
            first, _, last = head.taps[k]
            for row in range(2):
                hidden = torch.relu(states[row] @ first.weight.T + first.bias)
                predicted = hidden @ last.weight.T + last.bias
                for t in range(count // stride):
                    mean = predicted[t * stride : (t + 1) * stride].mean(0)
                    totals[name].append(frame_loss(mean, targets[name][row, t, 5 * k : 5 * k + 5]))
    direct = sum(sum(values) / len(values) for values in totals.values()) / 2
    assert ours == pytest.approx(direct, abs=1e-6)


@pytest.mark.parametrize("rate_hz, output_rate_hz", [(50, 50), (25, 50), (50, 25), (100, 50), (25, 25)])
def test_padding_and_other_cuts_change_nothing(rate_hz, output_rate_hz):
    lens, factor = [24, 17, 9], 50 // output_rate_hz
    head, encoded = build(rate_hz, output_rate_hz), encoded_of(lens, factor, masked=True)
    target_lens = [length * rate_hz // 50 for length in lens]
    targets, weights = targets_of(target_lens), torch.tensor([1.0, 0.3, 2.0])
    together = head.predict(encoded, targets, weights)
    losses, stats = 0.0, torch.zeros(2, 4)
    for row, (length, count) in enumerate(zip(lens, target_lens)):
        output, one = -(-length // factor), slice(row, row + 1)
        alone = Encoded(
            encoded.hidden_BTD[one, :output],
            encoded.lens_B[one],
            [layer[one, :length] for layer in encoded.layers],
            encoded.layer_lens_B[one],
            encoded.masked_BT[one, :output],
            encoded.frame_weights_BT[one, :output],
        )
        found = head.predict(alone, targets[one, :count], weights[one])
        losses, stats = losses + found.loss, stats + found.stats
    torch.testing.assert_close(together.loss, losses)
    torch.testing.assert_close(together.stats, stats)
    assert stats[:, 1].sum() > 0


def test_statistics_are_of_frames_and_taps_whatever_their_weights():
    head, encoded = build(), encoded_of([10], masked=True)
    targets = targets_of([10])
    (result, weighted) = (head.predict(encoded, targets, torch.full((1,), weight)) for weight in (1.0, 0.5))
    loss, count, difference, cosine = result.stats.sum(0).tolist()
    assert count == 20 and result.stats[0, 1] == 2 * int(encoded.masked_BT.sum())
    assert result.loss.item() == pytest.approx(loss / 2) and weighted.loss.item() == pytest.approx(loss / 4)
    assert weighted.stats.equal(result.stats) and 0 < difference < loss and -1 <= cosine / count <= 1


def test_cuts_without_weight_or_targets_still_give_gradients():
    """DDP needs every parameter used on every rank, whatever domains a batch holds."""
    for weights, targets in ((torch.zeros(2), targets_of([8, 8])), (torch.ones(2), torch.full((2, 8, 10), torch.nan))):
        head, encoded = build(), encoded_of([8, 8])
        result = head.predict(encoded, targets, weights)
        result.loss.backward()
        assert result.loss == 0 and not result.stats.any()
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
        assert encoded.hidden_BTD.grad is not None and encoded.layers[1].grad is not None


def test_layers_at_equal_distances_end_with_the_output():
    assert spread_layers(4, 12) == (2, 5, 8, OUTPUT) and spread_layers(1, 12) == (OUTPUT,)
    assert build().wants_layers and not build(target_dims=(5,)).wants_layers
    with pytest.raises(ConfigError, match="0 to 3, or -1"):
        build(student_layers=(4, OUTPUT))


@pytest.mark.parametrize("loss, expected", [("l1", 0.5), ("l2", 0.25)])
def test_plain_regression(loss, expected):
    head, encoded = build(loss=loss, target_dims=(5,)), encoded_of([6])
    predicted = head.taps[0](encoded.hidden_BTD).detach()
    result = head.predict(encoded, predicted + 0.5, torch.ones(1))
    assert result.loss.item() == pytest.approx(6 * expected, rel=1e-4)
