"""Metrics of tags, numbers, retrieval and events, against values computed by hand and against scikit-learn."""

import math

import numpy as np
import pytest

from spear.evaluate import matching, metrics
from spear.evaluate.average_precision import mean_average_precision


def tagged(reference, *hypotheses):
    return {"reference": reference, "hypotheses": list(hypotheses)}


def test_mean_average_precision_by_hand():
    # Class 0 is in clips 0 and 2, which come first and third: (1/1 + 2/3) / 2. Class 1 is in clip 1, which comes
    # second: 1/2. Class 2 is in none and does not count.
    scores = [[0.9, 0.3, 0.5], [0.8, 0.2, 0.4], [0.7, 0.1, 0.3]]
    rows = [tagged(reference, row) for reference, row in zip(([0], [1], [0]), scores)]
    assert metrics.score_rows("map", rows) == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert math.isnan(metrics.score_rows("map", [tagged([], [0.1, 0.2])]))


def test_equal_scores_are_found_together():
    # Four clips of one score, two of them right: half of what is found is right, whatever the order.
    rows = [tagged([0] if number < 2 else [], [0.5]) for number in range(4)]
    assert metrics.score_rows("map", rows) == metrics.score_rows("map", rows[::-1]) == pytest.approx(0.5)


def test_average_precision_is_that_of_scikit_learn_with_weights():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores_NC, positive_NC = rng.integers(0, 12, (60, 5)) / 12, rng.random((60, 5)) < 0.3
    weights_N = rng.integers(0, 4, 60).astype(float)
    ours = mean_average_precision(scores_NC, positive_NC)
    for weights in (None, weights_N):
        theirs = sklearn.average_precision_score(positive_NC, scores_NC, average="macro", sample_weight=weights)
        assert ours(weights) == pytest.approx(theirs)


def numbers(expected, *found):
    return [{"reference": e, "hypotheses": list(f)} for e, f in zip(expected, zip(*found))]


def test_numbers_by_hand():
    # Deviations -1, 0, 1 of both sides of the first: correlation 1, errors 1, 1, 1; the second seed is exact.
    rows = numbers([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert metrics.score_rows("pearson", rows) == pytest.approx(1.0)
    assert metrics.score_rows("mae", rows) == pytest.approx((1 + 0) / 2)
    assert metrics.score_rows("r2", rows) == pytest.approx(((1 - 3 / 2) + 1) / 2)
    # (-1 * -1 + 0 * 2 + 1 * -1) = 0
    assert metrics.score_rows("pearson", numbers([1.0, 2.0, 3.0], [0.0, 3.0, 0.0])) == pytest.approx(0.0)
    assert math.isnan(metrics.score_rows("pearson", numbers([1.0, 2.0], [5.0, 5.0])))
    assert math.isnan(metrics.score_rows("r2", numbers([1.0, 1.0], [1.0, 2.0])))


def test_numbers_are_those_of_scikit_learn_with_weights():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    expected, found, weights = rng.normal(size=30), rng.normal(size=30), rng.integers(0, 4, 30).astype(float)
    assert metrics.explained(expected, found, weights) == pytest.approx(
        sklearn.r2_score(expected, found, sample_weight=weights)
    )
    repeated = [np.repeat(values, weights.astype(int)) for values in (expected, found)]
    assert metrics.correlation(expected, found, weights) == pytest.approx(np.corrcoef(*repeated)[0, 1])
    mean = metrics.score_rows("mae", numbers(expected.tolist(), found.tolist()))
    assert mean == pytest.approx(sklearn.mean_absolute_error(expected, found))


def test_scores_without_unit_have_three_decimals_and_percent_have_one():
    assert metrics.written("pearson", 0.87654) == "0.877" and metrics.written("mae", 12.3456) == "12.346"
    assert metrics.written("map", 0.87654) == "87.7" and metrics.written("si_sdri", 9.87) == "9.9"


@pytest.mark.parametrize(
    ("neighbours", "expected", "first"),
    [
        (["a", "a"], (1.0, 1), (1.0, 1)),
        (["b", "a"], (0.25, 1), (0.0, 1)),  # precision 1/2 at the second, over R = 2
        (["a", "b", "a"], ((1 + 2 / 3) / 3, 1), (1.0, 1)),
        ([], (0.0, 0), (0.0, 0)),  # nobody else has the label: the query does not count
    ],
)
def test_retrieval_by_hand(neighbours, expected, first):
    assert metrics.neighbour_counts("map_at_r", "a", neighbours) == pytest.approx(expected)
    assert metrics.neighbour_counts("recall_at_1", "a", neighbours) == first


DOG, CAT = ["dog", 1.0, 2.0], ["cat", 3.0, 5.5]


@pytest.mark.parametrize(
    ("hypothesis", "matches"),
    [
        ([DOG, CAT], 2),
        ([["dog", 1.2, 9.0], ["cat", 2.8, 2.9]], 2),  # 200 ms early or late; ends do not matter
        ([["dog", 1.21, 2.0], ["cat", 3.0, 5.5]], 1),
        ([["cat", 1.0, 2.0]], 0),  # another class
        ([DOG, DOG, ["dog", 1.1, 2.0]], 1),  # an event is matched once
        ([], 0),
    ],
)
def test_onsets_match_by_hand(hypothesis, matches):
    assert matching.matching_onsets([DOG, CAT], hypothesis, 0.2) == matches


def test_as_many_onsets_match_as_can():
    # Nearest first would pair 1.15 with 1.1 and leave 1.0 and 1.3 alone.
    first = [["dog", 1.0, 2.0], ["dog", 1.15, 2.0]]
    assert matching.matching_onsets(first, [["dog", 1.1, 2.0], ["dog", 1.3, 2.0]], 0.2) == 2


def test_event_scores_over_a_corpus_by_hand():
    rows = [tagged([DOG, CAT], [DOG, ["cat", 4.0, 5.5], ["cow", 0.0, 0.5]]), tagged([], [])]
    # One of two events, three said: F1 = 2 * 1 / (2 + 3).
    assert metrics.score_rows("event_f1", rows) == pytest.approx(2 / 5)
    # dog is active in second 1, cat in 3, 4 and 5 (ends at 5.5): 4. Missed: cat in 3; added: cow in 0: 1 + 1.
    assert matching.segment_errors([DOG, CAT], rows[0]["hypotheses"][0]) == (2, 4)
    assert metrics.score_rows("segment_er", rows) == pytest.approx(2 / 4)


def test_a_wrong_class_in_a_segment_is_one_substitution():
    assert matching.segment_errors([["dog", 0.0, 2.0]], [["cat", 0.0, 2.0]]) == (2, 2)
    assert matching.segment_errors([], [["cat", 0.0, 2.0]]) == (2, 0)


def test_intervals_hold_the_score():
    rng = np.random.default_rng(0)
    rows = numbers(rng.normal(size=40).tolist(), rng.normal(size=40).tolist())
    for metric in ("pearson", "r2", "mae"):
        low, high = metrics.interval_of_folds(metric, rows)
        assert low < metrics.score_folds(metric, rows) < high
