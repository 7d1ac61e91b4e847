"""Hidden states of audio of any length in bounded memory, and when their frames are.

Recordings up to `WHOLE_SECONDS` are encoded whole, as `spear evaluate` does; longer ones in windows that overlap, of
which the middle is kept. Batches are cut so that memory depends neither on their size nor on the audio's length.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from spear.evaluate.upstream import MIN_SAMPLES, Upstream

WHOLE_SECONDS = 130.0
"""The longest recordings that tasks of frames have are of two minutes."""

STATES = ("last", "mean", "concat")
"""What a frame's embedding may be: the last state, the mean over states, or all of them side by side."""

_WINDOW_SECONDS, _CONTEXT_SECONDS, _BATCH_SECONDS = 60.0, 5.0, 80.0


def stretches(
    upstream: Upstream, waves_BS: Tensor, whole_seconds: float = WHOLE_SECONDS, grid_seconds: float = 0.16
) -> Iterator[list[Tensor]]:
    """Hidden states, one stretch of time after the other: lists of (B, T, D_layer) on the CPU.

    Args:
        waves_BS: recordings of equal length at the upstream's rate, none of it padding.
        whole_seconds: up to here a recording is one stretch.
        grid_seconds: zeros are put behind the audio up to a multiple of this, see `cache.CacheConfig`.
    """
    rate, stride, samples = upstream.sample_rate, upstream.stride_samples, waves_BS.shape[1]
    if samples <= whole_seconds * rate:
        yield _batched(upstream, waves_BS, grid_seconds)
        return
    hop, context = (max(1, round(s * rate / stride)) for s in (_WINDOW_SECONDS, _CONTEXT_SECONDS))
    for start in range(0, samples, hop * stride):
        first = max(0, start - context * stride)
        stop = min(samples, start + (hop + context) * stride)
        states = _batched(upstream, waves_BS[:, first:stop], grid_seconds)
        skipped = (start - first) // stride
        last = None if stop == samples else skipped + hop
        states = [state_BTD[:, skipped:last] for state_BTD in states]
        if states[0].shape[1]:
            yield states
        if stop == samples:
            return


def padded_samples(samples: int, sample_rate: int, grid_seconds: float) -> int:
    """How long a recording is with zeros behind it: long enough for a frame, and a multiple of the grid."""
    step = max(1, round(grid_seconds * sample_rate))
    return -(-max(samples, MIN_SAMPLES) // step) * step


def _batched(upstream: Upstream, waves_BS: Tensor, grid_seconds: float) -> list[Tensor]:
    samples = max(waves_BS.shape[1], MIN_SAMPLES)
    wanted = padded_samples(samples, upstream.sample_rate, grid_seconds)
    padded_BS = functional.pad(waves_BS, (0, wanted - waves_BS.shape[1]))
    size = max(1, int(_BATCH_SECONDS * upstream.sample_rate / padded_BS.shape[1]))
    parts = []
    for part_BS in padded_BS.split(size):
        states, lens_B = upstream.extract(part_BS, torch.full((len(part_BS),), samples))
        parts.append([state_BTD[:, : int(lens_B[0])].float().cpu() for state_BTD in states])
    return [torch.cat(layers) for layers in zip(*parts)]


def joined(states: list[Tensor], how: str) -> Tensor:
    """The embeddings (B, T, D) of hidden states, see `STATES`; of states of different widths the mean has the widest.

    Raises:
        ValueError: another word.
    """
    if how == "last":
        return states[-1]
    if how == "concat":
        return torch.cat(states, dim=2)
    if how != "mean":
        raise ValueError(f"states '{how}'")
    width = max(state.shape[2] for state in states)
    return sum(functional.pad(state, (0, width - state.shape[2])) for state in states) / len(states)


def first_centre_seconds(upstream: Upstream) -> float:
    """The middle of what the first frame hears; each further one is a stride later.

    Measured: the shortest audio with as many frames as one second of it ends where the last of them does, and what the
    frames hear lies evenly around them.
    """
    rate, stride = upstream.sample_rate, upstream.stride_samples

    def frames(samples: int) -> int:
        return int(upstream.extract(torch.zeros(1, samples), torch.tensor([samples]))[1][0])

    count = frames(rate)
    few, enough = max(1, rate - 4 * stride), rate
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if frames(middle) == count else (middle, enough)
    heard = enough + getattr(upstream, "rounded_samples", 0)
    return max(0.5, (heard - (count - 1) * stride) / 2) / rate
