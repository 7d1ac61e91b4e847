"""Encoders and heads in plain operations that hold for any batch and any length: what ONNX and torch.export can keep.

The modules of `spear.nn` compute the same with kernels chosen by size, strided views and caches, which an exporter
would freeze at the lengths of its example. Here nothing depends on values or sizes: masks are always made, frames are
repeated and averaged by index, and positions are computed for the length at hand. Inference alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear.errors import ConfigError
from spear.models.layers import LayerMix
from spear.models.spear import SpearModel
from spear.nn.activations import SWOOSH_L, SWOOSH_R
from spear.nn.attention import AttentionWeights, NonlinAttention, SelfAttention
from spear.nn.bypass import Bypass
from spear.nn.convolution import ConvolutionModule
from spear.nn.layer import ZipformerLayer
from spear.nn.norm import BiasNorm
from spear.nn.stack import DownsampledStack, ZipformerStack
from spear.nn.subsampling import Subsampling
from spear.nn.transformer import Transformer, TransformerLayer
from spear.nn.zipformer import Zipformer

_PADDED_SCORE = -1000.0


class PlainEncoder(nn.Module):
    """A `SpearModel` in plain operations.

    Args:
        model: in evaluation mode.
        exact_padding: as the model computes; what its configuration says is overruled in fine-tuned runs.

    Raises:
        ConfigError: the model hears in chunks, which these graphs cannot.
    """

    def __init__(self, model: SpearModel, exact_padding: bool):
        super().__init__()
        if getattr(model.config, "causal", False):
            raise ConfigError(
                "a causal encoder (causal: true) for a graph",
                "an encoder that hears whole utterances",
                "export it with --format hf or icefall",
            )
        self.front_end, self.body, self.exact = model.encoder_embed, model.encoder, exact_padding
        self.factor = model.config.output_downsampling_factor

    def forward(self, features_BTF: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
        """Log-mel features and their frames -> output, its frames, embeddings, all layers at 50 Hz, their frames."""
        embedded_B = (lens_B - 7).clamp(min=0) // 2
        x_BTD = _front_end(self.front_end, features_BTF, embedded_B, self.exact)
        run = _zipformer if isinstance(self.body, Zipformer) else _transformer
        out_BTD, layers = run(self.body, x_BTD, embedded_B, self.exact)
        return out_BTD, (embedded_B + self.factor - 1) // self.factor, x_BTD, layers, embedded_B


def mix_layers(mix: LayerMix, out_BTD: Tensor, embed_BTD: Tensor, layers: list[Tensor], lens_B: Tensor) -> Tensor:
    """What `LayerMix` gives."""
    if not mix.wants_layers:
        return out_BTD
    weights = mix.logits_L.softmax(0)
    mixed_BTD = torch.zeros((), dtype=out_BTD.dtype)
    for number, state_BTD in enumerate((embed_BTD, *layers)):
        mixed_BTD = mixed_BTD + weights[number] * _with_channels(state_BTD, mix.dim)
    if mix.factor == 1:
        return mixed_BTD
    valid_BT1 = _valid(lens_B, mixed_BTD.shape[1])[:, :, None]
    pieces = _groups(mixed_BTD * valid_BT1, mix.factor, mixed_BTD[:, :1] * 0.0)
    counts = _groups(valid_BT1.to(mixed_BTD.dtype), mix.factor, torch.zeros_like(mixed_BTD[:, :1, :1]))
    return sum(pieces) / sum(counts).clamp(min=1.0)


def _valid(lens_B: Tensor, num_frames: int, step: int = 1) -> Tensor:
    """(B, T), whether frame t, of `step` frames each, begins inside its utterance."""
    return torch.arange(num_frames, device=lens_B.device)[None] * step < lens_B[:, None]


def _swoosh(x: Tensor, constants: tuple[float, float]) -> Tensor:
    shift, offset = constants
    return F.softplus(x - shift) - 0.08 * x - offset


def _norm(norm: BiasNorm, x: Tensor) -> Tensor:
    gain = norm.log_scale.exp()
    return x * ((x - norm.bias).square().mean(-1, keepdim=True).rsqrt() * gain)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _front_end(embed: Subsampling, features_BTF: Tensor, lens_B: Tensor, exact: bool) -> Tensor:
    x = features_BTF[:, None]
    for name in ("0", "4", "7"):
        conv = embed.conv[name]
        x = _swoosh(F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding), SWOOSH_R)
    if exact:
        x = x * _valid(lens_B, x.shape[2])[:, None, :, None]
    part = embed.convnext
    channels = part.depthwise_conv.weight.shape[0]
    y = F.conv2d(x, part.depthwise_conv.weight, part.depthwise_conv.bias, padding=3, groups=channels)
    y = _swoosh(F.conv2d(y, part.pointwise_conv1.weight, part.pointwise_conv1.bias), SWOOSH_L)
    x = x + F.conv2d(y, part.pointwise_conv2.weight, part.pointwise_conv2.bias)
    return _norm(embed.out_norm, _linear(embed.out, x.transpose(1, 2).flatten(2)))


# Zipformer -----------------------------------------------------------------------------------------------------------


def _zipformer(body: Zipformer, x_BTD: Tensor, lens_B: Tensor, exact: bool) -> tuple[Tensor, list[Tensor]]:
    num_frames, outputs, layers = x_BTD.shape[1], [], []
    for sizes, stack in zip(body.sizes, body.encoders):
        x_BTD = _with_channels(x_BTD, sizes.dim)
        if sizes.downsampling == 1:
            of_layers = _stack(stack, x_BTD, _valid(lens_B, num_frames))
            x_BTD = of_layers[-1]
        else:
            x_BTD, of_layers = _slow_stack(stack, x_BTD, lens_B, exact)
            of_layers = [_upsample(x, sizes.downsampling, num_frames) for x in of_layers]
        layers += of_layers
        outputs.append(x_BTD)
    pieces, width = [outputs[-1]], outputs[-1].shape[-1]
    for output in reversed(outputs[:-1]):
        if output.shape[-1] > width:
            pieces.append(output[..., width:])
            width = output.shape[-1]
    result = torch.cat(pieces, dim=-1)
    if body.downsample_output is not None:
        result = _downsample(body.downsample_output.bias, result, lens_B, exact)
    return result, layers


def _slow_stack(stack: DownsampledStack, x_BTD: Tensor, lens_B: Tensor, exact: bool) -> tuple[Tensor, list[Tensor]]:
    low_BTD = _downsample(stack.downsample.bias, x_BTD, lens_B, exact)
    of_layers = _stack(stack.encoder, low_BTD, _valid(lens_B, low_BTD.shape[1], stack.factor))
    high_BTD = _upsample(of_layers[-1], stack.factor, x_BTD.shape[1])
    return _bypass(stack.out_combiner, x_BTD, high_BTD), of_layers


def _stack(stack: ZipformerStack, x_BTD: Tensor, valid_BT: Tensor) -> list[Tensor]:
    position_RP, outputs = _positions(x_BTD.shape[1], stack.positions.dim, x_BTD.device), []
    for layer in stack.layers:
        x_BTD = _layer(layer, x_BTD, position_RP, valid_BT)
        outputs.append(x_BTD)
    return outputs


def _positions(num_frames: int, dim: int, device: torch.device) -> Tensor:
    """Rows for the offsets -(T-1) ... T, (2T, dim); see `spear.nn.positions`. The last one only fills up."""
    offset = torch.arange(2 * num_frames, device=device).float()[:, None] - (num_frames - 1)
    width = math.sqrt(dim)
    compressed = width * offset.sign() * ((offset.abs() + width).log() - math.log(width))
    angle = torch.atan(compressed * (2.0 * math.pi / dim))
    frequency = torch.arange(1, dim // 2 + 1, dtype=torch.float32, device=device)
    features = torch.stack([(angle * frequency).cos(), (angle * frequency).sin()], dim=-1).flatten(1)
    return torch.cat([features[:, :-1], torch.ones_like(features[:, :1])], dim=1)


def _layer(layer: ZipformerLayer, x_BTD: Tensor, position_RP: Tensor, valid_BT: Tensor) -> Tensor:
    weights_BHTT = _attention(layer.self_attn_weights, x_BTD, position_RP, valid_BT)
    x = x_BTD + _feed_forward(layer.feed_forward1, x_BTD)
    x = x + _nonlinear_attention(layer.nonlin_attention, x, weights_BHTT)
    x = x + _self_attention(layer.self_attn1, x, weights_BHTT)
    x = x + _convolution(layer.conv_module1, x, valid_BT)
    x = x + _feed_forward(layer.feed_forward2, x)
    x = _bypass(layer.bypass_mid, x_BTD, x)
    x = x + _self_attention(layer.self_attn2, x, weights_BHTT)
    x = x + _convolution(layer.conv_module2, x, valid_BT)
    x = x + _feed_forward(layer.feed_forward3, x)
    return _bypass(layer.bypass, x_BTD, _norm(layer.norm, x))


def _attention(part: AttentionWeights, x_BTD: Tensor, position_RP: Tensor, valid_BT: Tensor) -> Tensor:
    """(B, H, T, T)."""
    heads, frames = part.num_heads, x_BTD.shape[1]
    q, k, p = (
        each.unflatten(2, (heads, -1)).transpose(1, 2) for each in _linear(part.in_proj, x_BTD).split(part.widths, -1)
    )
    position_HCR = _linear(part.linear_pos, position_RP).unflatten(1, (heads, -1)).permute(1, 2, 0)
    # Element (i, j) of the scores is at offset j - i, column j - i + T - 1 of 2T: in a flat row that is a fixed shift
    # by T - 1 and rows of 2T - 1.
    by_offset = (p @ position_HCR).flatten(2)[:, :, frames - 1 :][:, :, :-1]
    shifted = by_offset.reshape(x_BTD.shape[0], heads, frames, 2 * frames - 1)[..., :frames]
    scores = q @ k.transpose(2, 3) + shifted
    return scores.masked_fill(~valid_BT[:, None, None], _PADDED_SCORE).softmax(-1)


def _self_attention(part: SelfAttention, x_BTD: Tensor, weights_BHTT: Tensor) -> Tensor:
    values = _linear(part.in_proj, x_BTD).unflatten(2, (part.num_heads, -1)).transpose(1, 2)
    return _linear(part.out_proj, (weights_BHTT @ values).transpose(1, 2).flatten(2))


def _nonlinear_attention(part: NonlinAttention, x_BTD: Tensor, weights_BHTT: Tensor) -> Tensor:
    s, x, y = _linear(part.in_proj, x_BTD).chunk(3, dim=-1)
    return _linear(part.out_proj, weights_BHTT[:, 0] @ (x * s.tanh()) * y)


def _convolution(part: ConvolutionModule, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
    x = F.glu(_linear(part.in_proj, x_BTD), dim=-1) * valid_BT[:, :, None]
    conv = part.depthwise_conv
    x = F.conv1d(x.transpose(1, 2), conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
    return _linear(part.out_proj, _swoosh(x.transpose(1, 2), SWOOSH_R))


def _feed_forward(part: nn.Module, x: Tensor) -> Tensor:
    return _linear(part.out_proj, _swoosh(_linear(part.in_proj, x), SWOOSH_L))


def _bypass(part: Bypass, original: Tensor, new: Tensor) -> Tensor:
    return original + (new - original) * part.bypass_scale


# Frames --------------------------------------------------------------------------------------------------------------


def _with_channels(x_BTD: Tensor, dim: int) -> Tensor:
    missing = dim - x_BTD.shape[-1]
    return F.pad(x_BTD, (0, missing)) if missing > 0 else x_BTD[..., :dim]


def _groups(x_BTD: Tensor, factor: int, fill_B1D: Tensor) -> list[Tensor]:
    """The first, second, ... of each `factor` successive frames; behind the end there is `fill`."""
    frames = x_BTD.shape[1]
    filled = torch.cat([x_BTD, fill_B1D.expand(-1, factor - 1, -1)], dim=1)
    first = torch.arange((frames + factor - 1) // factor, device=x_BTD.device) * factor
    return [filled.index_select(1, first + place) for place in range(factor)]


def _downsample(bias: Tensor, x_BTD: Tensor, lens_B: Tensor, exact: bool) -> Tensor:
    """Weighted means of successive frames; the last one, of the utterance or of the batch, goes on for ever."""
    last_B1D = x_BTD[:, -1:]
    if exact:
        place_B11 = (lens_B - 1).clamp(min=0)[:, None, None]
        last_B1D = x_BTD.gather(1, place_B11.expand(-1, 1, x_BTD.shape[2]))
        x_BTD = torch.where(_valid(lens_B, x_BTD.shape[1])[:, :, None], x_BTD, last_B1D)
    weights = bias.softmax(0)
    return sum(piece * weights[place] for place, piece in enumerate(_groups(x_BTD, len(bias), last_B1D)))


def _upsample(x_BTD: Tensor, factor: int, num_frames: int) -> Tensor:
    return x_BTD.index_select(1, torch.arange(num_frames, device=x_BTD.device) // factor)


# Transformer ---------------------------------------------------------------------------------------------------------


def _transformer(body: Transformer, x_BTD: Tensor, lens_B: Tensor, exact: bool) -> tuple[Tensor, list[Tensor]]:
    valid_BT = _valid(lens_B, x_BTD.shape[1])
    if body.positions is not None:
        conv, source = body.positions.conv, x_BTD * valid_BT[:, :, None]
        y = F.conv1d(source.transpose(1, 2), conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
        x_BTD = x_BTD + F.gelu(y).transpose(1, 2)
    rotation = None
    if body._angles:
        half = torch.arange(0, body._angles.head_dim, 2, dtype=torch.float32, device=x_BTD.device)
        angles = torch.arange(x_BTD.shape[1], device=x_BTD.device).float()[:, None] * 10000.0 ** -(
            half / body._angles.head_dim
        )
        rotation = angles.cos(), angles.sin()
    layers = []
    for layer in body.layers:
        x_BTD = _transformer_layer(layer, x_BTD, rotation, valid_BT)
        layers.append(x_BTD)
    result = layers[-1] = body.norm(x_BTD)
    if body.downsample_output is not None:
        result = _downsample(body.downsample_output.bias, result, lens_B, exact=True)
    return result, layers


def _transformer_layer(layer: TransformerLayer, x_BTD: Tensor, rotation, valid_BT: Tensor) -> Tensor:
    part = layer.attention
    together = _linear(part.in_proj, layer.attention_norm(x_BTD)).unflatten(2, (3, part.num_heads, -1))
    q, k, v = together.permute(2, 0, 3, 1, 4).unbind(0)
    if rotation is not None:
        q, k = _rotate(q, *rotation), _rotate(k, *rotation)
    scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~valid_BT[:, None, None], torch.finfo(torch.float32).min).softmax(-1)
    x = x_BTD + _linear(part.out_proj, (weights @ v).transpose(1, 2).flatten(2))
    return x + _linear(layer.out_proj, F.gelu(_linear(layer.in_proj, layer.feed_forward_norm(x))))


def _rotate(x_BHTC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    first, second = x_BHTC.chunk(2, dim=-1)
    return torch.cat((first * cos_TC - second * sin_TC, second * cos_TC + first * sin_TC), dim=-1)
