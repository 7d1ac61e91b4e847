"""Heads of transcripts: losses by value, utterances without a loss, and what is decoded."""

import pytest
import torch
from tiny import TWO_WIDTHS
from torch.nn import functional

from spear import SpearConfig, SpearModel
from spear.models.ctc_head import CtcHeadSpec
from spear.models.greedy import ctc_greedy, padded, transducer_greedy
from spear.models.heads import Encoded
from spear.models.transducer_head import TransducerHeadSpec
from spear.nn import transducer

TARGETS = torch.tensor([[1, 1, 2, -100], [3, -100, -100, -100], [1, 2, 3, 1], [-100] * 4])
LENS = torch.tensor([9, 5, 2, 7])


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return SpearModel(SpearConfig(**TWO_WIDTHS))


@pytest.fixture(scope="module")
def encoded(encoder):
    hidden = torch.randn(4, 9, encoder.output_dim, generator=torch.Generator().manual_seed(1))
    return Encoded(hidden, LENS, [], LENS, torch.zeros(4, 9, dtype=torch.bool), torch.ones(4, 9))


def part(encoded, row):
    length = int(LENS[row])
    return encoded._replace(hidden_BTD=encoded.hidden_BTD[row : row + 1, :length], lens_B=LENS[row : row + 1])


@torch.no_grad()
def test_ctc_is_a_sum_over_utterances_that_have_frames_for_their_units(encoder, encoded):
    head = CtcHeadSpec(5).build(encoder).eval()
    weights = torch.tensor([1.0, 0.5, 1.0, 1.0])  # the third has 4 units in 2 frames, the last no transcript
    result = head.predict(encoded, TARGETS, weights)
    log_probs = head.log_probs(encoded.hidden_BTD)
    one, two = (
        functional.ctc_loss(log_probs[row, : LENS[row], None], TARGETS[row : row + 1, :units], [LENS[row]], [units])
        * units
        for row, units in ((0, 3), (1, 1))
    )
    assert float(result.loss) == pytest.approx(float(one + 0.5 * two), rel=1e-5)
    assert result.stats.tolist() == [[0, 0], [pytest.approx(float(one + two), rel=1e-5), 4]]


@pytest.mark.parametrize("spec", [CtcHeadSpec(5), TransducerHeadSpec(5, 8, 8)])
def test_without_targets_every_parameter_has_a_gradient_of_zero(encoder, encoded, spec):
    head = spec.build(encoder)
    result = head.predict(encoded, torch.full((4, 0), -100), torch.ones(4))
    result.loss.backward()
    assert float(result.loss.detach()) == 0 and not result.stats.any()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())


@torch.no_grad()
def test_the_transducer_is_the_full_one_where_ranges_hold_all_states(encoder, encoded):
    head = TransducerHeadSpec(5, 8, 12, prune_range=9, warmup_batches=10).build(encoder).eval()
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0])
    result = head.predict(encoded, TARGETS, weights)
    expected, simple = [], []
    for row, units in ((0, 3), (1, 1), (2, 4)):
        hidden, targets = part(encoded, row).hidden_BTD, TARGETS[row : row + 1, :units]
        states = head.prediction.states(targets)
        logits = head.joined(head.from_encoder(hidden)[:, :, None], head.from_prediction(states)[:, None])
        lens = LENS[row : row + 1], torch.tensor([units])
        expected.append(transducer.full_loss(logits, targets, *lens))
        sides = head.simple_am(hidden), head.simple_lm(states)
        simple.append(transducer.simple_loss(*sides, targets, *lens, lm_only_scale=0.25).loss_B)
    full, sums = torch.cat(expected), torch.cat(simple)
    assert float(result.loss) == pytest.approx(float(((full + 0.5 * sums) * weights[:3]).sum()), rel=1e-5)
    row = [pytest.approx(float(full.sum()), rel=1e-5), 8, pytest.approx(float(sums.sum()), rel=1e-5)]
    assert result.stats[1].tolist() == row
    for batch, scales in ((0.0, (1.0, 0.1)), (5.0, (0.75, 0.55)), (50.0, (0.5, 1.0))):
        head.simple_scale.set_batch_count(batch)
        head.pruned_scale.set_batch_count(batch)
        loss = head.predict(encoded, TARGETS, weights).loss
        wanted = ((scales[1] * full + scales[0] * sums) * weights[:3]).sum()
        assert float(loss) == pytest.approx(float(wanted), rel=1e-5)


def test_the_prediction_network_sees_the_last_units_alone(encoder):
    network = TransducerHeadSpec(5, 8, 8).build(encoder).prediction
    states = network.states(torch.tensor([[1, 2, 3, 1, 2]]))
    assert states.shape == (1, 6, 8) and torch.allclose(states[0, 2], states[0, 5])
    assert torch.allclose(states[0, 2], network(torch.tensor([[1, 2]]))[0, 0])


def test_greedy_ctc_joins_repeats_and_drops_blanks_and_padding():
    picks = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 3], [2, 2, 0, 0, 0, 0, 0, 0]])
    log_probs = functional.one_hot(picks, 4).float().mul(5).log_softmax(-1)
    found = ctc_greedy(log_probs, torch.tensor([7, 1]))
    assert [each.units for each in found] == [[1, 1, 2], [2]]
    assert (found[0].starts, found[0].ends) == ([1, 4, 5], [2, 4, 6])
    assert found[0].score == pytest.approx(7 * float(log_probs[0, 0, 0]), rel=1e-5)
    assert padded(found).tolist() == [[1, 1, 2], [2, -100, -100]] and padded([]).shape == (0, 0)


def test_a_batch_is_decoded_as_each_utterance_alone(encoder, encoded):
    torch.manual_seed(3)
    head = TransducerHeadSpec(5, 8, 8).build(encoder).eval()
    torch.nn.init.normal_(head.output.weight, std=3)
    together = transducer_greedy(head, encoded.hidden_BTD, encoded.lens_B)
    assert sum(len(each.units) for each in together) > 4
    for row, found in enumerate(together):
        one = part(encoded, row)
        [alone] = transducer_greedy(head, one.hidden_BTD, one.lens_B)
        assert (alone.units, alone.starts) == (found.units, found.starts)
        assert alone.probabilities == pytest.approx(found.probabilities, rel=1e-4)
        assert all(found.starts.count(frame) <= 5 for frame in found.starts)
