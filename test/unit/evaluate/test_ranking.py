"""Areas and d' are scikit-learn's, with its rules for classes that lack one side."""

import math

import numpy as np
import pytest

from spear.evaluate.ranking import areas, highest, mean_area, mean_sensitivity


@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_scikit_learn_with_ties_and_weights(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    scores_NC = rng.normal(size=(40, 5)).round(seed % 3)
    positive_NC = rng.random((40, 5)) < 0.4
    weights_N = rng.integers(0, 4, size=40)
    for weights in (None, weights_N):
        expected = metrics.roc_auc_score(positive_NC, scores_NC, average=None, sample_weight=weights)
        np.testing.assert_allclose(areas(scores_NC, positive_NC)(weights), expected, atol=1e-12)
        assert mean_area(scores_NC, positive_NC)(weights) == pytest.approx(np.mean(expected))


def test_sensitivity_is_the_mean_over_classes_of_the_normal_quantile():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    scores_NC, positive_NC = rng.normal(size=(30, 4)), rng.random((30, 4)) < 0.5
    expected = np.mean(np.sqrt(2) * stats.norm.ppf(areas(scores_NC, positive_NC)(None)))
    assert mean_sensitivity(scores_NC, positive_NC)(None) == pytest.approx(expected)


def test_a_class_without_positives_or_negatives_leaves_no_number():
    scores_NC = np.asarray([[0.1, 0.2], [0.3, 0.4], [0.2, 0.1]])
    for column in ([True] * 3, [False] * 3):
        positive_NC = np.asarray([[True, False, True], column]).T
        found = areas(scores_NC, positive_NC)(None)
        assert found[0] == 0.0 and math.isnan(found[1])
        assert math.isnan(mean_area(scores_NC, positive_NC)(None))
        assert math.isnan(mean_sensitivity(scores_NC, positive_NC)(None))


def test_faultless_ranking_is_infinitely_sensitive():
    scores_NC, positive_NC = np.asarray([[0.0], [1.0]]), np.asarray([[False], [True]])
    assert mean_sensitivity(scores_NC, positive_NC)(None) == math.inf
    assert mean_sensitivity(-scores_NC, positive_NC)(None) == -math.inf


def test_the_first_of_equal_scores_is_the_highest():
    assert highest([0.1, 0.5, 0.5]) == 1
