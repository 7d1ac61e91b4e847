"""Hand-written gradients and shortcuts against plain torch."""

import pytest
import torch
import torch.nn.functional as F

from spear.nn import activations, attention, convolution, linear, norm, positions, relative, resample, subsampling


def gradients(function, *inputs):
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    output = function(*leaves)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return output.detach(), torch.autograd.grad((output * weight).sum(), leaves)


def assert_same(ours, theirs, inputs, tolerance=2e-5):
    our_output, our_gradients = gradients(ours, *inputs)
    their_output, their_gradients = gradients(theirs, *inputs)
    torch.testing.assert_close(our_output, their_output, rtol=tolerance, atol=tolerance)
    for a, b in zip(our_gradients, their_gradients):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=tolerance * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("largest", [30.0, 200.0])  # e^x is a float32, or is not
@pytest.mark.parametrize("kind, shift, offset", [("l", 4.0, 0.035), ("r", 1.0, 0.313261687)])
def test_swoosh(kind, shift, offset, largest):
    x = torch.cat([torch.linspace(-200, largest, 4001), torch.randn(7)]).view(-1, 8)

    def plain(x):
        return torch.logaddexp(x - shift, torch.zeros(())) - 0.08 * x - offset

    assert_same(lambda x: linear.swoosh_linear(kind, x, torch.eye(8), None), plain, [x])
    if kind == "r":
        assert_same(activations.swoosh_r, plain, [x])


@pytest.mark.parametrize("kind", ["l", "r"])
def test_a_linear_layer_behind_a_swoosh_in_blocks_with_a_gain_per_utterance_and_channel(kind):
    shift, offset = {"l": (4.0, 0.035), "r": (1.0, 0.313261687)}[kind]
    x, gain = 3 * torch.randn(5, 200, 300), torch.rand(5, 1, 300)
    weight, bias = 0.1 * torch.randn(7, 300), torch.randn(7)
    assert_same(
        lambda x: linear.swoosh_linear(kind, x, torch.eye(300), None, gain),
        lambda x: (F.softplus(x - shift) - 0.08 * x - offset) * gain,
        [x],
    )

    def plain(x, weight, bias):
        value = F.softplus(x - shift) - 0.08 * x - offset
        return F.linear(value * gain, weight, bias)

    assert_same(lambda *inputs: linear.swoosh_linear(kind, *inputs, gain), plain, [x, weight, bias], tolerance=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_under_autocast_are_torchs_and_keep_no_copy_of_their_weights(bias):
    ours, theirs = linear.Linear(300, 70, bias=bias), torch.nn.Linear(300, 70, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 20, 300, requires_grad=True)
    found, kept = [], []
    for layer in (ours, theirs):
        tensors = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, kept=tensors: kept.append(t) or t, lambda t: t)
        with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        found.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])])
        kept.append([t.dtype for t in tensors if t.numel() == 300 * 70])
    assert kept == [[torch.float32], [torch.bfloat16]]
    for a, b in zip(*found):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-2 * b.abs().max().item())


@pytest.mark.parametrize("batch, num_kept", [(3, 3), (50, 2)])
def test_a_layer_behind_a_swoosh_keeps_the_value_only_if_it_is_small(batch, num_kept):
    layer, x = linear.SwooshLinear("l", 300, 70), torch.randn(batch, 20, 300, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    assert len(kept) == num_kept
    assert {t.data_ptr() for t in kept[:2]} == {x.data_ptr(), layer.weight.data_ptr()}
    y.sum().backward()
    value = activations.swoosh(x.detach(), activations.SWOOSH_L).flatten(0, 1)
    torch.testing.assert_close(layer.weight.grad, value.sum(0).expand(70, -1), rtol=1e-4, atol=1e-3)


def test_swoosh_of_huge_values_and_nan():
    found = activations.swoosh_r(torch.tensor([float("nan"), 1e30, -1e30, 0.0]))
    assert found[0].isnan()
    torch.testing.assert_close(found[1:], torch.tensor([0.92e30, 0.08e30, 0.0]), rtol=1e-5, atol=1e-6)


def test_swoosh_r_of_zero_is_zero():
    assert activations.swoosh_r(torch.zeros(3)).abs().max() < 1e-7


def test_bias_norm():
    module = norm.BiasNorm(6)

    def plain(x, bias, log_scale):
        return x * log_scale.exp() / (x - bias).square().mean(-1, keepdim=True).sqrt()

    inputs = [torch.randn(3, 5, 6), 0.3 * torch.randn(6), torch.tensor(0.7)]
    assert_same(norm._BiasNormFunction.apply, plain, inputs)
    assert module(inputs[0]).shape == (3, 5, 6)


@pytest.mark.parametrize("frames", [1, 9, 40])
@pytest.mark.parametrize("kernel", [15, 31])
def test_depthwise_convolution_over_time(kernel, frames):
    def plain(x, weight, bias):
        return F.conv1d(x.transpose(1, 2), weight, bias, padding=kernel // 2, groups=8).transpose(1, 2)

    inputs = [torch.randn(3, frames, 8), torch.randn(8, 1, kernel), torch.randn(8)]
    assert_same(convolution.depthwise_over_time, plain, inputs)


def test_square_depthwise_convolution():
    def plain(x, weight, bias):
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=4).permute(0, 2, 3, 1)

    inputs = [torch.randn(2, 12, 9, 4), torch.randn(4, 1, 7, 7), torch.randn(4)]
    assert_same(subsampling._Depthwise.apply, plain, inputs)


@pytest.mark.parametrize("bins", [128, 80, 13])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_first_convolution(bins, dtype, tolerance):
    torch.manual_seed(1)  # the gradient of a bias sums thousands of numbers that may cancel down to rounding
    module = subsampling.FirstConv(5)

    def ours(x, weight, bias):
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,))

    def plain(x, weight, bias):
        return F.conv2d(x.unsqueeze(1), weight, bias, padding=(0, 1)).permute(0, 2, 3, 1)

    inputs = [torch.randn(2, 11, bins), torch.randn(5, 1, 3, 3), torch.randn(5)]
    assert_same(ours, plain, [value.to(dtype) for value in inputs], tolerance)


