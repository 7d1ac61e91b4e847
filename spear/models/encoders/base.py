"""What an encoder is: the interface that the trainer, checkpoints, teachers and evaluation know.

An encoder is its configuration class, which says how to make its two modules:

    front end    (features_BTF, padding_BT) -> embeddings (B, T', D)
    body         (embeddings_BTD, padding_BT, with_layers) -> output (B, T'', D), [output of each layer (B, T', D)]

`padding_BT` is True at padded embeddings, or None where nothing is padded. T' follows from the frame rule below, and
T'' is T' divided by `output_downsampling_factor`, rounded up. `spear.models.spear.SpearModel` holds both.
"""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from torch import Tensor, nn

from spear import records
from spear.errors import ConfigError, DataError
from spear.nn import Balancer, BiasNorm, ChunkSize, ScheduledFloat, Subsampling, Whiten
from spear.nn.subsampling import MIN_FRAMES, output_frames


@dataclass(frozen=True)
class EncoderConfig:
    """Base of the configurations of encoders: frozen dataclasses all of whose fields have defaults and ranges.

    What is not overridden is that of the shared front end: three convolutions and a ConvNeXt layer from 100 Hz to
    50 Hz. Values that depend on the progress of training are `spear.nn.ScheduledFloat`s, which the trainer finds and
    moves; an encoder without any needs nothing.

    Attributes:
        encoder: the name under which it is registered; checkpoints carry it.
        layer_class: of the layers, whose outputs are the hidden states: `parallel: fsdp` shards them, `--health`
            compares them.
        hidden_rate_hz: embeddings and hidden states a second.
        min_frames: the fewest feature frames that give an embedding.
        exact_padding: whether an utterance in a padded batch gives what it gives alone.
        gradient_regularisers: whether balancers and whiteners act, in the front end too.
        front_end_channels: of the three convolutions of the shared front end.
        anchor: a tensor of the front end; what stands before its name in a file is no part of the encoder's names.
        num_mel_bins: width of the input features.
        output_downsampling_factor: hidden states a frame of the output: 1 or 2.
    """

    encoder: ClassVar[str]
    layer_class: ClassVar[type[nn.Module]]
    hidden_rate_hz: ClassVar[int] = 50
    min_frames: ClassVar[int] = MIN_FRAMES
    # Without annotations, so that a subclass may make fields of them.
    exact_padding = True
    gradient_regularisers = True
    front_end_channels = (8, 32, 128)
    anchor = "encoder_embed.out.weight"

    num_mel_bins: Annotated[int, msgspec.Meta(ge=7, le=1024)] = 128
    output_downsampling_factor: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1

    def __post_init__(self):
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            try:
                records.convert(getattr(self, field.name), hints[field.name], field.name)
            except DataError as error:
                raise ConfigError(error.found, error.expected, f"correct {field.name}") from error
        self.check()

    def check(self) -> None:
        """Raises ConfigError for sizes that do not go together; types and ranges were looked at before."""

    def front_end(self) -> nn.Module:
        """The module from features to embeddings, with first weights from torch's global generator."""
        dropout = ScheduledFloat((0.0, 0.3), (20000.0, 0.1))
        channels, width = self.front_end_channels, self.layer_dims[0]
        module = Subsampling(self.num_mel_bins, width, channels, dropout, exact_padding=self.exact_padding)
        return switch_regularisers(module, self.gradient_regularisers)

    def body(self) -> nn.Module:
        """The module from embeddings to the output and the hidden states."""
        raise NotImplementedError(f"encoder {self.encoder} without a body")

    def check_chunk_size(self, size: ChunkSize) -> None:
        """Raises ConfigError unless the encoder can hear in chunks of this size."""
        raise ConfigError(
            f"chunk_size {tuple(size)} for an encoder that hears whole utterances",
            "an encoder with causal: true",
            "leave chunk_size out, or load a causal encoder",
        )

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """Channels of each hidden state."""
        raise NotImplementedError(f"encoder {self.encoder} without layer_dims")

    @property
    def output_dim(self) -> int:
        """Channels of the output."""
        return self.layer_dims[-1]

    @property
    def frame_rate_hz(self) -> float:
        """Frames a second of the output."""
        return self.hidden_rate_hz / self.output_downsampling_factor

    @staticmethod
    def embedding_frames(num_frames: Any) -> Any:
        """Embeddings of so many feature frames of 10 ms, for integers and tensors; may be negative below `min_frames`.

        Who overrides it names `hidden_rate_hz` too.
        """
        return output_frames(num_frames)

    def to_dict(self) -> dict:
        """All fields, for JSON; the name of the encoder is not among them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "EncoderConfig":
        """Reads `to_dict()` or a config.json; keys of other tools (model_type, auto_map...) are ignored.

        Raises:
            ConfigError: no mapping, a value of another type or outside its range.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"a {type(values).__name__} as configuration", "names and values", "copy it again")
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    @classmethod
    def infer(cls, state: dict[str, Tensor]) -> "EncoderConfig | None":
        """The configuration that fits a checkpoint's tensors; None when they are another encoder's.

        Raises:
            ConfigError: they are this encoder's, but do not tell all sizes.
        """
        return None


def switch_regularisers(module: nn.Module, enabled: bool, exact: bool = False) -> nn.Module:
    """Switches balancers and whiteners on or off, and says how often they look; returns the module."""
    for part in module.modules():
        if isinstance(part, (Balancer, Whiten)):
            part.enabled = enabled
        if isinstance(part, (Balancer, Whiten, BiasNorm)):
            part.exact = exact
    return module
