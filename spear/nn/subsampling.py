"""Convolutional front end: 100 Hz log-mel frames to 50 Hz embeddings (Zipformer, 3.3).

T frames become (T - 7) // 2: output frame t sees input frames 2t ... 2t + 8 (and its neighbours through the ConvNeXt
layer). Activations are kept channels-last, (B, T, frequency, C), so that 1x1 convolutions are matrix products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from spear.nn.activations import swoosh_r
from spear.nn.balancer import Balancer
from spear.nn.gradient import scale_gradient
from spear.nn.linear import linear, swoosh_linear
from spear.nn.norm import BiasNorm
from spear.nn.schedule import ScheduledFloat, keep_mask, schedule, shared_dropout_mask
from spear.nn.whiten import Whiten

MIN_FRAMES = 9


def output_frames(num_frames):
    """(T - 7) // 2, for integers and tensors."""
    return (num_frames - 7) // 2


def _nchw(x_BTFC: Tensor) -> Tensor:
    return x_BTFC.permute(0, 3, 1, 2)


def _btfc(x_BCTF: Tensor) -> Tensor:
    return x_BCTF.permute(0, 2, 3, 1)


class FirstConv(nn.Conv2d):
    """The 3x3 convolution of one input channel, as a product with a banded matrix.

    A convolution kernel has nothing to reuse in a single channel. Eight neighbouring outputs of one frame depend on a
    3 x 10 patch of the input: patches (.., 30) times a matrix (30, 8 * C) of the weights is several times faster than
    oneDNN in both directions, and gives channels-last output.
    """

    WIDTH = 8

    def __init__(self, channels: int):
        super().__init__(1, channels, 3, padding=(0, 1))
        # Which tap meets patch column i at output column o: i - o, where it is one of 0, 1, 2 (3: none).
        taps = ((i - o for o in range(self.WIDTH)) for i in range(self.WIDTH + 2))
        self._tap = [[tap if 0 <= tap < 3 else 3 for tap in row] for row in taps]

    def forward(self, features_BTF: Tensor) -> Tensor:
        """(B, T, F) -> (B, T - 2, F, C)."""
        width, bins = self.WIDTH, features_BTF.shape[-1]
        columns = F.pad(features_BTF, (1, 1 + -bins % width)).unfold(2, width + 2, width)
        patches = torch.cat([columns[:, :-2], columns[:, 1:-1], columns[:, 2:]], dim=-1)
        taps_time_freq_C = F.pad(self.weight.squeeze(1).permute(1, 2, 0), (0, 0, 0, 1))
        matrix = taps_time_freq_C[:, self._tap].flatten(2).flatten(0, 1)
        y = F.linear(patches, matrix.T, self.bias.repeat(width))
        return y.unflatten(-1, (width, -1)).flatten(2, 3)[:, :, :bins]


def _convolve(conv: nn.Conv2d, x_BTFC: Tensor) -> Tensor:
    """(B, T, F, C) -> (B, T', F', C'). The weights' gradient gets their layout, which DDP wants; cuDNN's is another."""
    weight = conv.weight.flatten(1).unflatten(1, conv.weight.shape[1:])
    return _btfc(F.conv2d(_nchw(x_BTFC), weight, conv.bias, conv.stride, conv.padding, 1, conv.groups))


