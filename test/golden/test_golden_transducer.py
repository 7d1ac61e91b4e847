"""Transducer losses, pruning ranges and gradients against numbers of k2 1.24.4."""

import pytest
import torch

from spear.nn import transducer

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def batches(golden, kind):
    """Tensors of each batch of a kind, by name."""
    tensors, _ = golden("transducer")
    numbers = sorted({name.split(".")[1] for name in tensors if name.startswith(f"{kind}.")})
    assert numbers
    for number in numbers:
        start = f"{kind}.{number}."
        yield {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def test_full_loss_and_gradients(golden):
    for batch in batches(golden, "full"):
        logits = batch["logits"].requires_grad_()
        losses = transducer.full_loss(logits, batch["targets"], batch["frame_lens"], batch["target_lens"])
        torch.testing.assert_close(losses, batch["loss"], **TOLERANCE)
        losses.sum().backward()
        torch.testing.assert_close(logits.grad, batch["grad"], **TOLERANCE)


@pytest.mark.parametrize("num_states", [5])
def test_simple_and_pruned_losses_ranges_and_gradients(golden, num_states):
    for batch in batches(golden, "pruned"):
        am, lm = batch["am"].requires_grad_(), batch["lm"].requires_grad_()
        lens = batch["frame_lens"], batch["target_lens"]
        simple = transducer.simple_loss(am, lm, batch["targets"], *lens, lm_only_scale=0.25)
        torch.testing.assert_close(simple.loss_B, batch["simple_loss"], **TOLERANCE)
        ranges = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, num_states)
        # Where one state has all of the probability, ranges that hold it are equal but for rounding (here one frame).
        kept = [simple.blank_BTU1.gather(2, each).sum(2) for each in (ranges, batch["ranges"])]
        differs = (ranges != batch["ranges"]).any(2)
        assert differs.sum() <= 1 and (kept[0] - kept[1])[differs].abs().lt(1e-6).all()
        ranges = batch["ranges"]
        logits = torch.tanh(am[:, :, None] + transducer.at_ranges(lm, ranges)) @ batch["joiner_weight"]
        pruned = transducer.pruned_loss(logits, ranges, batch["targets"], *lens)
        torch.testing.assert_close(pruned, batch["pruned_loss"], **TOLERANCE)
        (0.5 * simple.loss_B.sum() + pruned.sum()).backward()
        torch.testing.assert_close(am.grad, batch["grad_am"], **TOLERANCE)
        torch.testing.assert_close(lm.grad, batch["grad_lm"], **TOLERANCE)
