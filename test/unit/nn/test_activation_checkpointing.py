"""Layers that keep only their input give the same results, with the same random draws."""

import torch

from spear.models.config import SpearConfig
from spear.models.spear import SpearModel
from spear.nn import set_activation_checkpointing, set_batch_count


def gradients(model, enabled: bool) -> list[torch.Tensor]:
    set_activation_checkpointing(model, enabled)
    torch.manual_seed(5)
    out = model.encode(torch.linspace(-8, 2, 2 * 90 * 128).sin().view(2, 90, 128), torch.tensor([90, 70])).encoder_out
    out.square().sum().backward()
    found = [out.detach()] + [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return found


def test_outputs_and_gradients_are_the_same_bit_for_bit():
    torch.manual_seed(0)
    sizes = {"encoder_dim": 32, "encoder_unmasked_dim": 24, "feedforward_dim": 48, "num_heads": 2}
    model = SpearModel(SpearConfig(num_encoder_layers="1,2,1", downsampling_factor="1,2,4", cnn_module_kernel="15,15,7",
                                   subsampling_channels="4,4,8", **sizes)).train()  # fmt: skip
    set_batch_count(model, 100.0)  # early: everything that is random is at work
    plain, recomputed = gradients(model, False), gradients(model, True)
    assert len(plain) == len(recomputed) > 50
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed))
    assert not torch.equal(plain[0], gradients(model.eval(), True)[0])
