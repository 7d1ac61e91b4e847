"""Which events of a hypothesis are those of the reference, where their ends matter as well."""

import math
from collections.abc import Sequence

NEAR = {"event_f1_50ms": False, "event_f1_50ms_ends": True}
"""Metrics of events whose onsets are 50 ms apart at most, and whether ends count (transcription of music)."""

_SLACK_SECONDS = 1e-9
Segments = Sequence[tuple[str, float, float]]


def event_counts(metric: str, reference: Segments, hypothesis: Segments) -> tuple[int, int]:
    """Numerator and denominator of an F1 of `NEAR`."""
    share = 0.2 if NEAR[metric] else math.inf
    return 2 * matching_events(reference, hypothesis, 0.05, share), len(reference) + len(hypothesis)


def matching_events(
    reference: Segments, hypothesis: Segments, within_seconds: float = 0.05, share_of_length: float = 0.2
) -> int:
    """The most pairs of events of one name that begin and end near one another.

    Args:
        within_seconds: how far onsets may be off, and ends.
        share_of_length: of the reference event; ends may be off by so much if that is more. Infinite: they are not
            looked at.
    """
    places: dict[str, list[int]] = {}
    for place, (name, _, _) in enumerate(hypothesis):
        places.setdefault(name, []).append(place)
    near = []
    for name, start, end in reference:
        allowed = max(within_seconds, share_of_length * max(end - start, _SLACK_SECONDS)) + _SLACK_SECONDS
        near.append(
            [
                place
                for place in places.get(name, ())
                if abs(hypothesis[place][1] - start) <= within_seconds + _SLACK_SECONDS
                and abs(hypothesis[place][2] - end) <= allowed
            ]
        )
    owner: dict[int, int] = {}
    return sum(_find(number, near, owner, set()) for number in range(len(near)))


def _find(number: int, near: list[list[int]], owner: dict[int, int], seen: set[int]) -> bool:
    """Gives a reference event a partner, and those that stand in its way others (an augmenting path)."""
    for place in near[number]:
        if place not in seen:
            seen.add(place)
            if place not in owner or _find(owner[place], near, owner, seen):
                owner[place] = number
                return True
    return False
