"""Convolution module: gate, depthwise convolution over time, SwooshR (Zipformer, 3.5)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spear.nn.balancer import Balancer
from spear.nn.chunks import WHOLE
from spear.nn.linear import Linear, SwooshLinear, small
from spear.nn.schedule import ScheduledFloat
from spear.nn.whiten import Whiten, whitening_limit


class _DepthwiseOverTime(torch.autograd.Function):
    """Depthwise convolution of (B, T, C) on a CPU, without transposing.

    Seen as an image of height 1 and width T in channels-last layout, (B, T, C) is what oneDNN's fast depthwise kernels
    want; only the weights' gradient is faster with T as the height. Where the kernel is longer than the utterances, its
    kernels are several times slower: then the utterances are laid end to end, with the padding between them.
    """

    @staticmethod
    def forward(ctx, x_BTC, weight_C1K, bias_C):
        ctx.save_for_backward(x_BTC, weight_C1K)
        image = x_BTC.transpose(1, 2).unsqueeze(2)
        pad = weight_C1K.shape[-1] // 2
        y = torch.conv2d(image, weight_C1K.unsqueeze(2), bias_C, 1, (0, pad), 1, len(weight_C1K))
        return y.squeeze(2).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTC):
        x_BTC, weight_C1K = ctx.saved_tensors
        channels, _, kernel = weight_C1K.shape
        grad_BTC, pad = grad_BTC.contiguous(), kernel // 2

        def gradients(x_BTC, grad_BTC, dim, padding, wanted):
            grad, x = (value.transpose(1, 2).unsqueeze(dim) for value in (grad_BTC, x_BTC))
            arguments = (grad, x, weight_C1K.unsqueeze(dim), [channels], (1, 1), padding)
            return torch.ops.aten.convolution_backward(*arguments, (1, 1), False, (0, 0), channels, wanted)

        grad_x, _, _ = gradients(x_BTC, grad_BTC, 2, (0, pad), (True, False, False))
        grad_bias = grad_BTC.sum((0, 1))
        if x_BTC.shape[1] < kernel:
            x_BTC = F.pad(x_BTC, (0, 0, pad, pad)).flatten(0, 1)[None]
            grad_BTC = F.pad(grad_BTC, (0, 0, 0, 2 * pad)).flatten(0, 1)[None, : x_BTC.shape[1] - 2 * pad]
            pad = 0
        _, grad_weight, _ = gradients(x_BTC, grad_BTC, 3, (pad, 0), (False, True, False))
        return grad_x.squeeze(2).transpose(1, 2), grad_weight.squeeze(3), grad_bias


def depthwise_over_time(x_BTC: Tensor, weight_C1K: Tensor, bias_C: Tensor) -> Tensor:
    """Depthwise convolution over T with zero padding: (B, T, C) -> (B, T, C); the kernel is odd."""
    weight_C1K, bias_C = weight_C1K.to(x_BTC.dtype), bias_C.to(x_BTC.dtype)
    if x_BTC.device.type == "cpu":
        return _DepthwiseOverTime.apply(x_BTC.contiguous(), weight_C1K, bias_C)
    y = F.conv1d(x_BTC.transpose(1, 2), weight_C1K, bias_C, padding=weight_C1K.shape[-1] // 2, groups=len(bias_C))
    return y.transpose(1, 2)


class ChunkCausalConv(nn.Module):
    """A depthwise convolution over what came before, and one that sees its chunk alone.

    Args:
        dim: channels; kernel: odd, in frames.
        exact_padding: where an utterance ends, and not where its batch does, is the end of its last chunk; and chunks
            longer than the batch keep their length, as they have it in a stream.
    """

    def __init__(self, dim: int, kernel: int, exact_padding: bool):
        super().__init__()
        self.causal_conv = nn.Conv1d(dim, dim, kernel // 2 + 1, groups=dim)
        self.chunkwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        # Near the ends of a chunk the second convolution sees less: its output is scaled there, for each channel.
        self.chunkwise_conv_scale = nn.Parameter(torch.zeros(2, dim, kernel))
        self.exact_padding = exact_padding

    def forward(self, x_BTC: Tensor, padding_BT: Tensor | None, frames: int) -> Tensor:
        """(B, T, C) -> (B, T, C), padded frames being zeros.

        Args:
            padding_BT: True at padded frames, or None.
            frames: of a chunk, or `WHOLE`.
        """
        num_frames = x_BTC.shape[1]
        whole = frames == WHOLE or (frames > num_frames and not self.exact_padding)
        frames = num_frames if whole else frames
        past_C1K = F.pad(self.causal_conv.weight, (0, self.causal_conv.kernel_size[0] - 1))
        before_BTC = depthwise_over_time(x_BTC, past_C1K, self.causal_conv.bias)
        count = -(-num_frames // frames)
        inside = F.pad(x_BTC, (0, 0, 0, count * frames - num_frames)).reshape(-1, frames, x_BTC.shape[2])
        inside = depthwise_over_time(inside, self.chunkwise_conv.weight, self.chunkwise_conv.bias)
        inside_BTC = inside.reshape(len(x_BTC), count * frames, -1)[:, :num_frames]
        from_start_T = torch.arange(num_frames, device=x_BTC.device) % frames
        to_end = frames - 1 - from_start_T
        if whole and self.exact_padding and padding_BT is not None:
            to_end = ((~padding_BT).sum(1, keepdim=True) - 1 - from_start_T).clamp(min=0)  # (B, T)
        return before_BTC + inside_BTC * self.scale(from_start_T, to_end).to(inside_BTC.dtype)

    def scale(self, from_start_T: Tensor, to_end: Tensor) -> Tensor:
        """(T, C) or (B, T, C) factors of frames so far from the start and the end of their chunk."""
        start_KC, end_KC = F.pad(self.chunkwise_conv_scale, (0, 1)).transpose(1, 2)  # beyond the kernel: 0
        kernel = len(start_KC) - 1
        end_KC = torch.cat([end_KC[:kernel].flip(0), end_KC[kernel:]])
        return 1 + start_KC[from_start_T.clamp(max=kernel)] + end_KC[to_end.clamp(max=kernel)]


class ConvolutionModule(nn.Module):
    """Args: `dim` channels, odd `kernel` in frames.

    causal: hears in chunks, see `spear.nn.chunks`; exact_padding: of that.
    """

    def __init__(self, dim: int, kernel: int, causal: bool = False, exact_padding: bool = False):
        super().__init__()
        self.in_proj = Linear(dim, 2 * dim)
        # The second half of the projection is the gate.
        self.balancer1 = Balancer(
            ScheduledFloat((0.0, 0.05), (8000.0, 0.025)),
            1.0,
            1.5,
            ScheduledFloat((0.0, 5.0), (8000.0, 10.0), default=1.0),
            channels=slice(dim, None),
        )
        self.causal = causal
        if causal:
            self.depthwise_conv = ChunkCausalConv(dim, kernel, exact_padding)
        else:
            self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.balancer2 = Balancer(
            ScheduledFloat((0.0, 0.1), (8000.0, 0.05)), 1.0, ScheduledFloat((0.0, 0.2), (20000.0, 0.5)), 10.0
        )
        self.whiten = Whiten(whitening_limit(7.5))
        self.out_proj = small(SwooshLinear("r", dim, dim), 0.05)

    def forward(self, x_BTD: Tensor, padding_BT: Tensor | None, chunk_frames: int = WHOLE) -> Tensor:
        """(B, T, D) -> (B, T, D); padded frames (True) are zeros to the convolution."""
        x = F.glu(self.balancer1(self.in_proj(x_BTD)), dim=-1)
        if padding_BT is not None:
            x = x.masked_fill(padding_BT.unsqueeze(-1), 0.0)
        if self.causal:
            x = self.depthwise_conv(x, padding_BT, chunk_frames)
        else:
            x = depthwise_over_time(x, self.depthwise_conv.weight, self.depthwise_conv.bias)
        return self.out_proj(self.whiten(self.balancer2(x)))
