"""Events as activity of frames, and back: what is on at a frame's centre, median filters, stretches that are on."""

from collections.abc import Sequence

import numpy as np


def covered(
    events: Sequence[tuple[str, float, float]], centres_T: np.ndarray, names: Sequence[str], slack_seconds: float = 0.0
) -> np.ndarray:
    """(T, C), 1 where an event (name, start, end) is on at a frame's centre: from its start until before its end.

    Args:
        events: in seconds; those of other names are left aside.
        centres_T: of the frames, in seconds.
        names: of the C classes.
        slack_seconds: for so long an event is on behind its end.
    """
    places = {name: place for place, name in enumerate(names)}
    found_TC = np.zeros((len(centres_T), len(names)), dtype=np.uint8)
    for name, start, end in events:
        if name in places:
            found_TC[(centres_T >= start) & (centres_T < end + slack_seconds), places[name]] = 1
    return found_TC


def smoothed(active_TC: np.ndarray, width: int, beyond: str = "symmetric") -> np.ndarray:
    """The median over `width` frames of what is on or off.

    To cut the median of probabilities at a threshold and to take the median of what is above it is the same.

    Args:
        beyond: what is behind the ends, a mode of `numpy.pad`: `symmetric`, mirrored, as scipy's `median_filter` has
            it; or `constant`, silence.
    """
    if width < 2 or not len(active_TC):
        return active_TC
    before = width // 2
    wide_TC = np.pad(active_TC.astype(np.int64), ((before, width - 1 - before), (0, 0)), mode=beyond)
    sums_TC = np.concatenate([np.zeros((1, wide_TC.shape[1]), np.int64), wide_TC.cumsum(axis=0)])
    return sums_TC[width:] - sums_TC[:-width] >= width - before


def stretches_on(active_T: np.ndarray) -> list[tuple[int, int]]:
    """The first frame of each stretch that is on, and the first one behind it."""
    edges = np.flatnonzero(np.diff(active_T.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2], edges[1::2]))
