"""The encoder's configuration: names and defaults of the released config.json (reference, sections 3 and 8)."""

import dataclasses
from dataclasses import dataclass

from spear.errors import ConfigError

_PER_STACK = (
    "downsampling_factor",
    "num_encoder_layers",
    "feedforward_dim",
    "encoder_dim",
    "encoder_unmasked_dim",
    "cnn_module_kernel",
    "num_heads",
    "query_head_dim",
    "pos_head_dim",
    "value_head_dim",
)


@dataclass(frozen=True)
class SpearConfig:
    """Sizes of the encoder. The defaults are the released Large model.

    Fields that hold one number per stack are comma-joined strings, as in the released files; tuples and lists are
    accepted, and a single number counts for all stacks.

    Attributes:
        num_mel_bins: width of the input features.
        output_downsampling_factor: 1 gives 50 frames a second, 2 gives 25.
        downsampling_factor: of each stack, relative to 50 Hz.
        num_encoder_layers, encoder_dim, num_heads: of each stack.
        feedforward_dim: of each stack; the three feed-forward modules of a layer have 3/4, 1 and 5/4 of it.
        encoder_unmasked_dim: channels that the training-time feature mask never touches.
        cnn_module_kernel: odd, in frames of the stack.
        query_head_dim, pos_head_dim, value_head_dim: widths of one attention head.
        pos_dim: width of the relative position features.
        causal, chunk_size, left_context_frames: streaming is not supported; kept for the released files.
        subsampling_channels: of the three convolutions of the front end. Small models want fewer: they cost most.
        exact_padding: an utterance in a padded batch gives what it gives alone. False is what the released code does:
            the last frames of shorter utterances then see some padding.
        gradient_regularisers: False switches balancers and whiteners off.
        regularisers: `fast`: balancers and whiteners take their statistics from some frames; `exact`: from all, as
            often as in the reference.
        constant_attention: now and then, training spreads the attention of non-linear attention evenly over all frames.
            No published model was trained so.
    """

    num_mel_bins: int = 128
    output_downsampling_factor: int = 1
    downsampling_factor: str | list[int] | tuple[int, ...] = "1,2,4,8,4,2,1"
    num_encoder_layers: str | list[int] | tuple[int, ...] = "1,2,2,3,1,1,1"
    feedforward_dim: str | list[int] | tuple[int, ...] = "3072,3072,3072,3072,3072,3072,3072"
    encoder_dim: str | list[int] | tuple[int, ...] = "1024,1024,1024,1024,1024,1024,1024"
    encoder_unmasked_dim: str | list[int] | tuple[int, ...] = "512,512,512,512,512,512,512"
    cnn_module_kernel: str | list[int] | tuple[int, ...] = "31,31,15,15,15,31,31"
    num_heads: str | list[int] | tuple[int, ...] = "8,8,8,8,8,8,8"
    query_head_dim: str | list[int] | tuple[int, ...] = "32"
    pos_head_dim: str | list[int] | tuple[int, ...] = "4"
    value_head_dim: str | list[int] | tuple[int, ...] = "12"
    pos_dim: int = 48
    causal: bool = False
    chunk_size: str | int = "8"
    left_context_frames: str | int = "128"
    subsampling_channels: str | list[int] | tuple[int, ...] = "8,32,128"
    exact_padding: bool = False
    gradient_regularisers: bool = True
    regularisers: str = "fast"
    constant_attention: bool = False

    def __post_init__(self):
        for name in (*_PER_STACK, "subsampling_channels"):
            value = getattr(self, name)
            if not isinstance(value, (str, int)):
                value = ",".join(str(part) for part in value)
            object.__setattr__(self, name, str(value).replace(" ", ""))
        self._check()

    def _check(self) -> None:
        """Raises ConfigError for sizes that cannot work."""
        stacks = len(self._numbers("num_encoder_layers"))
        for name in _PER_STACK:
            values = self._numbers(name)
            if len(values) not in (1, stacks):
                raise ConfigError(
                    f"{name} = '{getattr(self, name)}' with {len(values)} numbers",
                    f"one number, or one for each of the {stacks} stacks of num_encoder_layers",
                    f"correct {name}",
                )
            if min(values) < 1:
                raise ConfigError(f"{name} = '{getattr(self, name)}'", "positive numbers", f"correct {name}")
        requirements = {
            "causal": (not self.causal, "false: streaming is not supported"),
            "cnn_module_kernel": (all(k % 2 for k in self.per_stack("cnn_module_kernel")), "odd kernels"),
            "output_downsampling_factor": (self.output_downsampling_factor in (1, 2), "1 (50 Hz) or 2 (25 Hz)"),
            "encoder_dim": (all(d % 4 == 0 for d in self.per_stack("encoder_dim")), "multiples of 4"),
            "feedforward_dim": (all(d % 4 == 0 for d in self.per_stack("feedforward_dim")), "multiples of 4"),
            "subsampling_channels": (len(self._numbers("subsampling_channels")) == 3, "three numbers"),
            "pos_dim": (self.pos_dim % 2 == 0, "an even number"),
            "num_mel_bins": (self.num_mel_bins >= 7, "at least 7"),
            "regularisers": (self.regularisers in ("fast", "exact"), "fast or exact"),
        }
        for name, (holds, expected) in requirements.items():
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)!r}", expected, f"correct {name}")

    def _numbers(self, name: str) -> tuple[int, ...]:
        text = getattr(self, name)
        try:
            return tuple(int(part) for part in text.split(","))
        except ValueError as error:
            raise ConfigError(f"{name} = '{text}'", "whole numbers joined by commas", f"correct {name}") from error

    def per_stack(self, name: str) -> tuple[int, ...]:
        """The numbers of a field, one for each stack."""
        values = self._numbers(name)
        return values if len(values) > 1 else values * len(self._numbers("num_encoder_layers"))

    @property
    def output_dim(self) -> int:
        """Channels of `encoder_out`: the widest stack's."""
        return max(self.per_stack("encoder_dim"))

    @property
    def num_layers(self) -> int:
        """Number of layers, which is the number of hidden states."""
        return sum(self.per_stack("num_encoder_layers"))

    @property
    def front_end_channels(self) -> tuple[int, int, int]:
        """The numbers of `subsampling_channels`."""
        first, second, third = self._numbers("subsampling_channels")
        return first, second, third

    def to_dict(self) -> dict:
        """All fields, for JSON; lists are comma-joined strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "SpearConfig":
        """Reads a released config.json or `to_dict()`; keys of other tools (model_type, auto_map...) are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    @classmethod
    def _uniform(cls, layers: str, dim: int, unmasked_dim: int, changes: dict) -> "SpearConfig":
        def seven(value):
            return ",".join([str(value)] * 7)

        sizes = {"encoder_dim": dim, "feedforward_dim": 3 * dim, "encoder_unmasked_dim": unmasked_dim}
        fields = {"num_encoder_layers": layers, **{name: seven(value) for name, value in sizes.items()}}
        return cls(**{**fields, **changes})

    @classmethod
    def base(cls, **changes) -> "SpearConfig":
        """12 layers of 512 channels: 93 M parameters."""
        return cls._uniform("1,2,3,3,1,1,1", 512, 256, changes)

    @classmethod
    def large(cls, **changes) -> "SpearConfig":
        """11 layers of 1024 channels: 327 M parameters."""
        return cls._uniform("1,2,2,3,1,1,1", 1024, 512, changes)

    @classmethod
    def xlarge(cls, **changes) -> "SpearConfig":
        """13 layers of 1280 channels: 597 M parameters."""
        return cls._uniform("1,2,3,4,1,1,1", 1280, 768, changes)
