"""An encoder of another lab in one file: features stacked by four to 25 Hz, and layers that look back one frame."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
import torch
from torch import nn

from spear.models.encoders import EncoderConfig


class Stack(nn.Module):
    """Four successive frames, projected."""

    def __init__(self, num_mel_bins, width):
        super().__init__()
        self.projection = nn.Linear(4 * num_mel_bins, width)

    def forward(self, features_BTF, padding_BT):
        whole = features_BTF.shape[1] // 4 * 4
        return self.projection(features_BTF[:, :whole].unflatten(1, (-1, 4)).flatten(2) / 10)


class Layer(nn.Module):
    """x_t + tanh(A x_t + B x_(t-1))."""

    def __init__(self, width):
        super().__init__()
        self.now, self.before = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x_BTD):
        return x_BTD + torch.tanh(self.now(x_BTD) + self.before(x_BTD.roll(1, dims=1)))


class Body(nn.Module):
    """Layers in sequence."""

    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))

    def forward(self, x_BTD, padding_BT, with_layers=True):
        outputs = []
        for layer in self.layers:
            x_BTD = layer(x_BTD)
            outputs.append(x_BTD)
        return x_BTD, outputs if with_layers else []


@dataclass(frozen=True)
class ToyConfig(EncoderConfig):
    """Sizes.

    Attributes:
        width: channels; depth: layers.
    """

    encoder = "toy"
    layer_class = Layer
    anchor = "encoder_embed.projection.weight"
    hidden_rate_hz, min_frames = 25, 4

    width: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 8
    depth: Annotated[int, msgspec.Meta(ge=1, le=99)] = 2

    def front_end(self):
        return Stack(self.num_mel_bins, self.width)

    def body(self):
        return Body(self.width, self.depth)

    @property
    def layer_dims(self):
        return (self.width,) * self.depth

    @staticmethod
    def embedding_frames(num_frames):
        return num_frames // 4
