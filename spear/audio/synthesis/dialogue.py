"""Two talkers in one recording, in turns that overlap or leave pauses, with who speaks when."""

from collections.abc import Sequence

import numpy as np

from spear.audio.synthesis.channel import limited
from spear.audio.synthesis.espeak import SAMPLE_RATE_HZ

_WINDOW = 400


def active_span(wave: np.ndarray, below_peak_db: float = 30.0) -> tuple[int, int]:
    """First and last sample (exclusive) whose 25 ms level is within `below_peak_db` of the loudest."""
    count = max(1, len(wave) // _WINDOW)
    power = np.asarray([np.mean(part**2) for part in np.array_split(wave, count)])
    loud = np.flatnonzero(power >= power.max() * 10 ** (-below_peak_db / 10))
    edges = np.linspace(0, len(wave), count + 1).astype(int)
    return int(edges[loud[0]]), int(edges[loud[-1] + 1])


def dialogue(
    turns: Sequence[tuple[str, np.ndarray]], rng: np.random.Generator, overlap_seconds: float = 0.9, pause: float = 0.6
) -> tuple[np.ndarray, list[list]]:
    """Joins turns: each starts up to `overlap_seconds` before or `pause` seconds after the end of the one before.

    Args:
        turns: (speaker, samples at 16 kHz), in order.

    Returns:
        The samples, and segments [speaker, start, end] in seconds, by start.
    """
    placed, segments, position = [], [], 0
    for number, (speaker, wave) in enumerate(turns):
        start, end = active_span(wave)
        if number:
            position += int(rng.uniform(-overlap_seconds, pause) * SAMPLE_RATE_HZ)
        begin = max(0, position - start)  # where the recording itself begins
        placed.append((begin, wave * 10 ** (rng.uniform(-2, 2) / 20)))
        segments.append([speaker, (begin + start) / SAMPLE_RATE_HZ, (begin + end) / SAMPLE_RATE_HZ])
        position = begin + end
    mixed = np.zeros(max(begin + len(wave) for begin, wave in placed), dtype=np.float32)
    for begin, wave in placed:
        mixed[begin : begin + len(wave)] += wave
    return limited(mixed), [[name, round(a, 3), round(b, 3)] for name, a, b in sorted(segments, key=lambda s: s[1])]