class _Depthwise(torch.autograd.Function):
    """7x7 depthwise convolution of (B, T, F, C) on a CPU.

    oneDNN's kernels for the weights' gradient are slow for square windows: it is taken column by column.
    """

    @staticmethod
    def forward(ctx, x_BTFC, weight, bias):
        ctx.save_for_backward(x_BTFC, weight)
        return _btfc(torch.conv2d(_nchw(x_BTFC), weight, bias, 1, weight.shape[-1] // 2, 1, len(weight)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTFC):
        x_BTFC, weight = ctx.saved_tensors
        grad_BTFC = grad_BTFC.contiguous()
        channels, size, bins = len(weight), weight.shape[-1], x_BTFC.shape[2]
        pad = size // 2

        def gradients(x, kernel, padding, wanted):
            arguments = (_nchw(grad_BTFC), _nchw(x), kernel, [channels], (1, 1), padding)
            return torch.ops.aten.convolution_backward(*arguments, (1, 1), False, (0, 0), channels, wanted)

        grad_x = gradients(x_BTFC, weight, (pad, pad), (True, False, False))[0]
        padded = F.pad(x_BTFC, (0, 0, pad, pad))
        columns = [
            gradients(padded[:, :, i : i + bins].contiguous(), weight[..., :1], (pad, 0), (False, True, False))[1]
            for i in range(size)
        ]
        # In the layout of the weights, which DDP wants; the columns come in another.
        grad_weight = torch.cat(columns, dim=3, out=torch.empty_like(weight))
        return _btfc(grad_x), grad_weight, grad_BTFC.sum((0, 1, 2))


class ConvNeXt(nn.Module):
    """Depthwise 7x7 convolution, then a position-wise bottleneck of three times the width; with a residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.pointwise_conv1 = nn.Conv2d(channels, 3 * channels, 1)
        self.hidden_balancer = Balancer(0.3, 1.0, 0.75, 5.0)
        self.pointwise_conv2 = nn.Conv2d(3 * channels, channels, 1)
        with torch.no_grad():
            self.pointwise_conv2.weight.mul_(0.01)
            self.pointwise_conv2.bias.uniform_(-0.001, 0.001)
        self.layer_skip_rate = ScheduledFloat((0.0, 0.2), (20000.0, 0.015))
        self.out_balancer = Balancer(0.4, 0.6, 1.0, 6.0)
        self.out_whiten = Whiten(5.0)

    def forward(self, x_BTFC: Tensor) -> Tensor:
        """(B, T, F, C) -> (B, T, F, C)."""
        if x_BTFC.device.type == "cpu":
            weight, bias = (value.to(x_BTFC.dtype) for value in (self.depthwise_conv.weight, self.depthwise_conv.bias))
            x = _Depthwise.apply(x_BTFC, weight, bias)
        else:
            x = _convolve(self.depthwise_conv, x_BTFC)
        x = self.hidden_balancer(linear(x, self.pointwise_conv1.weight.flatten(1), self.pointwise_conv1.bias))
        x = swoosh_linear("l", x, self.pointwise_conv2.weight.flatten(1), self.pointwise_conv2.bias)
        keep = keep_mask(x, float(self.layer_skip_rate)) if self.training else None
        if keep is not None:
            x = x * keep.unsqueeze(-1)
        return self.out_whiten(self.out_balancer(x_BTFC + x))


class Subsampling(nn.Module):
    """Three convolutions, a ConvNeXt layer, a projection and BiasNorm.

    Args:
        num_mel_bins: input width; dim: output width; channels: of the three convolutions (8, 32, 128 as released).
        dropout: a schedule, on the output, shared over time.
        exact_padding: padded frames are zeros to the ConvNeXt layer, as the end of an utterance alone would be.
    """

    def __init__(
        self,
        num_mel_bins: int,
        dim: int,
        channels: tuple[int, int, int],
        dropout: float | ScheduledFloat,
        exact_padding: bool,
    ):
        super().__init__()
        first, second, third = channels
        # The released checkpoints number the parts of a longer sequence.
        self.conv = nn.ModuleDict(
            {
                "0": FirstConv(first),
                "4": nn.Conv2d(first, second, 3, stride=2),
                "7": nn.Conv2d(second, third, 3, stride=(1, 2)),
            }
        )
        self.balancers = nn.ModuleList([Balancer(max_abs=1.0), Balancer(max_abs=4.0), Balancer(max_abs=4.0)])
        self.convnext = ConvNeXt(third)
        self.num_frequencies = ((num_mel_bins - 1) // 2 - 1) // 2
        self.out = nn.Linear(third * self.num_frequencies, dim)
        self.out_whiten = Whiten(ScheduledFloat((0.0, 4.0), (20000.0, 8.0), default=4.0), grad_scale=0.02)
        self.out_norm = BiasNorm(dim)
        self.dropout = schedule(dropout)
        self.exact_padding = exact_padding
        self.activation_checkpointing = False

    def forward(self, features_BTF: Tensor, padding_BT: Tensor | None) -> Tensor:
        """(B, T, mel bins) -> (B, (T - 7) // 2, D); padding_BT marks the padded *output* frames, None without."""
        if self.activation_checkpointing and self.training:
            return checkpoint(self._embed, features_BTF, padding_BT, use_reentrant=False)
        return self._embed(features_BTF, padding_BT)

    def _embed(self, features_BTF: Tensor, padding_BT: Tensor | None) -> Tensor:
        x = self.conv["0"](features_BTF)
        if self.training:
            # The gradient that reaches the first convolution is large; the reference damps it.
            x = scale_gradient(x, 0.2)
        x = swoosh_r(self.balancers[0](x))
        x = swoosh_r(self.balancers[1](_convolve(self.conv["4"], x)))
        x = swoosh_r(self.balancers[2](_convolve(self.conv["7"], x)))
        if padding_BT is not None and self.exact_padding:
            x = x.masked_fill(padding_BT[:, :, None, None], 0.0)
        x_BTFC = self.convnext(x)
        # The projection's weights count channels first; turning them is cheaper than turning the activations. What is
        # turned is a copy anyway, so autocast's smaller one may be kept.
        weight_DFC = self.out.weight.unflatten(1, (-1, self.num_frequencies)).transpose(1, 2).flatten(1)
        x_BTD = self.out_norm(self.out_whiten(F.linear(x_BTFC.flatten(2), weight_DFC, self.out.bias).float()))
        mask = shared_dropout_mask(x_BTD, float(self.dropout)) if self.training else None
        return x_BTD if mask is None else x_BTD * mask