@pytest.mark.parametrize("batch", [1, 2, 6])  # both ways of computing the positional term
@pytest.mark.parametrize("padded", [False, True])
def test_attention_weights(batch, padded):
    heads, frames, channels = 2, 9, 3
    lens = torch.linspace(frames - 4, frames, batch).long()
    padding = torch.arange(frames) >= lens[:, None] if padded else None

    def ours(q, k, p, position):
        weights, first = attention._AttentionWeights.apply(q, k, p, position, padding, heads, False)
        return torch.cat([weights.flatten(), first.flatten()])

    def plain(q, k, p, position):
        q, k, p = (x.view(batch, heads, frames, -1) for x in (q, k, p))
        offset = torch.arange(frames) - torch.arange(frames)[:, None] + frames - 1
        scores = q @ k.mT + torch.einsum("bhic,hcij->bhij", p, position[:, :, offset])
        if padded:
            scores = scores.masked_fill(padding[:, None, None], -1000.0)
        weights = scores.softmax(-1)
        return torch.cat([weights.flatten(), weights[:, 0].flatten()])

    shapes = [(batch * heads, frames, 5)] * 2 + [(batch * heads, frames, channels), (heads, channels, 2 * frames - 1)]
    assert_same(ours, plain, [torch.randn(shape) for shape in shapes])


def test_both_positional_computations_agree_on_memory_layout():
    p, position = torch.randn(8, 6, 4), torch.randn(2, 4, 11)
    by_frame, by_offset = torch.zeros(8, 6, 6), torch.zeros(8, 6, 6)
    relative.add_relative_scores(by_frame, p, position)
    for utterance in range(4):  # alone, the other way is taken
        part = slice(2 * utterance, 2 * utterance + 2)
        relative.add_relative_scores(by_offset[part], p[part], position)
    torch.testing.assert_close(by_frame, by_offset)


def test_large_scores_are_pushed_back_only_when_asked():
    q = torch.full((1, 2, 1), 6.0)
    p, position = torch.zeros(1, 2, 1), torch.zeros(1, 1, 3)
    for penalise in (False, True):
        leaf = q.clone().requires_grad_()
        weights, _ = attention._AttentionWeights.apply(leaf, q, p, position, None, 1, penalise)
        weights.sum().backward()
        assert (leaf.grad.abs().max() > 1e-4) == penalise


def test_relative_positions():
    table = positions.relative_positions(50, 48)
    assert table.shape == (99, 48)
    torch.testing.assert_close(table[:, -1], torch.ones(99))
    torch.testing.assert_close(table[49, 0::2], torch.ones(24))  # offset 0: cosines are 1
    torch.testing.assert_close(table[:, 0], table.flip(0)[:, 0])  # cosines are even
    torch.testing.assert_close(table[:, 1], -table.flip(0)[:, 1])  # sines are odd
    module = positions.RelativePositions(48).eval()
    module(80, torch.device("cpu"))
    torch.testing.assert_close(module(50, torch.device("cpu")), table)


def test_downsampling_repeats_the_last_frame_and_upsampling_crops():
    module = resample.Downsample(4)
    x = torch.arange(6.0).view(1, 6, 1)
    torch.testing.assert_close(module(x).flatten(), torch.tensor([1.5, 4.75]))
    assert resample.upsample(module(x), 4, 6).flatten().tolist() == [1.5] * 4 + [4.75] * 2


def test_channels_are_cut_or_filled_with_zeros():
    x = torch.ones(1, 2, 4)
    assert resample.with_channels(x, 3).shape == (1, 2, 3)
    assert resample.with_channels(x, 6).sum() == 8


def test_padding_mask_is_none_without_padding():
    assert resample.padding_mask(torch.tensor([5, 5]), 5) is None
    assert resample.padding_mask(torch.tensor([5, 3]), 5).sum() == 2
