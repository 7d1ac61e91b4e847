"""Parts of the encoder against the released implementation: front end, stacks, loss and gradients (both sets)."""

import json

import pytest
import torch
from make_compact import FRONT_END_CHANNELS, MAX_GRADIENT_ENTRIES

from spear.audio import LOG_FLOOR
from spear.models.config import SpearConfig
from spear.models.spear import SpearModel
from spear.nn.resample import padding_mask, upsample

SMALL = ("param.encoder_embed.conv", "param.encoder.encoders.5.", "param.encoder.encoders.6.")


@pytest.fixture(scope="module")
def case(golden):
    """The model with the weights that the compact set has (of the others the wiring alone is used), and the numbers."""
    tensors, metadata = golden("spear_uniform")
    model = SpearModel(SpearConfig.from_dict(json.loads(metadata["config"]))).eval().to(tensors["loss"].device)
    own = dict(model.named_parameters())
    names = [n for n in tensors if n.startswith(SMALL) or n.startswith("param.") and "out_combiner" in n]
    assert len(names) > 90 and {n.removeprefix("param.") for n in names} <= own.keys()
    with torch.no_grad():
        for name in names:
            own[name.removeprefix("param.")].copy_(tensors[name])
    return model, tensors


def test_front_end_up_to_the_scale_of_its_norm(case):
    # BiasNorm multiplies all channels of a frame by one number, which takes all channels to compute: some channels of
    # the projection are compared in direction.
    model, tensors = case
    num_channels = model.config.output_dim
    weight, bias = (tensors[f"param.encoder_embed.out.{name}"] for name in ("weight", "bias"))
    expected = tensors["encoder_embed_out"][-1:]
    if len(weight) == num_channels:  # the large set
        weight, bias = weight[FRONT_END_CHANNELS], bias[FRONT_END_CHANNELS]
        expected = expected[:, : int(tensors["encoder_out_lens"][-1]), FRONT_END_CHANNELS]
    front_end = model.encoder_embed
    norm, front_end.out_norm = front_end.out_norm, torch.nn.Identity()
    try:
        with torch.no_grad():
            front_end.out.weight[FRONT_END_CHANNELS], front_end.out.bias[FRONT_END_CHANNELS] = weight, bias
            # In the reference's batch silence followed for longer than the convolutions see.
            frames = tensors["fbank"][-1:, :71]
            silence = torch.full_like(frames[:, :30], LOG_FLOOR)
            found = front_end(torch.cat([frames, silence], dim=1), None)[:, : expected.shape[1], FRONT_END_CHANNELS]
    finally:
        front_end.out_norm = norm
    normalise = torch.nn.functional.normalize
    assert (normalise(found, dim=2) - normalise(expected, dim=2)).abs().max() < 1e-4


@pytest.fixture(scope="module")
def last_stacks(case):
    """What the last two stacks make of the reference's states, with gradients."""
    model, tensors = case
    hidden = [tensors[name] for name in sorted(tensors) if name.startswith("hidden_states.")]
    lens, num_frames = tensors["encoder_out_lens"], hidden[0].shape[1]
    padding = padding_mask(lens, num_frames)
    stacks = model.encoder.encoders
    model.zero_grad()
    with torch.no_grad():
        x = hidden[0]
        for stack, place in zip(stacks[1:5], (1, 2, 4, 5)):  # stack 3 has two layers
            x = stack.out_combiner(x, hidden[place])
    x, (low,) = stacks[5](x, None, padding)
    states = {6: upsample(low, 2, num_frames), 7: stacks[6](x, None, padding)[-1]}
    loss = (states[7] * tensors["loss_weight"] * ~padding[..., None]).sum()
    loss.backward()
    return states, hidden, ~padding[..., None], loss


def test_a_stack_at_half_the_rate_and_one_at_the_full_rate(last_stacks):
    states, hidden, valid, _ = last_stacks
    for place, found in states.items():
        assert ((found - hidden[place]) * valid).abs().max() < 1e-4, f"layer {place}"


def test_loss_and_gradients(case, last_stacks):
    model, tensors = case
    assert last_stacks[3].item() == pytest.approx(tensors["loss"].item(), rel=1e-4)
    own, compared = dict(model.named_parameters()), 0
    for name, expected in tensors.items():
        if not name.startswith(("grad.encoder.encoders.5.", "grad.encoder.encoders.6.")):
            continue
        found = own[name.removeprefix("grad.")].grad
        if found is None or expected.numel() > MAX_GRADIENT_ENTRIES:
            assert found is not None or expected.abs().max() == 0, name
            continue
        relative = (found - expected).norm() / expected.norm().clamp(min=1e-12)
        assert relative < 1e-3, f"{name}: {relative:.2e}"
        compared += 1
    assert compared > 40
