"""Scores of events against sed_eval, on a thousand random recordings.

What it says of them is in data/sed_eval.json (version 0.2.1, numbers for each metric in the order of recordings); where
it is installed, the file is compared with it as well. Running this file writes the file anew.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from spear.evaluate.matching import EVENTS, SEGMENT_SECONDS, event_counts, segment_errors

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


def theirs(sound_event, metric: str, seed: int) -> float:
    if metric == "segment_er":
        judge, place = sound_event.SegmentBasedMetrics([*LABELS], time_resolution=SEGMENT_SECONDS), "error_rate"
    else:
        within_seconds, with_ends = EVENTS[metric]
        judge, place = sound_event.EventBasedMetrics(
            [*LABELS], t_collar=within_seconds, evaluate_offset=with_ends, percentage_of_length=0.2
        ), "f_measure"  # fmt: skip
    judge.evaluate(
        *(
            [{"event_label": name, "event_onset": s, "event_offset": e, "file": "x"} for name, s, e in side]
            for side in recording(seed)
        )
    )
    return float(np.nan_to_num(judge.results_overall_metrics()[place][place]))


def sed_eval():
    """Its module of sound events."""
    with pytest.MonkeyPatch.context() as patch:
        # Its dependency dcase_util imports them for spectrograms, examples and the list of its requirements.
        for name in ("librosa", "pkg_resources"):
            if importlib.util.find_spec(name) is None:
                patch.setitem(sys.modules, name, ModuleType(name))
        return pytest.importorskip("sed_eval.sound_event")


@pytest.mark.parametrize("metric", METRICS)
def test_scores_of_events_are_those_of_sed_eval(metric):
    expected = json.loads(EXPECTED.read_text())[metric]
    assert len(expected) == CASES and len(set(expected)) > 20
    np.testing.assert_allclose([ours(metric, seed) for seed in range(CASES)], expected, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_kept_of_sed_eval_is_what_it_says(metric):
    module, expected = sed_eval(), json.loads(EXPECTED.read_text())[metric]
    found = [theirs(module, metric, seed) for seed in range(0, CASES, 10)]
    np.testing.assert_allclose(found, expected[::10], atol=1e-6)


if __name__ == "__main__":
    module = sed_eval()
    found = {metric: [round(theirs(module, metric, seed), 6) for seed in range(CASES)] for metric in METRICS}
    EXPECTED.parent.mkdir(exist_ok=True)
    EXPECTED.write_text(json.dumps(found) + "\n")
