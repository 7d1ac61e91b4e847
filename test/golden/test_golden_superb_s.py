"""superb_s against the totals of the public board."""

import pytest

from spear.errors import ConfigError
from spear.evaluate.score import references, superb_s

KNOWN = references()


@pytest.mark.parametrize("name", KNOWN["published_superb_s"])
def test_published_totals(name):
    assert superb_s(KNOWN["rows"][name]) == pytest.approx(KNOWN["published_superb_s"][name], abs=0.06)


def test_the_reference_rows_are_the_ends_of_the_scale():
    assert superb_s(KNOWN["rows"]["fbank"]) == 0
    assert superb_s(KNOWN["rows"]["best_2021"]) == pytest.approx(1000)
    names = ("wav2vec2-base", "wav2vec2-large", "hubert-base", "hubert-large")
    lower_is_better = {"per", "wer", "eer", "der", "slot_cer"}
    for task, metrics in KNOWN["metrics"].items():
        for place, metric in enumerate(metrics):
            best = (min if metric in lower_is_better else max)(KNOWN["rows"][n][task][place] for n in names)
            assert KNOWN["rows"]["best_2021"][task][place] == best, (task, metric)


def test_another_top_row():
    """The second row of the table in A.7."""
    totals = {"wavlm-base-plus": 965.6, "hubert-base": 835.9, "wav2vec2-base": 734.4}
    for name, total in totals.items():
        assert superb_s(KNOWN["rows"][name], top="wavlm-large") == pytest.approx(total, abs=0.06)


def test_a_row_without_all_metrics_of_a_task_is_refused():
    with pytest.raises(ConfigError, match="slot_f1"):
        superb_s({"SF": [90.0]})
    with pytest.raises(ConfigError):
        superb_s({})
