"""How well scores rank items by class: the area under the ROC curve, d', and the class with the highest score."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

Weighted = Callable[[np.ndarray | None], float]
"""The score of rows that count so many times each, (N,); once by default."""


def lasts_of_ties(sorted_NC: np.ndarray) -> np.ndarray:
    """For each place of sorted columns the last one of the same score."""
    lasts_NC = np.where(
        np.diff(sorted_NC, axis=0, append=np.nan) != 0, np.arange(len(sorted_NC))[:, None], len(sorted_NC)
    )
    return np.minimum.accumulate(lasts_NC[::-1], axis=0)[::-1]


def areas(scores_NC: np.ndarray, positive_NC: np.ndarray) -> Callable[[np.ndarray | None], np.ndarray]:
    """Prepares the area under the ROC curve of every class: how often a positive item is above a negative one.

    Items of one score count half. A class without positives or without negatives has none: nan.

    Args:
        scores_NC: of items and classes, higher where a class is more likely.
        positive_NC: where it is there.

    Returns:
        The areas (C,) by weights (N,) of the items.
    """
    order_NC = np.argsort(scores_NC, axis=0, kind="stable")
    sorted_NC, hits_NC = (np.take_along_axis(values, order_NC, axis=0) for values in (scores_NC, positive_NC))
    lasts_NC = lasts_of_ties(sorted_NC)
    firsts_NC = len(scores_NC) - 1 - lasts_of_ties(sorted_NC[::-1])[::-1]

    def areas_of(weights_N: np.ndarray | None) -> np.ndarray:
        weights_NC = np.ones(order_NC.shape) if weights_N is None else np.asarray(weights_N, np.float64)[order_NC]
        negative_NC = weights_NC * ~hits_NC
        below_NC = np.concatenate([np.zeros((1, order_NC.shape[1])), negative_NC.cumsum(axis=0)])
        before_NC = np.take_along_axis(below_NC, firsts_NC, axis=0)
        upto_NC = np.take_along_axis(below_NC, lasts_NC + 1, axis=0)
        found_NC = weights_NC * hits_NC
        pairs_C = found_NC.sum(axis=0) * negative_NC.sum(axis=0)
        won_C = (found_NC * (before_NC + upto_NC) / 2).sum(axis=0)
        return np.divide(won_C, pairs_C, out=np.full(len(pairs_C), np.nan), where=pairs_C > 0)

    return areas_of


def mean_area(scores_NC: np.ndarray, positive_NC: np.ndarray) -> Weighted:
    """The mean of `areas`; nan when one of them is, as HEAR has it."""
    areas_of = areas(scores_NC, positive_NC)
    return lambda weights_N: float(np.mean(areas_of(weights_N)))


def mean_sensitivity(scores_NC: np.ndarray, positive_NC: np.ndarray) -> Weighted:
    """d': the mean over classes of sqrt 2 times the standard normal quantile of the area; nan as in `mean_area`.

    Infinite when a class is ranked without a fault.
    """
    areas_of = areas(scores_NC, positive_NC)
    return lambda weights_N: float(np.mean([_sensitivity(area) for area in areas_of(weights_N)]))


def _sensitivity(area: float) -> float:
    if not 0 < area < 1:
        return math.nan if math.isnan(area) else math.copysign(math.inf, area - 0.5)
    return math.sqrt(2) * NormalDist().inv_cdf(area)


def highest(scores: Sequence[float]) -> int:
    """The class with the highest score; the first of several."""
    return max(range(len(scores)), key=scores.__getitem__)


CHOICES = ("top1", "chroma")
"""Metrics of the class with the highest score; `chroma` counts classes that are octaves apart as one."""


def is_right(metric: str, reference: Sequence[int], scores: Sequence[float]) -> bool:
    """Whether the class with the highest score is the one of the reference."""
    period = 12 if metric == "chroma" else len(scores)
    return highest(scores) % period == reference[0] % period
