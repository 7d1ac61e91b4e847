"""The prediction head against the reference's numbers."""

import pytest
import torch

from spear.models.heads import CodebookHead


@pytest.mark.parametrize("chunk_entries", [1 << 23, 7 * 4 * 256])
def test_independent_head_loss_and_gradients(golden, chunk_entries):
    tensors, _ = golden("mvq")
    predictor = tensors["independent.predictor"].clone().requires_grad_()
    targets = tensors["independent.targets"]
    num_codebooks = targets.shape[2]
    head = CodebookHead(predictor.shape[2], num_codebooks, chunk_entries=chunk_entries)
    head.linear2b_weight.data = tensors["independent.param.linear2b_weight"]
    head.linear2_bias.data = tensors["independent.param.linear2_bias"]

    # The reference sums over entries; ours divides by the number of codebooks.
    weights = torch.full((targets.shape[0] * targets.shape[1],), float(num_codebooks), device=targets.device)
    result = head(predictor.flatten(0, 1), targets.flatten(0, 1), weights)
    result.loss.backward()

    torch.testing.assert_close(result.entry_loss_MC.flatten(), tensors["independent.loss"], atol=1e-5, rtol=1e-5)
    for found, name in (
        (predictor.grad, "independent.grad_predictor"),
        (head.linear2b_weight.grad, "independent.grad.linear2b_weight"),
        (head.linear2_bias.grad, "independent.grad.linear2_bias"),
    ):
        torch.testing.assert_close(found[: len(tensors[name])], tensors[name], atol=1e-5, rtol=1e-3)
