"""Encoders that hear in chunks."""

import pytest
import torch
from tiny import TWO_WIDTHS

from spear import SpearConfig, SpearModel
from spear.errors import ConfigError
from spear.nn import WHOLE, ChunkSize, set_activation_checkpointing
from spear.nn.zipformer import Zipformer

CAUSAL = TWO_WIDTHS | {"causal": True, "exact_padding": True, "chunk_size": "8,16,-1", "left_context_frames": "16,-1"}


def make(**changes) -> SpearModel:
    torch.manual_seed(0)
    model = SpearModel(SpearConfig(**CAUSAL | changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("chunkwise_conv_scale"):
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make()


@torch.no_grad()
def body(model: SpearModel, x_BTD, size: ChunkSize | None, padding_BT=None):
    return model.encoder(x_BTD, padding_BT, True, size)


def test_a_frame_hears_its_chunk_and_nothing_after_it(model):
    x_BTD = torch.randn(1, 45, 32)
    other_BTD = torch.cat([x_BTD[:, :16], torch.randn(1, 29, 32)], dim=1)
    for size, is_same in (
        (ChunkSize(8), True),
        (ChunkSize(16, 16), True),
        (ChunkSize(24), False),
        (ChunkSize(WHOLE), False),
    ):
        (out, layers), (other_out, other_layers) = body(model, x_BTD, size), body(model, other_BTD, size)
        for found, changed in zip([out, *layers], [other_out, *other_layers]):
            assert torch.equal(found[:, :16], changed[:, :16]) == is_same
            assert not torch.allclose(found[:, 16:], changed[:, 16:], atol=1e-3)


def test_of_the_past_a_frame_hears_its_left_context_and_what_convolutions_reach(model):
    x_BTD = torch.randn(1, 200, 32)
    other_BTD = torch.cat([torch.randn(1, 8, 32), x_BTD[:, 8:]], dim=1)
    near, far = ([body(model, x, ChunkSize(8, left))[0][:, 160:] for x in (x_BTD, other_BTD)] for left in (8, WHOLE))
    assert torch.equal(*near) and not torch.allclose(*far, atol=1e-5)


@pytest.mark.parametrize("size", [ChunkSize(8, 16), ChunkSize(64), ChunkSize(WHOLE), None])
def test_an_utterance_in_a_padded_batch_is_the_utterance_alone(model, size):
    x_BTD = torch.randn(2, 51, 32)
    padding_BT = torch.arange(51) >= torch.tensor([[51], [37]])
    together, _ = body(model, x_BTD, size, padding_BT)
    alone, _ = body(model, x_BTD[1:, :37], size)
    torch.testing.assert_close(together[1, :37], alone[0], atol=1e-5, rtol=1e-5)


def test_what_is_not_trained_hears_in_the_largest_chunks(model):
    x_BTD = torch.randn(1, 45, 32)
    assert torch.equal(body(model, x_BTD, None)[0], body(model, x_BTD, ChunkSize(WHOLE, WHOLE))[0])
    fixed = make(chunk_size=8, left_context_frames="0,16")
    assert torch.equal(body(fixed, x_BTD, None)[0], body(fixed, x_BTD, ChunkSize(8, 16))[0])


def test_training_draws_sizes_and_every_parameter_learns(model, monkeypatch):
    drawn, draw = set(), Zipformer._chunk_size
    monkeypatch.setattr(Zipformer, "_chunk_size", lambda self: drawn.add(size := draw(self)) or size)
    model = make().train()
    features_BTF, lens_B = torch.randn(2, 61, 128), torch.tensor([61, 50])
    for seed in range(40):
        torch.manual_seed(seed)
        model.encode(features_BTF, lens_B).encoder_out.square().sum().backward()
    assert drawn == set(model.config.chunk_sizes) and len(drawn) == 6
    without = {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not without


def test_activation_checkpointing_changes_no_gradient():
    features_BTF, lens_B, found = torch.randn(2, 61, 128), torch.tensor([61, 50]), []
    for enabled in (False, True):
        model = make(chunk_size="8,16").train()
        set_activation_checkpointing(model, enabled)
        torch.manual_seed(3)
        model.encode(features_BTF, lens_B).encoder_out.square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize(
    "changes",
    [{"chunk_size": v} for v in ("12,3", "0", 0, -2, "8;16", "", "9" * 10_000, ",".join(["8"] * 40))]
    + [{"left_context_frames": v} for v in (-2, "x", "")]
    + [{"chunk_size": "0", "downsampling_factor": 1}],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))) as refused:
        SpearConfig(**CAUSAL | changes)
    assert refused.value.expected and refused.value.fix and len(str(refused.value)) < 1000


def test_a_size_for_an_encoder_without_chunks_or_that_does_not_fit_is_refused(model):
    features = torch.randn(1, 61, 128), torch.tensor([61])
    with pytest.raises(ConfigError, match="multiples of 2"):
        model.encode(*features, chunk_size=ChunkSize(7))
    with pytest.raises(ConfigError, match="whole utterances"):
        make(causal=False).encode(*features, chunk_size=ChunkSize(8))
