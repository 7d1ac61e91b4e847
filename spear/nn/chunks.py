"""Hearing in chunks, so that an encoder can run while the audio comes in.

A frame attends to its own chunk and to some frames before it, and a depthwise convolution has two parts: one over the
frames that came before, whatever their chunk, and one inside the chunk. The front end looks ahead as it always does.
Parameters and arithmetic are those of icefall's causal Zipformer (github.com/k2-fsa/icefall).
"""

from typing import NamedTuple

import torch
from torch import Tensor

WHOLE = -1
"""As a number of frames: the whole utterance, or everything before the chunk."""


class ChunkSize(NamedTuple):
    """How an encoder hears.

    Attributes:
        frames: of a chunk at 50 Hz, or `WHOLE`.
        left_context_frames: before the chunk that it may use, or `WHOLE`; rounded down to whole chunks, at least one.
    """

    frames: int
    left_context_frames: int = WHOLE


class Chunks(NamedTuple):
    """The chunks of a batch at the frame rate of one stack.

    Attributes:
        frames: of a chunk, or `WHOLE`.
        hidden_TT: True where a frame (row) may not use another (column); None where it may use all.
    """

    frames: int
    hidden_TT: Tensor | None


ALL = Chunks(WHOLE, None)
"""No chunks: every frame may use all others."""


def chunks_at(size: ChunkSize, num_frames: int, factor: int, device: torch.device) -> Chunks:
    """The chunks of `num_frames` frames of 50 Hz in a stack at 1/factor of the rate."""
    if size.frames == WHOLE:
        return ALL
    number_T = torch.arange(0, num_frames, factor, device=device) // size.frames
    ahead_TT = number_T - number_T.unsqueeze(1)
    hidden_TT = ahead_TT > 0
    if size.left_context_frames != WHOLE:
        hidden_TT |= ahead_TT < -max(1, size.left_context_frames // size.frames)
    return Chunks(max(1, size.frames // factor), hidden_TT)
