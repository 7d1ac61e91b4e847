"""mAP where not every tag of every clip is known."""

import math

import numpy as np

from spear.evaluate.metrics import mean_average_precision


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
