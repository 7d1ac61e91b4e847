"""Scores over folds: the plain mean of the folds' scores (ER has five; every other task has one)."""

from collections.abc import Sequence

import numpy as np

from spear.evaluate.superb.metrics import bootstrap_of_rows, score_rows


def _by_fold(rows: Sequence[dict]) -> list[list[dict]]:
    folds: dict[str, list[dict]] = {}
    for row in rows:
        folds.setdefault(row.get("fold", ""), []).append(row)
    return list(folds.values())


def score_folds(metric: str, rows: Sequence[dict]) -> float:
    """Mean over folds of the score of each; nan without rows."""
    scores = [score_rows(metric, fold) for fold in _by_fold(rows)]
    return float(np.mean(scores)) if scores else float("nan")


def interval_of_folds(metric: str, rows: Sequence[dict], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of `score_folds`, resampling inside each fold."""
    draws = [bootstrap_of_rows(metric, fold, seed) for fold in _by_fold(rows)]
    rounds = min(map(len, draws), default=0)
    if not rounds:
        return float("nan"), float("nan")
    scores = np.mean([scores[:rounds] for scores in draws], axis=0)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
