"""The encoder `zipformer`: names and defaults of the released config.json."""

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from spear.errors import ConfigError
from spear.models.encoders.base import EncoderConfig, switch_regularisers
from spear.models.inference import infer_sizes
from spear.nn import WHOLE, ChunkSize, StackSizes, Zipformer, ZipformerLayer

# Smallest and largest number of each field. The largest are far beyond any model there is; they end the reading of
# configurations that would take hours and all memory to build.
_PER_STACK = {
    "downsampling_factor": (1, 64),
    "num_encoder_layers": (1, 128),
    "feedforward_dim": (4, 1 << 17),
    "encoder_dim": (4, 1 << 15),
    "encoder_unmasked_dim": (1, 1 << 15),
    "cnn_module_kernel": (1, 1023),
    "num_heads": (1, 512),
    "query_head_dim": (1, 4096),
    "pos_head_dim": (1, 4096),
    "value_head_dim": (1, 4096),
}
_LISTS = {**_PER_STACK, "subsampling_channels": (1, 1 << 13)}
_NUMBERS = {"num_mel_bins": (7, 1024), "output_downsampling_factor": (1, 2), "pos_dim": (2, 4096)}
_SWITCHES = ("causal", "exact_padding", "gradient_regularisers", "constant_attention")
_MOST_STACKS, _MOST_LAYERS = 32, 512
_STACK_SIZES = {
    "downsampling": "downsampling_factor",
    "num_layers": "num_encoder_layers",
    "dim": "encoder_dim",
    "unmasked_dim": "encoder_unmasked_dim",
    "feed_forward_dim": "feedforward_dim",
    "kernel": "cnn_module_kernel",
    "num_heads": "num_heads",
    "query_head_dim": "query_head_dim",
    "position_head_dim": "pos_head_dim",
    "value_head_dim": "value_head_dim",
}
_CHUNK_NUMBERS = re.compile(r"(-1|\d{1,6})(,(-1|\d{1,6})){,31}", re.ASCII)
_WHOLE_NUMBERS = re.compile(r"\d{1,9}(,\d{1,9})*", re.ASCII)


