"""Half of the batch limit with twice the accumulation: the same loss, gradient and step for the same cuts."""

import numpy as np
import pytest
import torch
from tiny import SIZES

from spear.data import Plan, PretrainDataset, Sources
from spear.models.mask import MaskConfig, sample_masks
from spear.nn.attention import AttentionWeights
from spear.optim import ScaledAdam
from spear.seeds import numpy_rng

MODEL = SIZES | {"exact_padding": True}


def accumulated(trainer, sizes: list[int]) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Loss and gradients summed over batches of so many cuts, and the parameters after a step with them.

    Without what a batch draws for itself: mixing, dropout, skipped layers and gradient regularisers. Masks are those of
    the cuts in one batch, whatever batch they come in.
    """
    data, model = trainer.data.train, trainer.model.eval()
    plain = PretrainDataset(Sources(data.cuts, None, data.streams, {}), seed=0)
    offsets = np.cumsum([0, *sizes])
    cuts = np.argsort(data.cuts.durations_seconds)[[0, 3, 6, 9, 12, 15]]
    plan = Plan(cuts, offsets, np.ones(len(sizes)), 1, "accumulation")
    whole = plain.batch(Plan(cuts, np.asarray([0, len(cuts)]), np.ones(1), 1, "whole"), 0, 0, 0)
    masks = sample_masks(
        whole.feature_lens_B.tolist(), *whole.features_BTF.shape[1:], MaskConfig(), numpy_rng(0, "mask", 0)
    )
    model.zero_grad(set_to_none=True)
    loss = 0.0
    for number, start in enumerate(offsets[:-1]):
        batch = plain.batch(plan, 0, number, 0)
        rows, frames = slice(start, offsets[number + 1]), batch.features_BTF.shape[1]
        lens_B = model.output_lengths(batch.feature_lens_B)
        targets = {name: objective.targets(batch, lens_B) for name, objective in trainer.objectives.items()}
        weights = {name: torch.ones(len(batch.ids)) for name in targets}
        time_mask_BT, channel_mask_BF = torch.from_numpy(masks[0][rows, :frames]), torch.from_numpy(masks[1][rows])
        output = model(batch.features_BTF, batch.feature_lens_B, targets, weights, time_mask_BT, channel_mask_BF)
        output.loss.backward()
        loss += float(output.loss.detach())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ScaledAdam(model.parameters(), lr=0.045).step()
    after = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    return loss, gradients, after


@pytest.mark.parametrize("sizes", [[3, 3], [1, 2, 2, 1]])
def test_the_sum_over_smaller_batches_is_that_of_one_batch(make_trainer, sizes):
    trainer = make_trainer(precision="fp32", model=MODEL)
    loss, gradients, after = accumulated(trainer, [6])
    other_loss, other_gradients, other_after = accumulated(trainer, sizes)
    assert loss > 100 and other_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        error = torch.linalg.vector_norm(other_gradients[name] - gradient)
        assert error <= 1e-5 * torch.linalg.vector_norm(gradient) + 1e-4, (name, float(error))
    keys = _biases_of_keys(trainer.model)
    for name, part in keys.items():
        # A softmax does not see what is added to all keys. Of such a gradient only rounding is left, which Adam's first
        # step blows up to its full size; so the gradient is looked at, and not the step.
        for found in (gradients[name], other_gradients[name]):
            assert found[part].abs().max() < 1e-5 * found.abs().max()
        after[name][part] = other_after[name][part] = 0
    changed = [name for name in after if not torch.allclose(other_after[name], after[name], rtol=1e-3, atol=1e-4)]
    assert keys and not changed, changed


def _biases_of_keys(model) -> dict[str, slice]:
    """Where they are, by name of the parameter."""
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, AttentionWeights)]
    return {f"{name}.in_proj.bias": slice(m.widths[0], m.widths[0] + m.widths[1]) for name, m in modules}
