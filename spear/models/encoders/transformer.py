"""The encoder `transformer`: the shared front end and a plain pre-norm Transformer, the control of the Zipformer."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import msgspec
from torch import Tensor, nn

from spear import ranges
from spear.errors import ConfigError
from spear.models.encoders.base import EncoderConfig
from spear.nn.transformer import ConvolutionalPositions, Transformer, TransformerLayer

_MARK = "encoder.layers.0.attention.in_proj.weight"


@dataclass(frozen=True)
class TransformerConfig(EncoderConfig):
    """Sizes of a Transformer. The defaults are as large as the Zipformer of the released Base model.

    Attributes:
        num_mel_bins: width of the input features.
        output_downsampling_factor: 1 gives 50 frames a second, 2 gives 25.
        dim: channels.
        num_layers: layers, one after the other at one frame rate.
        num_heads: of attention, in a Transformer each of dim / num_heads channels.
        feed_forward_dim: width inside the feed-forward modules.
        positions: `rotary` turns queries and keys; `convolutional` adds a wide grouped convolution of the embeddings,
            as wav2vec 2.0 and HuBERT do.
        position_kernel: convolutional only: odd, in embeddings.
        position_groups: convolutional only: groups of channels.
        dropout: of what layers add to the residual.
        attention_dropout: of attention weights.
        layer_drop: probability that an utterance skips a layer.
        subsampling_channels: of the three convolutions of the front end, joined by commas.
        gradient_regularisers: False switches the front end's balancers and whiteners off.
    """

    encoder: ClassVar[str] = "transformer"
    layer_class: ClassVar[type[nn.Module]] = TransformerLayer

    dim: Annotated[int, msgspec.Meta(ge=2, le=1 << 15)] = 768
    num_layers: Annotated[int, msgspec.Meta(ge=1, le=512)] = 12
    num_heads: Annotated[int, msgspec.Meta(ge=1, le=512)] = 12
    feed_forward_dim: Annotated[int, msgspec.Meta(ge=1, le=1 << 17)] = 3328
    positions: Literal["rotary", "convolutional"] = "rotary"
    position_kernel: Annotated[int, msgspec.Meta(ge=1, le=1023)] = 127
    position_groups: Annotated[int, msgspec.Meta(ge=1, le=1 << 15)] = 16
    dropout: ranges.Part = 0.1
    attention_dropout: ranges.Part = 0.1
    layer_drop: ranges.Part = 0.05
    subsampling_channels: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4},[0-9]{1,4},[0-9]{1,4}\Z")] = "8,32,128"
    gradient_regularisers: bool = True

    def check(self) -> None:
        """See `EncoderConfig`."""
        convolutional, head_dim = self.positions == "convolutional", self.dim // self.num_heads
        requirements = {
            "num_heads": (self.dim % self.num_heads == 0, f"a divisor of dim = {self.dim}"),
            "dim": (convolutional or head_dim % 2 == 0, "an even number of channels a head for rotary positions"),
            "position_kernel": (self.position_kernel % 2 == 1, "an odd kernel"),
            "position_groups": (
                not convolutional or self.dim % self.position_groups == 0,
                f"a divisor of dim = {self.dim}",
            ),
            "subsampling_channels": (min(self.front_end_channels) > 0, "three numbers from 1 on"),
        }
        for name, (holds, expected) in requirements.items():
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)}", expected, f"correct {name}")

    def body(self) -> nn.Module:
        """See `EncoderConfig`."""
        convolutional = self.positions == "convolutional"
        positions = None
        if convolutional:
            positions = ConvolutionalPositions(self.dim, self.position_kernel, self.position_groups)
        rates = (self.dropout, self.attention_dropout, self.layer_drop)
        # Each layer adds twice to the residual, which so stays of the size of the embeddings.
        scale = (2 * self.num_layers) ** -0.5
        layers = [
            TransformerLayer(self.dim, self.num_heads, self.feed_forward_dim, *rates, scale)
            for _ in range(self.num_layers)
        ]
        rotary_head_dim = 0 if convolutional else self.dim // self.num_heads
        return Transformer(layers, self.dim, rotary_head_dim, positions, self.output_downsampling_factor)

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """See `EncoderConfig`."""
        return (self.dim,) * self.num_layers

    @property
    def front_end_channels(self) -> tuple[int, int, int]:
        """The numbers of `subsampling_channels`."""
        first, second, third = map(int, self.subsampling_channels.split(","))
        return first, second, third

    @classmethod
    def infer(cls, state: dict[str, Tensor]) -> None:
        """See `EncoderConfig`: heads leave no trace in the tensors, and a guess would be another model."""
        if _MARK in state:
            raise ConfigError("the tensors of a Transformer, which do not tell its heads", "config.json", "copy it too")

    @classmethod
    def base(cls, **changes) -> "TransformerConfig":
        """12 layers of 768 channels: 93 M parameters, as many as `SpearConfig.base()` within 2 %."""
        return cls(**changes)

    @classmethod
    def mini(cls, **changes) -> "TransformerConfig":
        """6 layers of 192 channels: 2.9 M parameters, as many as the student of egs/mini/spear within 2 %."""
        sizes = {"dim": 192, "num_layers": 6, "num_heads": 6, "feed_forward_dim": 792}
        return cls(**{**sizes, "subsampling_channels": "8,16,32", **changes})
