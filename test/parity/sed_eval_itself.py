"""The numbers of sed_eval that test_parity_sed_eval.py knows, asked of the package itself.

No part of the suite, since sed_eval is built from source with `setuptools<81`. In an environment of its own:

    python -m pytest test/parity/sed_eval_itself.py          # is what is kept what it says?
    python test/parity/sed_eval_itself.py                    # writes data/sed_eval.json anew
"""

import importlib.util
import json
import sys
from types import ModuleType

import numpy as np
import pytest
from test_parity_sed_eval import CASES, EXPECTED, LABELS, METRICS, recording

from spear.evaluate.matching import EVENTS, SEGMENT_SECONDS


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
        return importlib.import_module("sed_eval.sound_event")


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
