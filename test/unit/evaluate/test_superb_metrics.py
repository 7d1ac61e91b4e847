"""The metrics of the SUPERB tasks: values worked out by hand, and equality with other implementations."""

import numpy as np
import pytest

from spear.evaluate import metrics
from spear.evaluate.metrics import interval_of_folds, score_folds


def row(reference, *hypotheses):
    return {"id": "x", "reference": reference, "hypotheses": list(hypotheses)}


def test_error_rates_are_sums_over_sums():
    rows = [row(list("abcd"), list("abxd")), row(["e"], ["f", "g"])]
    assert metrics.score_rows("per", rows) == pytest.approx(3 / 5)  # 1 of 4 and 2 of 1; not the mean of 0.25 and 2
    rows = [row("A CAT", "A CAT SAT"), row("NO", "NO")]
    assert metrics.score_rows("wer", rows) == pytest.approx(1 / 3)
    assert metrics.score_rows("cer", rows) == pytest.approx(4 / 7)  # " SAT"


def test_an_empty_reference_has_a_defined_score():
    assert metrics.score_rows("wer", [row("", "A B"), row("C D", "C D")]) == pytest.approx(2 / 2)
    assert np.isnan(metrics.score_rows("wer", [row("", "")]))


def test_accuracy_is_averaged_over_seeds():
    rows = [row("yes", "yes", "no"), row(["a", "b"], ["a", "b"], ["a", "b"])]
    assert metrics.score_rows("accuracy", rows) == pytest.approx(0.75)


SLOTS = {"slots": [["city", "rome"], ["time", "noon"]]}
SAID = {"slots": [["city", "rom"]], "lenient_slots": [["city", "rom"], ["time", "noon"], ["day", "x"]]}
BY_HAND = {
    "accuracy": ([row("a", "a"), row("b", "a")], 1 / 2),
    "per": ([row(["A", "B"], ["A"]), row(["C"], ["C", "D"])], 2 / 3),
    "wer": ([row("A B", "A"), row("C", "C D")], 2 / 3),
    "cer": ([row("ABC", "AC"), row("D", "D")], 1 / 4),
    "slot_f1": ([row(SLOTS, SAID)], 2 / 3),  # one of two types, and no other
    "slot_cer": ([row(SLOTS, SAID)], (1 + 4) / 8),  # rome as rom, noon not at all
    "lenient_slot_f1": ([row(SLOTS, SAID)], 4 / 5),  # both types, and one more
    "lenient_slot_cer": ([row(SLOTS, SAID)], 1 / 8),
    "eer": ([row(True, 2.0), row(False, 2.5), row(True, 3.0), row(False, 1.0)], 1 / 2),  # at 2.5: one of two each
    "der": ([row([["a", 0, 4]], [["x", 1, 5]])], 2 / 4),  # the first second missed, the last a false alarm
    # A threshold of 2.5 accepts the own document of each query and no other.
    "mtwv": ([row(["d1"], {"d1": 3.0, "d2": 2.0}), row(["d2"], {"d1": 1.0, "d2": 2.5})], 1.0),
    "si_sdri": ([row([], {"si_sdr": 9.0, "mixture": 2.0}), row([], {"si_sdr": 3.0, "mixture": 4.0})], 3.0),
}


@pytest.mark.parametrize("metric", sorted(BY_HAND))
def test_every_metric_by_hand(metric):
    rows, expected = BY_HAND[metric]
    assert metrics.score_rows(metric, rows) == pytest.approx(expected)
    assert metric in metrics.HIGHER_IS_BETTER and metrics.TITLES[metric]


@pytest.mark.parametrize(
    "reference, hypothesis, expected",
    [
        ([], [], 1.0),
        ([], [("city", "rome")], 0.0),
        ([("city", "rome")], [], 0.0),
        ([("city", "rome"), ("time", "noon")], [("city", "x")], 2 / 3),  # precision 1, recall 1/2
        ([("city", "rome"), ("city", "oslo")], [("city", "rome")], 1.0),  # sets of types
    ],
)
def test_slot_type_f1(reference, hypothesis, expected):
    assert metrics.slot_type_f1(reference, hypothesis) == pytest.approx(expected)


def test_slot_value_edits_take_the_nearest_value_of_the_type():
    reference = [("city", "rome"), ("time", "noon")]
    hypothesis = [("city", "berlin"), ("city", "roma"), ("day", "noon")]
    assert metrics.slot_value_edits(reference, hypothesis) == (1 + 4, 8)
    rows = [row({"slots": reference}, {"slots": hypothesis}), row({"slots": []}, {"slots": hypothesis})]
    assert metrics.score_rows("slot_cer", rows) == pytest.approx(5 / 8)
    assert metrics.score_rows("slot_f1", rows) == pytest.approx((2 * 1 / 4 + 0) / 2)