@dataclass(frozen=True)
class SpearConfig(EncoderConfig):
    """Sizes of a Zipformer. The defaults are the released Large model.

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
        causal: hears in chunks, and can be trained to run while the audio comes in.
        chunk_size: of a causal encoder, in frames at 50 Hz: multiples of every stack's downsampling, or -1 for the
            whole utterance. Each batch is trained with one of them; what is not trained hears in the largest.
        left_context_frames: before a chunk, in such frames, drawn likewise; -1: all.
        subsampling_channels: of the three convolutions of the front end. Small models want fewer: they cost most.
        exact_padding: an utterance in a padded batch gives what it gives alone. False is what the released code does:
            the last frames of shorter utterances then see some padding.
        gradient_regularisers: False switches balancers and whiteners off.
        regularisers: `fast`: balancers and whiteners take their statistics from some frames; `exact`: from all, as
            often as in the reference.
        constant_attention: now and then, training spreads the attention of non-linear attention evenly over all frames.
            No published model was trained so.
    """

    encoder: ClassVar[str] = "zipformer"
    layer_class: ClassVar[type[nn.Module]] = ZipformerLayer

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
        for name, bounds in _LISTS.items():
            text = _joined(getattr(self, name))
            if not _WHOLE_NUMBERS.fullmatch(text):
                self._refuse(name, "whole numbers joined by commas")
            object.__setattr__(self, name, text)
            for number in self._numbers(name):
                self._check_range(name, number, *bounds)
        for name, bounds in _NUMBERS.items():
            self._check_range(name, getattr(self, name), *bounds)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, "true or false")
        for name in ("chunk_size", "left_context_frames"):
            if not isinstance(getattr(self, name), str | int):
                self._refuse(name, "whole numbers joined by commas")
        self.check()

    def _refuse(self, name: str, expected: str) -> None:
        raise ConfigError(f"{name} = {_shown(getattr(self, name))}", expected, f"correct {name}")

    def _check_range(self, name: str, value: int, least: int, most: int) -> None:
        if type(value) is not int or not least <= value <= most:
            self._refuse(name, f"whole numbers from {least} to {most}")

    def check(self) -> None:
        """See `EncoderConfig`."""
        stacks = len(self._numbers("num_encoder_layers"))
        for name in _PER_STACK:
            count = len(self._numbers(name))
            if count not in (1, stacks):
                raise ConfigError(
                    f"{name} = '{getattr(self, name)}' with {count} numbers",
                    f"one number, or one for each of the {stacks} stacks of num_encoder_layers",
                    f"correct {name}",
                )
        requirements = {
            "num_encoder_layers": (
                stacks <= _MOST_STACKS and self.num_layers <= _MOST_LAYERS,
                f"at most {_MOST_STACKS} stacks and {_MOST_LAYERS} layers in all",
            ),
            "cnn_module_kernel": (all(k % 2 for k in self.per_stack("cnn_module_kernel")), "odd kernels"),
            "encoder_dim": (all(d % 4 == 0 for d in self.per_stack("encoder_dim")), "multiples of 4"),
            "feedforward_dim": (all(d % 4 == 0 for d in self.per_stack("feedforward_dim")), "multiples of 4"),
            "subsampling_channels": (len(self._numbers("subsampling_channels")) == 3, "three numbers"),
            "pos_dim": (self.pos_dim % 2 == 0, "an even number"),
            "regularisers": (self.regularisers in ("fast", "exact"), "fast or exact"),
        }
        for name, (holds, expected) in requirements.items():
            if not holds:
                self._refuse(name, expected)
        if self.causal:
            self._check_chunks()

    def _check_chunks(self) -> None:
        step = math.lcm(self.output_downsampling_factor, *self.per_stack("downsampling_factor"))
        numbers = _chunk_numbers(self.chunk_size)
        if not numbers or any(n != WHOLE and (n < 1 or n % step) for n in numbers):
            self._refuse("chunk_size", f"multiples of {step}, or {WHOLE}, joined by commas")
        if not _chunk_numbers(self.left_context_frames):
            self._refuse("left_context_frames", f"whole numbers from 0, or {WHOLE}, joined by commas")

    def check_chunk_size(self, size: ChunkSize) -> None:
        """See `EncoderConfig`."""
        if not self.causal:
            super().check_chunk_size(size)
        dataclasses.replace(self, chunk_size=size.frames, left_context_frames=size.left_context_frames)

    @property
    def chunk_sizes(self) -> list[ChunkSize] | None:
        """What a causal encoder may hear in; None where it hears everything."""
        if not self.causal:
            return None
        numbers = (_chunk_numbers(self.chunk_size), _chunk_numbers(self.left_context_frames))
        return [ChunkSize(*pair) for pair in itertools.product(*numbers)]

    def _numbers(self, name: str) -> tuple[int, ...]:
        return tuple(int(part) for part in getattr(self, name).split(","))

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

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """Channels of each hidden state."""
        stacks = zip(self.per_stack("encoder_dim"), self.per_stack("num_encoder_layers"))
        return tuple(dim for dim, count in stacks for _ in range(count))

    def front_end(self) -> nn.Module:
        """See `EncoderConfig`."""
        return self._switched(super().front_end())

    def body(self) -> nn.Module:
        """See `EncoderConfig`."""
        columns = {ours: self.per_stack(theirs) for ours, theirs in _STACK_SIZES.items()}
        stacks = [StackSizes(**dict(zip(columns, row))) for row in zip(*columns.values())]
        return self._switched(
            Zipformer(stacks, self.pos_dim, self.output_downsampling_factor, self.exact_padding, self.chunk_sizes)
        )

    def _switched(self, module: nn.Module) -> nn.Module:
        for part in module.modules():
            if isinstance(part, ZipformerLayer):
                part.constant_attention = self.constant_attention
        return switch_regularisers(module, self.gradient_regularisers, exact=self.regularisers == "exact")

    @classmethod
    def infer(cls, state: dict[str, Tensor]) -> "SpearConfig":
        """See `EncoderConfig`, and `spear.models.inference.infer_sizes` for what shapes do not tell."""
        return cls(**infer_sizes(state))

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


def _joined(value: object) -> str:
    """Numbers joined by commas, as the released files write them; '' for what cannot be numbers of stacks."""
    parts = value if isinstance(value, list | tuple) else [value]
    if len(parts) > _MOST_STACKS or not all(_is_short(part) for part in parts):
        return ""
    return ",".join(str(part) for part in parts).replace(" ", "")


def _chunk_numbers(value: str | int) -> list[int]:
    """The numbers of a field; none for what is no list of at most 32 whole numbers."""
    text = str(value).replace(" ", "") if _is_short(value) else ""
    return [int(part) for part in text.split(",")] if _CHUNK_NUMBERS.fullmatch(text) else []


def _is_short(part: object) -> bool:
    # The text of a number of a million digits would take long, and Python refuses to write it.
    return len(part) < 500 if isinstance(part, str) else type(part) is int and abs(part) < 1 << 31


def _shown(value: object) -> str:
    """A value for a message, cut short."""
    if isinstance(value, list | tuple | dict | set) and len(value) > 9:
        return f"a {type(value).__name__} of {len(value)} values"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value[:81] if isinstance(value, str) else value)
    return text if len(text) < 80 else text[:80] + "..."
