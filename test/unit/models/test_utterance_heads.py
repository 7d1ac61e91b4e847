"""Heads of fine-tuning against their formulas, alone and in a padded batch."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from spear.models.heads import Encoded
from spear.models.speaker_head import SpeakerHead, margin_logits
from spear.models.utterance_heads import ClassificationHead, TaggingHead

LENS, DIM = [20, 11, 5], 12
ENCODER = SimpleNamespace(
    config=SimpleNamespace(layer_dims=(12, 12), hidden_rate_hz=50), output_dim=DIM, frame_rate_hz=50.0
)
ALL = {
    "tagging": lambda: TaggingHead(ENCODER, 4),
    "weighted tagging": lambda: TaggingHead(ENCODER, 4, "weighted"),
    "classification": lambda: ClassificationHead(ENCODER, 4),
    "attentive classification": lambda: ClassificationHead(ENCODER, 4, pooling="attentive"),
    "verification": lambda: SpeakerHead(ENCODER, 4, channels=16, embedding_dim=8),
}


def encoded_of(rows=(0, 1, 2)) -> Encoded:
    """States of some of the utterances; padding holds what must not be looked at."""
    torch.manual_seed(0)
    states = [[torch.randn(length, DIM) for length in LENS] for _ in range(4)]
    lens_B = torch.tensor([LENS[row] for row in rows])

    def padded(state):
        x_BTD = torch.full((len(lens_B), int(lens_B.max()), DIM), 99.0)
        for place, row in enumerate(rows):
            x_BTD[place, : LENS[row]] = state[row]
        return x_BTD.requires_grad_()

    hidden, first, second, embed = map(padded, states)
    zeros = torch.zeros(hidden.shape[:2])
    return Encoded(hidden, lens_B, [first, second], lens_B, zeros.bool(), zeros + 1, embed)


def build(name: str):
    torch.manual_seed(1)
    return ALL[name]().eval()


def targets(name: str) -> torch.Tensor:
    if "tagging" in name:
        return torch.tensor([[[1.0, 0, 0.3, 0]], [[0, 1, 1, -100]], [[-100.0] * 4]])
    return torch.tensor([2, 0, -100])[:, None, None]


@pytest.mark.parametrize("name", ALL)
def test_padding_and_other_utterances_change_nothing(name):
    head = build(name)
    together = head.predict(encoded_of(), targets(name), torch.ones(3))
    for row in range(2):
        alone = head.predict(encoded_of([row]), targets(name)[[row]], torch.ones(1))
        for one, of_all in zip(alone.scores, together.scores):
            torch.testing.assert_close(one[0], of_all[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_unknown_targets_and_weights_of_zero_do_not_count_and_every_parameter_has_a_gradient(name):
    head = build(name)
    parts = [head.predict(encoded_of([row]), targets(name)[[row]], torch.ones(1)) for row in range(3)]
    assert [float(part.stats[1, 1]) for part in parts] == [1, 1, 0]
    both = head.predict(encoded_of(), targets(name), torch.tensor([0.5, 0.0, 2.0]))
    torch.testing.assert_close(both.loss, 0.5 * parts[0].loss, rtol=1e-4, atol=1e-5)
    assert both.stats[0].tolist() == [0.0] * both.stats.shape[1] and float(both.stats[1, 1]) == 1
    encoded = encoded_of([2])
    head.train().predict(encoded, targets(name)[[2]], torch.ones(1)).loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in [*head.parameters(), encoded.hidden_BTD])


def test_tagging_is_the_mean_of_logits_and_binary_cross_entropy():
    head, encoded = build("tagging"), encoded_of()
    expected = []
    for row, length in enumerate(LENS):
        frames = encoded.hidden_BTD[row, :length] @ head.output.weight.T + head.output.bias
        expected.append(frames.mean(0))
    torch.testing.assert_close(head.logits(encoded), torch.stack(expected))
    probabilities = torch.stack(expected).sigmoid().double().tolist()
    losses = []
    for row, wanted in enumerate(targets("tagging")[:2, 0].tolist()):
        known = [(p, y) for p, y in zip(probabilities[row], wanted) if y >= 0]
        losses.append(-sum(y * math.log(p) + (1 - y) * math.log(1 - p) for p, y in known) / len(known))
    found = head.predict(encoded, targets("tagging"), torch.ones(3))
    assert found.loss.item() == pytest.approx(sum(losses), rel=1e-5)


def test_classification_pools_and_counts_what_is_right():
    head, encoded = build("classification"), encoded_of()
    pooled = torch.stack([encoded.hidden_BTD[row, :length].mean(0) for row, length in enumerate(LENS)])
    logits = pooled @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head.logits(encoded), logits)
    found = head.predict(encoded, logits.argmax(1)[:, None, None], torch.ones(3))
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, logits.argmax(1), reduction="sum"))
    assert found.stats[1].tolist()[1:] == [3, 3]


def test_the_margin_makes_the_angle_of_the_right_speaker_larger():
    cosines = torch.tensor([[0.8, 0.1], [0.2, -0.5], [0.0, -0.995]])
    found = margin_logits(cosines, torch.tensor([0, 1, 1]), 0.2, 30.0)
    for row, own in ((0, 0), (1, 1)):
        value = float(cosines[row, own])
        assert float(found[row, own]) == pytest.approx(30 * math.cos(math.acos(value) + 0.2), abs=1e-3)
        assert float(found[row, 1 - own]) == pytest.approx(30 * float(cosines[row, 1 - own]), abs=1e-4)
    # Beyond pi - margin a cosine would rise again.
    assert float(found[2, 1]) == pytest.approx(30 * (-0.995 - 0.2 * math.sin(0.2)), abs=1e-3)
    falling = margin_logits(torch.linspace(-0.999, 0.999, 500)[:, None], torch.zeros(500, dtype=torch.long), 0.2, 1.0)
    assert (falling.diff(dim=0) > 0).all()


def test_embeddings_have_length_one():
    torch.testing.assert_close(build("verification").embed(encoded_of()).norm(dim=1), torch.ones(3))
