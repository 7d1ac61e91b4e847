"""The codec against numbers of multi_quantization (dim 24, 4 codebooks of 256)."""

import pytest
import torch

from spear.quantize import Quantizer


@pytest.fixture(scope="module")
def numbers(golden):
    return golden("mvq")[0]


def quantizer_of(numbers, prefix):
    state = {key[len(prefix) :]: value for key, value in numbers.items() if key.startswith(prefix)}
    keys = set(Quantizer(2, 2, 2).state_dict())
    chosen = {key: value for key, value in state.items() if key in keys}
    return Quantizer.from_state_dict(chosen).to(numbers["x"].device)


def mean_squared_error(quantizer, x, codes):
    return float((quantizer.decode(codes) - x).double().square().mean())


def test_state_dict_keys(numbers):
    assert set(quantizer_of(numbers, "state.").state_dict()) == {key[6:] for key in numbers if key.startswith("state.")}


def test_without_refinement_codes_are_the_same(numbers):
    codes = quantizer_of(numbers, "state.").encode(numbers["x"], refine_passes=0)
    assert torch.equal(codes.long(), numbers["indexes.refine0"])


@pytest.mark.parametrize("passes", [1, 2, 5])
@torch.no_grad()
def test_refined_codes_are_at_least_as_good(numbers, passes):
    quantizer, x = quantizer_of(numbers, "state."), numbers["x"]
    ours = mean_squared_error(quantizer, x, quantizer.encode(x, passes))
    theirs = mean_squared_error(quantizer, x, numbers[f"indexes.refine{passes}"])
    assert ours <= theirs


@pytest.mark.parametrize("passes", [0, 1, 2, 5])
def test_decode(numbers, passes):
    expected = numbers[f"decoded.refine{passes}"]
    decoded = quantizer_of(numbers, "state.").decode(numbers[f"indexes.refine{passes}"][: len(expected)])
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-4)


def test_losses(numbers):
    losses = quantizer_of(numbers, "state.").losses(numbers["x"], numbers["indexes.refine2"])
    for name, value in losses.items():
        torch.testing.assert_close(value.float(), numbers[f"loss.{name}"], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_product(numbers):
    small = quantizer_of(numbers, "product_in.")
    merged = small.product().state_dict()
    for key, value in merged.items():
        if key != "id_buf":  # drawn anew
            expected = numbers[f"product_out.{key}"]
            value = value[: len(expected)] if value.dim() else value
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)
    x = numbers["product_in.x"]
    theirs = mean_squared_error(small, x, numbers["product_in.indexes.refine2"])
    assert mean_squared_error(small, x, small.encode(x, 2)) <= theirs
