"""Reads an encoder's architecture off the shapes of its tensors."""

import math
import re
from pathlib import Path

import torch

from spear.errors import CheckpointError, ConfigError
from spear.models.encoders import registry
from spear.models.encoders.base import EncoderConfig

# Training only, so no tensor shows it; these are the released models' numbers.
_UNMASKED = {512: 256, 1024: 512, 1280: 768}
_POSITION_HEAD_DIM = 4


def infer_config(state: dict[str, torch.Tensor], path: Path) -> EncoderConfig:
    """The configuration that fits the tensors `state` (names as in the released models).

    Raises:
        CheckpointError: a tensor that the architecture needs is missing, or shapes fit no architecture; `path` is
            named.
    """
    try:
        others = [] if _is_default(state) else [name for name in registry.names() if name != registry.DEFAULT]
        found = (registry.load(name).infer(state) for name in others)
        return next((config for config in found if config), None) or registry.load(registry.DEFAULT).infer(state)
    except KeyError as error:
        raise CheckpointError(
            f"{path} without the tensor {error}", "a complete SPEAR encoder", "copy the checkpoint again"
        ) from error
    except (ConfigError, IndexError, TypeError, ValueError, ZeroDivisionError, StopIteration) as error:
        found = error.found if isinstance(error, ConfigError) else type(error).__name__
        raise CheckpointError(
            f"{path} with tensors whose shapes fit no encoder ({found})",
            "a complete SPEAR encoder",
            "copy the checkpoint again",
        ) from error


def _is_default(state: dict[str, torch.Tensor]) -> bool:
    return any(name.startswith("encoder.encoders.") for name in state)


def infer_sizes(state: dict[str, torch.Tensor]) -> dict:
    """Fields of `SpearConfig`, the Zipformer's, from shapes.

    Sizes that leave no trace take the defaults: the positional head width of 4, the unmasked channels, 128 mel bins
    where the front end's width allows it, and chunks of 8 frames where the stacks allow it.

    Raises:
        KeyError: a tensor is missing.
    """
    layers: dict[int, set[int]] = {}
    for name in state:
        if found := re.match(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.", name):
            layers.setdefault(int(found[1]), set()).add(int(found[2]))
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise KeyError("encoder.encoders.0.layers.0.norm.bias")
    columns: dict[str, list[int]] = {}
    for stack in sorted(layers):
        for name, value in _stack(state, stack).items():
            columns.setdefault(name, []).append(value)
        columns.setdefault("num_encoder_layers", []).append(len(layers[stack]))
    output_downsampling = len(state.get("encoder.downsample_output.bias", [0]))
    causal = any(".causal_conv." in name for name in state)
    chunk_size = math.lcm(8, output_downsampling, *columns["downsampling_factor"]) if causal else 8
    channels = [state[f"encoder_embed.conv.{part}.weight"].shape[0] for part in ("0", "4", "7")]
    return {
        **{name: tuple(values) for name, values in columns.items()},
        "num_mel_bins": _mel_bins(state["encoder_embed.out.weight"].shape[1] // channels[2]),
        "output_downsampling_factor": output_downsampling,
        "pos_dim": next(t.shape[1] for name, t in state.items() if name.endswith("linear_pos.weight")),
        "subsampling_channels": tuple(channels),
        "causal": causal,
        "chunk_size": str(chunk_size),
    }


def _stack(state: dict[str, torch.Tensor], stack: int) -> dict[str, int]:
    prefix = f"encoder.encoders.{stack}."
    downsampling = state.get(prefix + "downsample.bias")
    layer = prefix + ("layers.0." if downsampling is None else "encoder.layers.0.")
    dim = len(state[layer + "norm.bias"])
    heads = state[layer + "self_attn_weights.linear_pos.weight"].shape[0] // _POSITION_HEAD_DIM
    convolution = layer + "conv_module1.depthwise_conv."
    if convolution + "weight" not in state:  # a causal encoder's
        convolution += "chunkwise_conv."
    queries = state[layer + "self_attn_weights.in_proj.weight"].shape[0] - heads * _POSITION_HEAD_DIM
    return {
        "downsampling_factor": 1 if downsampling is None else len(downsampling),
        "encoder_dim": dim,
        "encoder_unmasked_dim": _UNMASKED.get(dim, dim // 2),
        "feedforward_dim": state[layer + "feed_forward2.in_proj.weight"].shape[0],
        "cnn_module_kernel": state[convolution + "weight"].shape[-1],
        "num_heads": heads,
        "query_head_dim": queries // (2 * heads),
        "pos_head_dim": _POSITION_HEAD_DIM,
        "value_head_dim": state[layer + "self_attn1.in_proj.weight"].shape[0] // heads,
    }


def _mel_bins(num_frequencies: int) -> int:
    """Several widths give the same number of frequencies after two strides; the multiple of 8 is the likely one."""
    fitting = [
        bins for bins in range(4 * num_frequencies, 4 * num_frequencies + 8) if _strided(bins) == num_frequencies
    ]
    return next((bins for bins in fitting if bins % 8 == 0), fitting[0])


def _strided(num_mel_bins: int) -> int:
    return ((num_mel_bins - 1) // 2 - 1) // 2
