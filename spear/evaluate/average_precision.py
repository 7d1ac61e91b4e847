"""Mean average precision over classes, also where not every tag of every clip is known."""

import math

import numpy as np

from spear.evaluate.ranking import Weighted, lasts_of_ties


def mean_average_precision(scores_NC: np.ndarray, positive_NC: np.ndarray) -> Weighted:
    """Prepares the mean over classes of the average precision; classes without any positive item do not count.

    Items of one score are found together, as scikit-learn has it.

    Args:
        scores_NC: of items and classes, higher where a class is more likely.
        positive_NC: where it is there.

    Returns:
        The score by weights (N,) of the items; nan when no class counts.
    """
    order_NC = np.argsort(-scores_NC, axis=0, kind="stable")
    sorted_NC, hits_NC = (np.take_along_axis(values, order_NC, axis=0) for values in (scores_NC, positive_NC))
    ends_NC = lasts_of_ties(sorted_NC)

    def score_of(weights_N: np.ndarray | None) -> float:
        weights_NC = np.ones(order_NC.shape) if weights_N is None else np.asarray(weights_N, np.float64)[order_NC]
        found_NC = weights_NC * hits_NC
        precision_NC = found_NC.cumsum(axis=0) / np.maximum(weights_NC.cumsum(axis=0), 1e-12)
        totals_C = found_NC.sum(axis=0)
        sums_C = (found_NC * np.take_along_axis(precision_NC, ends_NC, axis=0)).sum(axis=0)
        return float(np.mean(sums_C[totals_C > 0] / totals_C[totals_C > 0])) if totals_C.any() else float("nan")

    return score_of


def macro_average_precision(scores_NC: np.ndarray, targets_NC: np.ndarray) -> float | None:
    """The mean of the average precisions of tags; tags that no clip has do not count.

    Args:
        scores_NC: N clips, C tags; higher means more likely.
        targets_NC: 1 where a clip has a tag, 0 where not, negative where nobody knows.

    Returns:
        in 0..1; None when no tag counts.
    """
    known_NC, positive_NC = targets_NC >= 0, targets_NC > 0.5
    if known_NC.all():
        found = [mean_average_precision(scores_NC, positive_NC)(None)]
    else:
        columns = zip(scores_NC.T, positive_NC.T, known_NC.T)
        found = [mean_average_precision(s[k, None], p[k, None])(None) for s, p, k in columns if k.any()]
    found = [value for value in found if not math.isnan(value)]
    return float(np.mean(found)) if found else None
