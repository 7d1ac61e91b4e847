"""A plain pre-norm Transformer (arXiv 1706.03762) with rotary (2104.09864) or convolutional (1904.11660) positions.

It is the control of the Zipformer: behind the same front end, at one frame rate, without its special modules.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spear import compat
from spear.nn.linear import Linear, small
from spear.nn.resample import Downsample, repeat_last_valid
from spear.nn.schedule import keep_mask

_SLOWEST_ROTATION = 10000.0


class RotaryAngles:
    """Hands out the rotations of queries and keys, kept between calls.

    Args:
        head_dim: C, even.
    """

    def __init__(self, head_dim: int):
        self.head_dim = head_dim
        self._longest: tuple[Tensor, Tensor] | None = None

    def __call__(self, num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, C / 2) in float32 of t / 10000^(2i / C), for frame t and pair i of channels."""
        known = self._longest
        if known is None or len(known[0]) < num_frames or known[0].device != device:
            pairs = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
            angles_TC = torch.arange(num_frames, dtype=torch.float32)[:, None] * _SLOWEST_ROTATION**-pairs
            self._longest = known = angles_TC.cos().to(device), angles_TC.sin().to(device)
        return known[0][:num_frames], known[1][:num_frames]


def rotate(x_BHTC: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turns each pair (channel i, channel i + C / 2) of frame t by its angle; products then depend on offsets only."""
    cos_TC, sin_TC = rotation
    first, second = x_BHTC.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos_TC - second * sin_TC, second * cos_TC + first * sin_TC), dim=-1)
    return turned.to(x_BHTC.dtype)


class ConvolutionalPositions(nn.Module):
    """Adds what a wide grouped convolution finds around each frame, as wav2vec 2.0 does.

    Args:
        dim: channels; kernel: odd, in frames; groups: of channels.
    """

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); padded frames count as zeros, as the end of an utterance alone does."""
        source = x_BTD if padding_BT is None else x_BTD.masked_fill(padding_BT[:, :, None], 0.0)
        return x_BTD + F.gelu(self.conv(source.transpose(1, 2))).transpose(1, 2)


class MultiHeadAttention(nn.Module):
    """Self-attention with scaled products.

    Args:
        dim: channels; num_heads: heads of dim / num_heads channels; dropout: of attention weights.
        initial_scale: of the output's first weights.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, initial_scale: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj = Linear(dim, 3 * dim)
        self.out_proj = small(Linear(dim, dim), initial_scale)

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor] | None, padding_BT: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); no frame looks at padded ones (True in `padding_BT`)."""
        q, k, v = self.in_proj(x_BTD).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        # Written out: the fused kernels of a GPU add up gradients in an order that changes from run to run.
        with compat.disabled_autocast(x_BTD.device.type):
            scores_BHTT = q @ k.mT * q.shape[-1] ** -0.5
            if padding_BT is not None:
                least = torch.finfo(scores_BHTT.dtype).min
                scores_BHTT = scores_BHTT.masked_fill(padding_BT[:, None, None], least)
            weights_BHTT = F.dropout(scores_BHTT.softmax(dim=-1), self.dropout, self.training)
            mixed_BTD = (weights_BHTT @ v).transpose(1, 2).flatten(2)
        return self.out_proj(mixed_BTD)


class TransformerLayer(nn.Module):
    """Attention and a feed-forward module (GELU), each behind a norm and beside a residual.

    Norms have no bias: it would start at zero, from where ScaledAdam's steps, which are proportional to a parameter's
    size, lead nowhere.

    Args:
        dim, num_heads: of attention; feed_forward_dim: width inside the feed-forward module.
        dropout: of what is added to the residual; attention_dropout: of attention weights.
        layer_drop: probability that an utterance skips the layer. Every layer takes part in every batch, so that ranks
            never wait for a gradient.
        initial_scale: of the first weights of what is added to the residual.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feed_forward_dim: int,
        dropout: float,
        attention_dropout: float,
        layer_drop: float,
        initial_scale: float,
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, bias=False)
        self.attention = MultiHeadAttention(dim, num_heads, attention_dropout, initial_scale)
        self.feed_forward_norm = nn.LayerNorm(dim, bias=False)
        self.in_proj = Linear(dim, feed_forward_dim)
        self.out_proj = small(Linear(feed_forward_dim, dim), initial_scale)
        self.dropout, self.layer_drop = dropout, layer_drop

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor] | None, padding_BT: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        y = self.attention(self.attention_norm(x_BTD), rotation, padding_BT)
        y_BTD = x_BTD + F.dropout(y, self.dropout, self.training)
        y = self.out_proj(F.gelu(self.in_proj(self.feed_forward_norm(y_BTD))))
        y_BTD = y_BTD + F.dropout(y, self.dropout, self.training)
        keep_B11 = keep_mask(x_BTD, self.layer_drop) if self.training else None
        return y_BTD if keep_B11 is None else torch.where(keep_B11 > 0, y_BTD, x_BTD)


class Transformer(nn.Module):
    """Layers in sequence, and a last norm.

    Args:
        layers: the layers, all of one width; dim: this width.
        rotary_head_dim: channels of a head that are turned by their position; 0: none.
        positions: what adds positions to the embeddings, or None.
        output_downsampling: 1 or 2 embeddings a frame of the output.
    """

    def __init__(
        self,
        layers: list[TransformerLayer],
        dim: int,
        rotary_head_dim: int,
        positions: ConvolutionalPositions | None,
        output_downsampling: int,
    ):
        super().__init__()
        self.positions = positions
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim, bias=False)
        self.downsample_output = Downsample(output_downsampling) if output_downsampling > 1 else None
        self.activation_checkpointing = False
        self._angles = RotaryAngles(rotary_head_dim) if rotary_head_dim else None

    def forward(
        self, x_BTD: Tensor, padding_BT: Tensor | None, with_layers: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeddings (B, T, D) -> the output, and the output of every layer at the embeddings' rate.

        Args:
            padding_BT: True at padded frames, or None.
            with_layers: False leaves the list empty.
        """
        if self.positions is not None:
            x_BTD = self.positions(x_BTD, padding_BT)
        rotation = self._angles(x_BTD.shape[1], x_BTD.device) if self._angles else None
        outputs = []
        for layer in self.layers:
            if self.activation_checkpointing and self.training:
                x_BTD = checkpoint(layer, x_BTD, rotation, padding_BT, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, rotation, padding_BT)
            if with_layers:
                outputs.append(x_BTD)
        result = self.norm(x_BTD)
        if with_layers:
            outputs[-1] = result
        if self.downsample_output is not None:
            result = self.downsample_output(result if padding_BT is None else repeat_last_valid(result, padding_BT))
        return result, outputs
