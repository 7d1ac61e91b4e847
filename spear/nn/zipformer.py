"""The encoder: stacks of layers at different frame rates and widths (Zipformer, 3.4 to 3.6)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spear.nn.chunks import WHOLE, ChunkSize, chunks_at
from spear.nn.layer import ZipformerLayer
from spear.nn.resample import Downsample, repeat_last_valid, upsample, with_channels
from spear.nn.schedule import ScheduledFloat
from spear.nn.stack import DownsampledStack, ZipformerStack

WARMUP_BATCHES = 4000.0
_FEATURE_MASK_PROBABILITY = 0.125


class StackSizes(NamedTuple):
    """What one stack is made of: see `SpearConfig` for the meaning of the fields."""

    downsampling: int
    num_layers: int
    dim: int
    unmasked_dim: int
    feed_forward_dim: int
    kernel: int
    num_heads: int
    query_head_dim: int
    position_head_dim: int
    value_head_dim: int


def _build_stack(
    sizes: StackSizes, position_dim: int, warmup: tuple[float, float], causal: bool, exact_padding: bool
) -> nn.Module:
    begin, end = warmup
    window = (end - begin) / sizes.num_layers
    layers = []
    for index in range(sizes.num_layers):
        # One layer after the other stops being skipped half of the time, the deeper ones later.
        first = begin + index * window
        skip_rate = ScheduledFloat((first, 0.5), (first + window, 0.035 * sizes.downsampling**0.5))
        attention = (sizes.num_heads, sizes.query_head_dim, sizes.position_head_dim, sizes.value_head_dim)
        others = (sizes.feed_forward_dim, sizes.kernel, skip_rate, causal, exact_padding)
        layers.append(ZipformerLayer(sizes.dim, *attention, position_dim, *others))
    stack = ZipformerStack(layers, position_dim)
    return stack if sizes.downsampling == 1 else DownsampledStack(stack, sizes.dim, sizes.downsampling, exact_padding)


class Zipformer(nn.Module):
    """Args:
    stacks: sizes of the stacks, in order.
    position_dim: width of the positional features.
    output_downsampling: 1 (50 Hz) or 2 (25 Hz).
    exact_padding: an utterance in a padded batch gives exactly what it gives alone.
    chunk_sizes: an encoder that hears in chunks is trained with one of these for each batch; None: it hears all.
    """

    def __init__(
        self,
        stacks: list[StackSizes],
        position_dim: int,
        output_downsampling: int,
        exact_padding: bool,
        chunk_sizes: list[ChunkSize] | None = None,
    ):
        super().__init__()
        self.chunk_sizes = chunk_sizes
        self.sizes = stacks
        self.output_dim = max(sizes.dim for sizes in stacks)
        self.exact_padding = exact_padding
        step = WARMUP_BATCHES / (len(stacks) + 1)
        self.encoders = nn.ModuleList(
            _build_stack(
                sizes, position_dim, (step * (index + 1), step * (index + 2)), chunk_sizes is not None, exact_padding
            )
            for index, sizes in enumerate(stacks)
        )
        self.downsample_output = Downsample(output_downsampling) if output_downsampling > 1 else None

    def _feature_masks(self, x_BTD: Tensor) -> list[Tensor | None]:
        """For each stack a (B, 1, D) mask over channels beyond its unmasked ones; the same draw for every stack.

        The upper half of these channels is lost with the lower half, or on its own.
        """
        if not self.training:
            return [None] * len(self.sizes)
        lower, upper = torch.rand(2, x_BTD.shape[0], 1, 1, device=x_BTD.device) >= _FEATURE_MASK_PROBABILITY
        masks = []
        for sizes in self.sizes:
            if sizes.unmasked_dim >= sizes.dim:
                masks.append(None)
                continue
            middle = sizes.unmasked_dim + (sizes.dim - sizes.unmasked_dim) // 2
            mask_B1D = x_BTD.new_ones(x_BTD.shape[0], 1, sizes.dim)
            mask_B1D[..., sizes.unmasked_dim : middle] = lower
            mask_B1D[..., middle:] = lower & upper
            masks.append(mask_B1D)
        return masks

    def full_width(self, outputs: list[Tensor]) -> Tensor:
        """The last stack's output; wider stacks before it supply the channels that it lacks, the latest one first."""
        pieces = [outputs[-1]]
        width = outputs[-1].shape[-1]
        for output in reversed(outputs[:-1]):
            if output.shape[-1] > width:
                pieces.append(output[..., width:])
                width = output.shape[-1]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def _chunk_size(self) -> ChunkSize:
        """Of this batch: any of them in training, else the one that hears most."""
        if self.chunk_sizes is None:
            return ChunkSize(WHOLE)
        if self.training:
            return self.chunk_sizes[int(torch.randint(len(self.chunk_sizes), ()))]
        return max(self.chunk_sizes, key=lambda size: [math.inf if n == WHOLE else n for n in size])

    def forward(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        with_layers: bool = True,
        chunk_size: ChunkSize | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeddings (B, T, D) at 50 Hz -> the output, and the output of every layer at 50 Hz.

        Args:
            padding_BT: True at padded frames, or None.
            with_layers: False leaves the list empty.
            chunk_size: that it hears in; None: one of `chunk_sizes`.
        """
        num_frames, chunk_size = x_BTD.shape[1], chunk_size or self._chunk_size()
        factors = {sizes.downsampling for sizes in self.sizes}
        chunks = {factor: chunks_at(chunk_size, num_frames, factor, x_BTD.device) for factor in factors}
        outputs, layers = [], []
        for sizes, stack, mask in zip(self.sizes, self.encoders, self._feature_masks(x_BTD)):
            x_BTD = with_channels(x_BTD, sizes.dim)
            if sizes.downsampling == 1:
                of_layers = stack(x_BTD, mask, padding_BT, chunks[1])
                x_BTD = of_layers[-1]
            else:
                x_BTD, of_layers = stack(x_BTD, mask, padding_BT, chunks[sizes.downsampling])
            if with_layers:
                layers += [
                    x if sizes.downsampling == 1 else upsample(x, sizes.downsampling, num_frames) for x in of_layers
                ]
            outputs.append(x_BTD)
        result = self.full_width(outputs)
        if self.downsample_output is not None:
            if padding_BT is not None and self.exact_padding:
                result = repeat_last_valid(result, padding_BT)
            result = self.downsample_output(result)
        return result, layers