def test_equal_error_rate_by_hand():
    # From the highest score: target, other, target, target, other, other. After three are accepted 2/3 of the targets
    # and 1/3 of the others are in: miss rate = false-alarm rate = 1/3.
    assert metrics.equal_error_rate([6, 5, 4, 3, 2, 1], [1, 0, 1, 1, 0, 0]) == pytest.approx(1 / 3)
    # Two points (0, 1/2) and (1, 1) with a line between: alarms = t, accepted = 1/2 + t/2, so t = 1/2 - t/2.
    assert metrics.equal_error_rate([2, 1, 1], [1, 1, 0]) == pytest.approx(1 / 3)
    assert metrics.equal_error_rate([2, 1], [1, 0]) == 0
    assert metrics.equal_error_rate([1, 2], [1, 0]) == 1
    assert metrics.equal_error_rate([1, 1], [1, 0]) == pytest.approx(0.5)
    assert np.isnan(metrics.equal_error_rate([1, 2], [1, 1]))


def test_equal_error_rate_against_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    optimize, interpolate = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.interpolate")
    rng = np.random.default_rng(0)
    for _ in range(20):
        target = rng.random(200) < 0.3
        scores = np.round(rng.normal(size=200) + target, 1)  # with ties
        alarms, accepted, _ = sklearn.roc_curve(target, scores, drop_intermediate=False)
        line = interpolate.interp1d(alarms, accepted)
        expected = optimize.brentq(lambda x, line=line: 1 - x - line(x), 0, 1)
        # interp1d steps over vertical parts of the curve as it likes; ours follows them.
        assert metrics.equal_error_rate(scores, target) == pytest.approx(expected, abs=1e-6)


def test_weights_are_repetitions():
    scores, target = [5, 4, 3, 2, 1], [1, 0, 1, 0, 1]
    weights = [1, 2, 3, 1, 2]
    repeated = [np.repeat(np.asarray(values), weights) for values in (scores, target)]
    assert metrics.equal_error_rate(scores, target, weights) == pytest.approx(metrics.equal_error_rate(*repeated))


def test_diarization_errors_by_hand():
    reference = [("a", 0, 10), ("b", 8, 12)]  # 14 s of speech, 2 of them together
    assert metrics.diarization_errors(reference, [("x", 0, 10), ("y", 8, 12)]) == {
        "missed": 0,
        "false_alarm": 0,
        "confused": 0,
        "speech": 14,
    }
    # x is a; 9..10 and 10..12: b is missed for 8..12 except where x speaks alone after 10 (confusion 10..11).
    errors = metrics.diarization_errors(reference, [("x", 1, 11), ("y", 20, 21)])
    assert errors == {"missed": 1 + 2 + 1, "false_alarm": 1, "confused": 1, "speech": 14}
    assert metrics.score_rows("der", [row(reference, [("x", 1, 11), ("y", 20, 21)])]) == pytest.approx(6 / 14)


def test_diarization_of_silence():
    assert metrics.diarization_errors([], [("x", 0, 2)]) == {
        "missed": 0,
        "false_alarm": 2,
        "confused": 0,
        "speech": 0,
    }
    assert metrics.diarization_errors([("a", 0, 2)], [])["missed"] == 2
    assert np.isnan(metrics.score_rows("der", [row([], [])]))


def test_speakers_are_mapped_one_to_one_whatever_their_names():
    reference = [("a", 0, 4), ("b", 4, 10)]
    swapped = [("a", 4, 10), ("b", 0, 4)]
    assert metrics.diarization_errors(reference, swapped)["confused"] == 0
    # One hypothesised speaker cannot be two: the shorter one is confused.
    assert metrics.diarization_errors(reference, [("x", 0, 10)])["confused"] == 4


def test_diarization_errors_against_pyannote():
    core, diarization = pytest.importorskip("pyannote.core"), pytest.importorskip("pyannote.metrics.diarization")
    rng = np.random.default_rng(1)

    def random_segments(count, names):
        # Of one speaker they do not overlap; of two they may.
        segments = []
        for name in names:
            times = np.sort(rng.choice(1000, 2 * count, replace=False)) / 50
            segments += [(name, float(a), float(b)) for a, b in zip(times[::2], times[1::2])]
        return segments

    def annotation(segments):
        result = core.Annotation(uri="x")
        for number, (name, start, end) in enumerate(segments):
            result[core.Segment(start, end), number] = name
        return result

    for _ in range(10):
        reference, hypothesis = random_segments(5, "ab"), random_segments(4, "xyz")
        metric = diarization.DiarizationErrorRate(collar=0, skip_overlap=False)
        everything = core.Timeline([core.Segment(0, 20)])
        expected = metric(annotation(reference), annotation(hypothesis), uem=everything, detailed=True)
        errors = metrics.diarization_errors(reference, hypothesis)
        assert errors["speech"] == pytest.approx(expected["total"])
        assert errors["missed"] == pytest.approx(expected["missed detection"])
        assert errors["false_alarm"] == pytest.approx(expected["false alarm"])
        assert errors["confused"] == pytest.approx(expected["confusion"])


