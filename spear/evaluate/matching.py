"""Scores of events: which of a hypothesis are those of the reference, and errors of segments."""

import math
from collections import Counter
from collections.abc import Sequence

EVENTS = {"event_f1": (0.2, False), "event_f1_50ms": (0.05, False), "event_f1_50ms_ends": (0.05, True)}
"""F1 of events: how many seconds onsets may be off (DCASE 2016; transcription of music), and whether ends count."""

SEGMENT_SECONDS = 1.0
"""How long a segment is (DCASE 2016, sed_eval)."""

_SHARE_OF_LENGTH = 0.2
_SLACK_SECONDS = 1e-9
Segments = Sequence[tuple[str, float, float]]


def event_counts(metric: str, reference: Segments, hypothesis: Segments) -> tuple[int, int]:
    """Numerator and denominator of an F1 of `EVENTS`."""
    within_seconds, with_ends = EVENTS[metric]
    matches = (matching_events if with_ends else matching_onsets)(reference, hypothesis, within_seconds)
    return 2 * matches, len(reference) + len(hypothesis)


def matching_onsets(reference: Segments, hypothesis: Segments, within_seconds: float) -> int:
    """The most pairs of events of one name whose onsets are near one another; ends do not matter."""
    matches = 0
    for name in {event[0] for event in reference}:
        first, second = (sorted(e[1] for e in side if e[0] == name) for side in (reference, hypothesis))
        a = b = 0
        while a < len(first) and b < len(second):  # in order of time this gives as many pairs as any other way
            gap = first[a] - second[b]
            near = abs(gap) <= within_seconds + _SLACK_SECONDS
            matches, a, b = matches + near, a + (near or gap < 0), b + (near or gap > 0)
    return matches


def matching_events(reference: Segments, hypothesis: Segments, within_seconds: float) -> int:
    """The most pairs of events of one name that begin and end near one another.

    Args:
        within_seconds: how far onsets may be off, and ends; these also by a fifth of the reference event's length.
    """
    places: dict[str, list[int]] = {}
    for place, (name, _, _) in enumerate(hypothesis):
        places.setdefault(name, []).append(place)
    near = []
    for name, start, end in reference:
        allowed = max(within_seconds, _SHARE_OF_LENGTH * (end - start)) + _SLACK_SECONDS
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


def segment_errors(
    reference: Segments, hypothesis: Segments, segment_seconds: float = SEGMENT_SECONDS
) -> tuple[int, int]:
    """(substitutions + deletions + insertions, active classes of the reference), over segments of equal length.

    A class is active in every segment that an event of it touches.
    """
    sides = []
    for events in (reference, hypothesis):
        spans = (
            (name, range(int(start / segment_seconds + 1e-9), math.ceil(end / segment_seconds - 1e-9)))
            for name, start, end in events
        )
        sides.append({(name, segment) for name, span in spans for segment in span})
    missed, added = (Counter(segment for _, segment in one) for one in (sides[0] - sides[1], sides[1] - sides[0]))
    return sum(max(missed[segment], added[segment]) for segment in missed | added), len(sides[0])
