"""Average precision: how well a score brings the clips that have a tag before those that lack it."""

import numpy as np


def average_precision(scores_N: np.ndarray, relevant_N: np.ndarray) -> float | None:
    """The mean of the precision at each clip that has the tag, in the order of the scores.

    Clips of equal scores come together, whatever their order in the arrays.

    Args:
        scores_N: higher means more likely.
        relevant_N: whether a clip has the tag, bool.

    Returns:
        in 0..1; None unless there are clips of both kinds.
    """
    if relevant_N.all() or not relevant_N.any():
        return None
    order = np.argsort(-scores_N, kind="stable")
    last = np.append(np.diff(scores_N[order]) != 0, True)
    hits = np.cumsum(relevant_N[order])[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((precision * np.diff(hits, prepend=0)).sum() / hits[-1])


def macro_average_precision(scores_NC: np.ndarray, targets_NC: np.ndarray) -> float | None:
    """mAP: the mean of the average precisions of tags.

    Args:
        scores_NC: N clips, C tags.
        targets_NC: 1 where a clip has a tag, 0 where not, negative where nobody knows.

    Returns:
        in 0..1; None when no tag has clips with and without it.
    """
    found = []
    for scores_N, targets_N in zip(scores_NC.T, targets_NC.T):
        known = targets_N >= 0
        value = average_precision(scores_N[known], targets_N[known] > 0.5)
        found += [] if value is None else [value]
    return float(np.mean(found)) if found else None
