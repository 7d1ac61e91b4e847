"""The chunked token loss against plain autograd."""

import math

import torch

from spear.models.heads import CodebookHead


def plain_loss(head, hidden, targets, weights):
    """The definition, written with torch's own cross-entropy."""
    losses = torch.nn.functional.cross_entropy(
        head.logits(hidden).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
    )
    return (losses.view(targets.shape).sum(dim=1) * weights).sum() / targets.shape[1]


def make(frames=37, dim=12, codebooks=3, size=16, chunk_entries=5 * 3 * 16):
    torch.manual_seed(0)
    head = CodebookHead(dim, codebooks, size, chunk_entries)
    hidden = torch.randn(frames, dim, requires_grad=True)
    targets = torch.randint(0, size, (frames, codebooks))
    targets[torch.rand(frames, codebooks) < 0.2] = -100
    return head, hidden, targets, torch.rand(frames)


def test_chunks_give_the_loss_and_gradients_of_plain_autograd():
    head, hidden, targets, weights = make()
    expected = plain_loss(head, hidden, targets, weights)
    expected_grads = torch.autograd.grad(expected, [hidden, *head.parameters()])
    result = head(hidden, targets, weights)
    grads = torch.autograd.grad(result.loss * 3, [hidden, *head.parameters()])
    torch.testing.assert_close(result.loss, expected)
    for found, wanted in zip(grads, expected_grads):
        torch.testing.assert_close(found, 3 * wanted)


def test_no_frames_gives_zero_gradients_not_none():
    """DDP needs every parameter used on every rank, whatever domains a batch holds."""
    head, hidden, targets, weights = make()
    result = head(hidden[:0], targets[:0], weights[:0])
    result.loss.backward()
    assert result.loss == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in head.parameters())


def test_correct_counts_the_most_likely_token_and_skips_ignored_entries():
    head, hidden, targets, weights = make()
    best = head.logits(hidden).argmax(dim=2)
    result = head(hidden, torch.where(targets == -100, targets, best), weights)
    assert (result.correct_MC == (targets != -100)).all()
    assert (result.entry_loss_MC[targets == -100] == 0).all()


def test_bf16_autocast_keeps_float32_logits():
    head, hidden, targets, weights = make()
    expected = head(hidden, targets, weights).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(hidden, targets, weights).loss.item() == expected.item()


def test_small_first_weights_start_at_the_loss_of_guessing():
    torch.manual_seed(0)
    hidden = 3 * torch.nn.functional.normalize(torch.randn(500, 64)) * 64**0.5  # the length of BiasNorm's output
    targets, weights = torch.randint(0, 256, (500, 4)), torch.full((500,), 1 / 500)
    heads = [CodebookHead(64, 4, initial_scale=scale) for scale in (1.0, 0.2)]
    losses = [head(hidden, targets, weights).loss.item() for head in heads]
    assert losses[0] > 8 and abs(losses[1] - math.log(256)) < 0.3