def test_maximum_term_weighted_value_by_hand():
    first = {"scores": {"d1": 3.0, "d2": 2.0, "d3": 1.0}, "targets": ["d1", "d3"]}
    second = {"scores": {"d1": 2.5, "d2": 0.0, "d3": 0.5}, "targets": ["d2"]}
    # Threshold 3: query 1 finds one of two -> (1/2 + 0) / 2 = 0.25. From 2.5 on a false alarm of query 2 costs
    # beta / 2 = 6.2 / 2, which nothing makes good.
    assert metrics.maximum_term_weighted_value([first, second]) == pytest.approx(0.25)
    # With beta 0.1: all accepted gives 1 - (0 + 0.1 + 0 + 0.1) / 2 = 0.9, the best.
    assert metrics.maximum_term_weighted_value([first, second], beta=0.1) == pytest.approx(0.9)
    nothing = {"scores": {"d1": 3.0}, "targets": []}
    assert metrics.maximum_term_weighted_value([first, second, nothing]) == pytest.approx(0.25)
    assert np.isnan(metrics.maximum_term_weighted_value([nothing]))
    worst = {"scores": {"d1": 1.0, "d2": 2.0}, "targets": ["d1"]}
    assert metrics.maximum_term_weighted_value([worst]) == 0  # say no to everything


def test_queries_and_documents_that_were_not_searched_count_as_in_the_official_scorer():
    first = {"scores": {"d1": 3.0, "d2": 2.0, "d3": 1.0}, "targets": ["d1", "d3"], "among": [4, 6]}
    second = {"scores": {"d1": 2.5, "d2": 0.0, "d3": 0.5}, "targets": ["d2"], "among": [4, 6]}
    # Two more queries, missed whole; three more documents, never accepted. At threshold 3 query 1 finds one of two.
    assert metrics.maximum_term_weighted_value([first, second]) == pytest.approx(0.5 / 4)
    # All accepted: query 1 has one false alarm of 6 - 2, query 2 two of 6 - 1.
    expected = (1 - 0.1 / 4 + 1 - 0.1 * 2 / 5) / 4
    assert metrics.maximum_term_weighted_value([first, second], beta=0.1) == pytest.approx(expected)
    # A scorer that is given everything says the same (to accept everything costs beta).
    unsearched = {f"d{number}": -10.0 for number in (4, 5, 6)}
    whole = [{**table, "scores": table["scores"] | unsearched, "among": None} for table in (first, second)]
    whole += [{"scores": dict.fromkeys("d1 d2 d3 d4 d5 d6".split(), -10.0), "targets": ["d5"]}] * 2
    assert metrics.maximum_term_weighted_value(whole) == pytest.approx(0.5 / 4)
    rows = [row(table["targets"], table["scores"]) | {"among": table["among"]} for table in (first, second)]
    assert metrics.score_rows("mtwv", rows) == pytest.approx(0.5 / 4)


@pytest.mark.parametrize("metric", ["eer", "mtwv", "accuracy"])
def test_intervals_hold_the_score(metric):
    rng = np.random.default_rng(0)
    if metric == "eer":
        rows = [row(bool(i % 2), float(rng.normal() + 1.5 * (i % 2))) for i in range(300)]
    elif metric == "mtwv":
        rows = []
        for _ in range(20):
            scores = {f"d{i}": float(rng.normal() + 4 * (i < 3)) for i in range(40)}
            rows.append(row(["d0", "d1", "d2"], scores))
    else:
        rows = [row("a", "a" if i % 3 else "b") for i in range(60)]
    score = metrics.score_rows(metric, rows)
    low, high = interval_of_folds(metric, rows)
    assert low < score < high and high - low < 0.5
    assert interval_of_folds(metric, rows) == (low, high)


def test_folds_count_equally_whatever_their_size():
    rows = [{**row("a", "a"), "fold": "1"}] + [{**row("a", "b"), "fold": "2"}] * 9
    assert score_folds("accuracy", rows) == pytest.approx(0.5)
    assert np.isnan(score_folds("accuracy", [])) and np.isnan(interval_of_folds("accuracy", [])[0])
