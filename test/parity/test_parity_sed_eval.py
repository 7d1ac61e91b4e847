"""Scores of events against sed_eval, on a thousand random recordings.

What it says of them is in data/sed_eval.json (version 0.2.1, numbers for each metric in the order of recordings), which
sed_eval_itself.py writes and compares with the package.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from spear.evaluate.matching import EVENTS, event_counts, segment_errors

EXPECTED = Path(__file__).parent / "data" / "sed_eval.json"
CASES, LABELS = 1000, "abc"
METRICS = (*EVENTS, "segment_er")


def recording(seed: int) -> tuple[list, list]:
    """Events (name, start, end) of a recording, and what was found: some moved, some not there, some not found."""
    draw = random.Random(seed).random  # the one source whose numbers Python promises to keep

    def events(most: int) -> list:
        starts = [6 * draw() for _ in range(int((most + 1) * draw()))]
        return [(LABELS[int(3 * draw())], start, start + 0.05 + 1.5 * draw()) for start in starts]

    reference = [*events(6), ("a", 6 * draw(), 7.0)]
    spread = (0.05, 0.2, 0.8)[seed % 3]
    moved = [
        (name, max(0.0, start + spread * (draw() - 0.5)), end + spread * (draw() - 0.5))
        for name, start, end in reference
    ]
    kept = [(name, start, max(end, start + 0.01)) for name, start, end in moved if draw() < 0.8]
    return reference, kept + events(2)


def ours(metric: str, seed: int) -> float:
    reference, found = recording(seed)
    errors, of = (segment_errors if metric == "segment_er" else lambda *sides: event_counts(metric, *sides))(
        reference, found
    )
    return errors / of


@pytest.mark.parametrize("metric", METRICS)
def test_scores_of_events_are_those_of_sed_eval(metric):
    expected = json.loads(EXPECTED.read_text())[metric]
    assert len(expected) == CASES and len(set(expected)) > 20
    np.testing.assert_allclose([ours(metric, seed) for seed in range(CASES)], expected, atol=1e-6)
