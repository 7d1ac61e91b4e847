"""The codec: encoding, decoding, losses, merging, and what happens with extreme inputs."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spear.errors import ConfigError, DataError
from spear.quantize import Quantizer
from spear.quantize.smallest import top_smallest


def random_quantizer(dim: int, num_codebooks: int, codebook_size: int, seed: int) -> Quantizer:
    torch.manual_seed(seed)
    quantizer = Quantizer(dim, num_codebooks, codebook_size)
    with torch.no_grad():
        quantizer.centers.normal_()
        quantizer.centers_scale.fill_(-0.05)
        quantizer.logits_scale.fill_(0.02)
    return quantizer.eval()


def errors(quantizer, x, codes):
    with torch.no_grad():
        return (quantizer.decode(codes) - x).double().square().sum(dim=-1)


@settings(max_examples=25, deadline=None)
@given(
    num_codebooks=st.sampled_from([1, 2, 4, 8]),
    codebook_size=st.sampled_from([2, 4, 16, 64]),
    dim=st.integers(1, 20),
    beam=st.sampled_from([1, 2, 5, 16]),
    seed=st.integers(0, 10**6),
)
def test_more_passes_never_raise_the_error(num_codebooks, codebook_size, dim, beam, seed):
    quantizer = random_quantizer(dim, num_codebooks, codebook_size, seed)
    x = 2 * torch.randn(40, dim)
    before = errors(quantizer, x, quantizer.encode(x, 0))
    for passes in (1, 2, 3, 5, 8):
        now = errors(quantizer, x, quantizer.encode(x, passes, beam))
        assert (now <= before * (1 + 1e-5) + 1e-6).all()
        before = now


def test_search_finds_the_best_combination_of_small_codebooks():
    quantizer = random_quantizer(6, 2, 8, seed=1)
    x = torch.randn(200, 6)
    every = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    best = torch.cdist(x, quantizer.decode(every).detach()).square().amin(dim=1)
    # A beam as wide as the codebook has looked at every combination after one sweep.
    found = errors(quantizer, x, quantizer.encode(x, 1, beam=64))
    torch.testing.assert_close(found.float(), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("width, count", [(7, 3), (40, 8), (96, 6), (256, 16), (1536, 6), (4096, 16), (96, 1)])
def test_the_smallest_entries_of_rows_are_those_of_topk(width, count, threads):
    values = torch.randn(50, width, generator=torch.Generator().manual_seed(width)).round(decimals=2)  # equal ones
    values[::2, 2:] = float("inf")  # fewer finite ones than are asked for
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, places = top_smallest(values, count)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, values.topk(count, dim=1, largest=False).values)
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row)) == count for row in places.tolist())


def test_a_wider_beam_lowers_the_error(trained, frames):
    quantizer, _ = trained
    x = frames[:1000]
    means = [errors(quantizer, x, quantizer.encode(x, 2, beam)).mean() for beam in (1, 4, 16)]
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_bfloat16_products_cost_little_error_and_passes_never_raise_it(trained, frames, scale):
    quantizer, _ = trained
    x = frames[:500] * scale
    found = [errors(quantizer, x, quantizer.encode(x, passes, 4, bfloat16=passes > 0)) for passes in (0, 1, 2, 5)]
    assert all((more <= less).all() for less, more in zip(found, found[1:]))
    assert found[-1].mean() <= 1.01 * errors(quantizer, x, quantizer.encode(x, 5, 4)).mean()
    if scale == 1:  # vectors far from all codes leave little to choose
        assert not torch.equal(quantizer.encode(x, 1, 4, bfloat16=True), quantizer.encode(x, 1, 4))


def test_permuting_the_batch_permutes_the_codes(trained, frames):
    quantizer, _ = trained
    x = frames[:1500]  # several chunks
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantizer.encode(x)[order], quantizer.encode(x[order]))
    assert torch.equal(quantizer.encode(x), quantizer.encode(x))


def test_coding_the_decoded_vector_again_loses_less_than_the_first_time(trained, frames):
    quantizer, _ = trained
    codes = quantizer.encode(frames[:500])
    first = errors(quantizer, frames[:500], codes)
    decoded = quantizer.decode(codes).detach()
    again = errors(quantizer, decoded, quantizer.encode(decoded))
    assert (again <= first).float().mean() > 0.98 and again.mean() < 0.1 * first.mean()


@pytest.mark.parametrize("shape", [(24,), (1, 24), (0, 24), (2, 0, 24), (2, 3, 24)])
def test_shapes(trained, shape):
    quantizer, _ = trained
    codes = quantizer.encode(torch.zeros(shape))
    assert codes.shape == (*shape[:-1], 4) and codes.dtype == torch.uint8
    assert quantizer.decode(codes).shape == shape


def test_a_single_frame_codes_like_its_batch(trained, frames):
    quantizer, _ = trained
    together = quantizer.encode(frames[:64])
    alone = torch.stack([quantizer.encode(frame) for frame in frames[:64]])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6, 1e15])
def test_extreme_scales_are_coded(trained, frames, scale):
    quantizer, _ = trained
    x = frames[:50] * scale
    codes = quantizer.encode(x)
    assert (errors(quantizer, x, codes) <= errors(quantizer, x, quantizer.encode(x, 0))).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_values_that_are_not_finite_are_refused_with_their_count(trained, value):
    quantizer, _ = trained
    x = torch.zeros(10, 24)
    x[3, 5] = x[7, 0] = x[7, 1] = value
    with pytest.raises(DataError, match="2 of 10 rows"):
        quantizer.encode(x)


def test_half_precision_input(trained, frames):
    quantizer, _ = trained
    half = frames[:100].half()
    assert torch.equal(quantizer.encode(half), quantizer.encode(half.float()))


def test_wrong_sizes_are_refused(trained):
    quantizer, _ = trained
    with pytest.raises(DataError, match="24"):
        quantizer.encode(torch.zeros(3, 25))
    with pytest.raises(DataError, match=r"\(\.\.\., 4\)"):
        quantizer.decode(torch.zeros(3, 5, dtype=torch.long))
    with pytest.raises(DataError, match="-100"):
        quantizer.decode(torch.full((3, 4), -100))
    for sizes in ((24, 3, 16), (24, 4, 48), (24, 4, 512), (24, 0, 16)):
        with pytest.raises(ConfigError):
            Quantizer(*sizes)


def test_tables_follow_the_weights(trained, frames):
    quantizer = copy.deepcopy(trained[0])
    x = frames[:100]
    before = quantizer.encode(x)
    with torch.no_grad():
        quantizer.centers.copy_(quantizer.centers.flip(1))
        quantizer.to_logits.weight.copy_(quantizer.to_logits.weight.view(4, 32, 24).flip(1).flatten(0, 1))
        quantizer.to_logits.bias.copy_(quantizer.to_logits.bias.view(4, 32).flip(1).flatten())
    assert torch.equal(31 - quantizer.encode(x), before)
    other = Quantizer(24, 4, 32)
    other.load_state_dict(trained[0].state_dict())
    assert torch.equal(other.encode(x), before)


def test_losses_have_the_gradients_they_should(frames):
    quantizer = Quantizer(24, 4, 16)
    x = frames[:300]
    losses = quantizer.losses(x, quantizer.encode(x, 2))
    grads = torch.autograd.grad(losses["relative_reconstruction"], list(quantizer.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(quantizer.named_parameters(), grads) if g is not None}
    assert reached == {"centers", "centers_scale"}
    grads = torch.autograd.grad(losses["logprob"], list(quantizer.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(quantizer.named_parameters(), grads) if g is not None}
    assert reached == {"to_logits.weight", "to_logits.bias", "logits_scale"}
    assert not losses["index_entropy"].requires_grad and 0 <= losses["index_entropy"] <= 1


def test_merged_codebooks_decode_alike(frames):
    small = random_quantizer(24, 8, 16, seed=3)
    merged = small.product()
    codes = small.encode(frames[:100]).long()
    pairs = 16 * codes[:, 0::2] + codes[:, 1::2]
    assert merged.num_codebooks == 4 and merged.codebook_size == 256
    torch.testing.assert_close(merged.decode(pairs), small.decode(codes), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError):
        merged.product()
