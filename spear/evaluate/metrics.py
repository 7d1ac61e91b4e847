"""Scores of the decode tasks, their confidence intervals, and their recomputation from prediction files.

Every metric is a ratio of sums over items: correct items over items (accuracy), or edits over reference units of the
whole corpus (PER, WER, CER; benchmarks A.2: total over total, not the mean of utterances). An item therefore has a
numerator and a denominator, and the bootstrap over items needs nothing else.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.errors import DataError
from spear.seeds import numpy_rng

HIGHER_IS_BETTER = {"accuracy": True, "per": False, "wer": False, "cer": False}
"""The metrics of the decode tasks and their direction; those of SUPERB follow below."""

DECODE_METRICS = tuple(HIGHER_IS_BETTER)
HIGHER_IS_BETTER |= {"slot_f1": True, "slot_cer": False, "eer": False, "der": False, "mtwv": True, "si_sdri": True}

TITLES = {"accuracy": "accuracy", "per": "phone error rate", "wer": "word error rate", "cer": "character error rate"}
TITLES |= {"slot_f1": "F1 of slot types", "slot_cer": "character error rate of slot values"}
TITLES |= {"eer": "equal error rate", "der": "diarization error rate", "mtwv": "maximum term-weighted value"}
TITLES |= {"si_sdri": "improvement of the scale-invariant signal-to-distortion ratio"}
UNITS = {"si_sdri": "dB"}
"""Of the scores that are no shares; all others are shown in percent."""


def is_better(metric: str, first: float, second: float) -> bool:
    """Whether score `first` is strictly better than `second` under `metric`."""
    return first > second if HIGHER_IS_BETTER[metric] else first < second


def unit(metric: str) -> str:
    """The unit in which a metric is shown; its name may have words around it, such as "legacy der"."""
    return next((UNITS[word] for word in metric.split() if word in UNITS), "%")


def shown(metric: str, score: float) -> float:
    """A score in its unit."""
    return 100 * score if unit(metric) == "%" else score


def units(metric: str, text: str | Sequence[str]) -> list[str]:
    """What a reference or hypothesis is counted in: words, phones, characters, or the whole label."""
    if metric == "accuracy":
        return [text] if isinstance(text, str) else list(text)
    if metric == "cer":
        return list(text)
    return text.split() if isinstance(text, str) else list(text)


def item_counts(metric: str, reference: str | Sequence[str], hypothesis: str | Sequence[str]) -> tuple[int, int]:
    """(numerator, denominator) of one item.

    Accuracy counts an item as right when all its slots are. Error rates count the least number of edits; an empty
    reference adds insertions to the numerator and nothing to the denominator.
    """
    expected, found = units(metric, reference), units(metric, hypothesis)
    if metric == "accuracy":
        return int(expected == found), 1
    if not expected or not found:
        return max(len(expected), len(found)), len(expected)
    import kaldialign

    return int(kaldialign.edit_distance(expected, found)["total"]), len(expected)


def score(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Sum over sum; nan when nothing was counted."""
    total = float(np.sum(denominators))
    return float(np.sum(numerators)) / total if total else float("nan")


def bootstrap_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int = 0, rounds: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap over items: the interval that holds `level` of the scores of resampled item lists.

    Args:
        numerators: one per item; may be averages over seeds.
        denominators: one per item.
    """
    scores_R = bootstrap_scores(numerators, denominators, seed, rounds)
    if not len(scores_R):
        return float("nan"), float("nan")
    low, high = np.quantile(scores_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_scores(
    numerators: Sequence[float], denominators: Sequence[float], seed: int = 0, rounds: int = 1000
) -> np.ndarray:
    """The scores of resampled item lists (at most `rounds` of them: those with nothing to count are left out)."""
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if len(top) == 0 or bottom.sum() == 0:
        return np.zeros(0)
    rng = numpy_rng(seed, "bootstrap", len(top))
    counts_RN = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=rounds)
    sums_R = counts_RN @ bottom
    return (counts_RN @ top)[sums_R > 0] / sums_R[sums_R > 0]


def prediction_counts(metric: str, predictions: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Numerators (averaged over seeds) and denominators of prediction rows {id, reference, hypotheses}."""
    top, bottom = [], []
    for row in predictions:
        counts = [item_counts(metric, row["reference"], hypothesis) for hypothesis in row["hypotheses"]]
        top.append(float(np.mean([c[0] for c in counts])))
        bottom.append(counts[0][1])
    return np.asarray(top), np.asarray(bottom)


def rescore(run_path: str | Path) -> float:
    """The test score of a run file, recomputed from its prediction file alone.

    Raises:
        DataError: a file is missing or damaged, or the prediction file does not hold the items that the run counted.
    """
    run_path = Path(run_path)
    run = fs.read_json(run_path)
    try:
        rows = fs.read_jsonl(run_path.parent / run["predictions"])
        if len(rows) != run["num_items"]["test"]:
            raise DataError(
                f"{len(rows)} predictions beside {run_path}",
                f"{run['num_items']['test']} of them, as the run file counts",
                "run the decode command again",
            )
        return score(*prediction_counts(run["metric"], rows))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{run_path} and its predictions cannot be scored ({type(error).__name__}: {error})",
            "both as the command leaves them",
            "run the command again",
        ) from error
