"""Scores of all tasks from prediction rows, their bootstrap intervals, and what tables show of them.

A prediction row is {id, reference, hypotheses} and, where a task has folds, fold; it has one hypothesis for each head
seed, and a score is the mean over seeds and over folds. There are two kinds of metric: ratios of sums over items
(accuracy, error rates, slot F1 and CER, diarization error, the mean of what separation gained, absolute errors, ranks,
events); and those of all items together: the equal error rate (trials), the maximum term-weighted value (queries), the
mean average precision, correlation and explained variance. The bootstrap resamples items, trials and queries, inside
each fold.

Edits are counted by kaldialign. The others are our own, since the bootstrap calls them hundreds of times with weights;
scikit-learn and pyannote.metrics, which take seconds to import, are what tests compare them with.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from spear.evaluate import matching, ranking
from spear.evaluate.average_precision import mean_average_precision
from spear.evaluate.matching import Segments
from spear.evaluate.ranking import Weighted
from spear.seeds import numpy_rng

HIGHER_IS_BETTER = {"accuracy": True, "per": False, "wer": False, "cer": False}
HIGHER_IS_BETTER |= {"slot_f1": True, "slot_cer": False, "eer": False, "der": False, "mtwv": True, "si_sdri": True}
HIGHER_IS_BETTER |= {"lenient_slot_f1": True, "lenient_slot_cer": False}
HIGHER_IS_BETTER |= {"map": True, "pearson": True, "r2": True, "mae": False, "map_at_r": True, "recall_at_1": True}
HIGHER_IS_BETTER |= {"event_f1": True, "segment_er": False, "event_f1_50ms": True, "event_f1_50ms_ends": True}
HIGHER_IS_BETTER |= {"top1": True, "chroma": True, "auc": True, "d_prime": True}
"""Every metric and its direction."""

TITLES = {"accuracy": "accuracy", "per": "phone error rate", "wer": "word error rate", "cer": "character error rate"}
TITLES |= {"slot_f1": "F1 of slot types", "slot_cer": "character error rate of slot values"}
TITLES |= {f"lenient_{name}": f"{TITLES[name]}, malformed tags mended" for name in ("slot_f1", "slot_cer")}
TITLES |= {"eer": "equal error rate", "der": "diarization error rate", "mtwv": "maximum term-weighted value"}
TITLES |= {"si_sdri": "improvement of the scale-invariant signal-to-distortion ratio"}
TITLES |= {"map": "mean average precision over classes", "pearson": "correlation", "r2": "explained variance"}
TITLES |= {"mae": "mean absolute error", "map_at_r": "mean average precision at R", "recall_at_1": "recall at 1"}
TITLES |= {"top1": "accuracy", "chroma": "accuracy without octaves", "auc": "area under the ROC curve", "d_prime": "d'"}
TITLES |= {"event_f1_50ms": "F1 of event onsets within 50 ms", "event_f1_50ms_ends": "F1 of event onsets and ends"}
TITLES |= {"event_f1": "F1 of event onsets within 0.2 s", "segment_er": "error rate of segments of 1 s"}
UNITS = {"si_sdri": "dB", "pearson": "", "r2": "", "mae": "", "d_prime": ""}
"""Of the scores that are no shares; all others are shown in percent. Without unit: three decimals."""


def is_better(metric: str, first: float, second: float) -> bool:
    """Whether score `first` is strictly better than `second` under `metric`."""
    return first > second if HIGHER_IS_BETTER[metric] else first < second


def unit(metric: str) -> str:
    """The unit in which a metric is shown; its name may have words around it, such as "legacy der"."""
    return next((UNITS[word] for word in metric.split() if word in UNITS), "%")


def shown(metric: str, score: float) -> float:
    """A score in its unit."""
    return 100 * score if unit(metric) == "%" else score


def written(metric: str, score: float) -> str:
    """A score as tables write it, in its unit and without it."""
    return f"{shown(metric, score):.{1 if unit(metric) else 3}f}"


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


MISS_FALSE_ALARM_WEIGHT = 12.49
"""beta = C_fa / C_miss * (1 / P_target - 1) of QUESST 2014, with costs 1 and 100 and P_target 0.0008."""

_ROUNDS = 300

Slots = Sequence[tuple[str, str]]


def score_rows(metric: str, rows: Sequence[dict]) -> float:
    """The score of prediction rows; nan when there is nothing to count."""
    if metric not in _POOLED:
        return score(*_counts(metric, rows))
    seeds = len(rows[0]["hypotheses"]) if rows else 0
    return float(np.mean([_POOLED[metric](rows, seed)(None) for seed in range(seeds)])) if seeds else float("nan")


def bootstrap_of_rows(metric: str, rows: Sequence[dict], seed: int = 0) -> np.ndarray:
    """Scores of resampled items, trials or queries; empty when there is nothing to resample."""
    if metric not in _POOLED:
        return bootstrap_scores(*_counts(metric, rows), seed=seed)
    if len(rows) < 2:
        return np.zeros(0)
    rng = numpy_rng(seed, "bootstrap", len(rows))
    draws = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=_ROUNDS)
    pooled = [_POOLED[metric](rows, number) for number in range(len(rows[0]["hypotheses"]))]
    scores = np.asarray([np.mean([score_of(weights) for score_of in pooled]) for weights in draws])
    return scores[np.isfinite(scores)]


def row_counts(metric: str, reference, hypothesis) -> tuple[float, float]:
    """Numerator and denominator of one item under a metric that is a ratio of sums."""
    if metric.endswith(("slot_f1", "slot_cer")):
        found = hypothesis["lenient_slots" if metric.startswith("lenient") else "slots"]
        if metric.endswith("slot_cer"):
            return slot_value_edits(reference["slots"], found)
        return slot_type_f1(reference["slots"], found), 1
    if metric == "der":
        errors = diarization_errors(reference, hypothesis)
        return errors["missed"] + errors["false_alarm"] + errors["confused"], errors["speech"]
    if metric == "si_sdri":
        return hypothesis["si_sdr"] - hypothesis["mixture"], 1
    if metric == "mae":
        return abs(reference - hypothesis), 1
    if metric in ("map_at_r", "recall_at_1"):
        return neighbour_counts(metric, reference, hypothesis)
    if metric in matching.EVENTS:
        return matching.event_counts(metric, reference, hypothesis)
    if metric in ranking.CHOICES:
        return int(ranking.is_right(metric, reference, hypothesis)), 1
    if metric == "segment_er":
        return matching.segment_errors(reference, hypothesis)
    return item_counts(metric, reference, hypothesis)


def _counts(metric: str, rows: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.asarray(
        [np.mean([row_counts(metric, row["reference"], found) for found in row["hypotheses"]], axis=0) for row in rows]
    ).reshape(-1, 2)
    return counts[:, 0], counts[:, 1]


def _pooled_eer(rows: Sequence[dict], seed: int) -> Weighted:
    scores, same = [row["hypotheses"][seed] for row in rows], [row["reference"] for row in rows]
    return lambda weights: equal_error_rate(scores, same, weights)


def _pooled_mtwv(rows: Sequence[dict], seed: int) -> Weighted:
    tables = [
        {"scores": row["hypotheses"][seed], "targets": row["reference"], "among": row.get("among")} for row in rows
    ]
    return lambda weights: maximum_term_weighted_value(tables, weights)


def _scored(rows: Sequence[dict], seed: int) -> tuple[np.ndarray, np.ndarray]:
    scores_NC = np.asarray([row["hypotheses"][seed] for row in rows], dtype=np.float64)
    positive_NC = np.zeros(scores_NC.shape, dtype=bool)
    for number, row in enumerate(rows):
        positive_NC[number, row["reference"]] = True
    return scores_NC, positive_NC


def _pooled_fit(metric: str) -> Callable[[Sequence[dict], int], Weighted]:
    def prepare(rows: Sequence[dict], seed: int) -> Weighted:
        pairs = ([row[key] if key == "reference" else row[key][seed] for row in rows] for key in _SIDES)
        expected_N, found_N = (np.asarray(values, dtype=np.float64) for values in pairs)
        return lambda weights: (correlation if metric == "pearson" else explained)(expected_N, found_N, weights)

    return prepare


_SIDES = ("reference", "hypotheses")
_POOLED: dict[str, Callable[[Sequence[dict], int], Weighted]] = {"eer": _pooled_eer, "mtwv": _pooled_mtwv}
_POOLED |= {"map": lambda rows, seed: mean_average_precision(*_scored(rows, seed)), "r2": _pooled_fit("r2")}
_POOLED |= {"auc": lambda rows, seed: ranking.mean_area(*_scored(rows, seed)), "pearson": _pooled_fit("pearson")}
_POOLED |= {"d_prime": lambda rows, seed: ranking.mean_sensitivity(*_scored(rows, seed))}


# Folds --------------------------------------------------


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


# Numbers -------------------------------------------------


def correlation(expected_N: np.ndarray, found_N: np.ndarray, weights_N: np.ndarray | None = None) -> float:
    """Pearson's; nan where either side is constant."""
    weights_N = np.ones(len(expected_N)) if weights_N is None else weights_N
    sides = [values - np.average(values, weights=weights_N) for values in (expected_N, found_N)]
    deviations = np.sqrt((weights_N * np.square(sides)).sum(axis=1))
    product = float(np.prod(deviations))
    return float((weights_N * sides[0] * sides[1]).sum()) / product if product > 0 else float("nan")


def explained(expected_N: np.ndarray, found_N: np.ndarray, weights_N: np.ndarray | None = None) -> float:
    """R2: 1 - squared errors / squared deviations from the mean; below 0 where the mean would have been nearer."""
    weights_N = np.ones(len(expected_N)) if weights_N is None else weights_N
    total = float((weights_N * np.square(expected_N - np.average(expected_N, weights=weights_N))).sum())
    errors = float((weights_N * np.square(expected_N - found_N)).sum())
    return 1 - errors / total if total > 0 else float("nan")


# Retrieval -----------------------------------------------


def neighbour_counts(metric: str, label: str, neighbours: Sequence[str]) -> tuple[float, int]:
    """(value, 1) of a query; (0, 0), which does not count, when nothing has its label.

    Args:
        metric: `recall_at_1`, whether the nearest has the label, or `map_at_r`: the precision at each of the R nearest
            that has it, summed and divided by R.
        label: of the query.
        neighbours: labels of the R nearest, R being how many have the label; the nearest first.
    """
    if not neighbours:
        return 0.0, 0
    right_R = np.asarray([name == label for name in neighbours])
    if metric == "recall_at_1":
        return float(right_R[0]), 1
    precision_R = right_R.cumsum() / np.arange(1, len(right_R) + 1)
    return float((precision_R * right_R).mean()), 1


# Slot filling ------------------------------------------------------------------------------------------------------


def slot_type_f1(reference: Slots, hypothesis: Slots) -> float:
    """F1 between the sets of slot types; 1 when both are empty, 0 when one is."""
    expected, found = {name for name, _ in reference}, {name for name, _ in hypothesis}
    if not expected or not found:
        return float(expected == found)
    return 2 * len(expected & found) / (len(expected) + len(found))


def slot_value_edits(reference: Slots, hypothesis: Slots) -> tuple[int, int]:
    """(edits, reference characters): each reference value against the hypothesis value of its type nearest to it.

    A type that the hypothesis lacks counts as the empty value.
    """
    edits = characters = 0
    for name, value in reference:
        candidates = [found for other, found in hypothesis if other == name] or [""]
        edits += min(item_counts("cer", value, candidate)[0] for candidate in candidates)
        characters += len(value)
    return edits, characters


# Speaker verification ----------------------------------------------------------------------------------------------


def equal_error_rate(
    scores: Sequence[float], same_speaker: Sequence[bool], weights: Sequence[float] | None = None
) -> float:
    """Where the line through the points of the ROC meets false alarm rate = miss rate.

    Args:
        scores: higher means more likely the same speaker.
        same_speaker: whether a trial is a target trial.
        weights: how often each trial counts (the bootstrap); once by default.

    Returns:
        The rate in 0..1; nan unless there are trials of both kinds.
    """
    values, target = np.asarray(scores, dtype=np.float64), np.asarray(same_speaker, dtype=bool)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    positives, negatives = weight[target].sum(), weight[~target].sum()
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # trials of one score are accepted together
    accepted = np.concatenate([[0.0], np.cumsum(np.where(target, weight, 0.0)[order])[last] / positives])
    alarms = np.concatenate([[0.0], np.cumsum(np.where(target, 0.0, weight)[order])[last] / negatives])
    gap = alarms - (1 - accepted)  # ascends from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(alarms[after - 1] + share * (alarms[after] - alarms[after - 1]))


# Speaker diarization -----------------------------------------------------------------------------------------------


def diarization_errors(reference: Segments, hypothesis: Segments) -> dict[str, float]:
    """Seconds missed, falsely alarmed and confused, and the seconds of reference speech (overlap counts twice).

    The speakers are mapped one to one so that the error is least; no collar, overlapping speech is scored. With nothing
    but silence in the reference, `speech` is 0 and every hypothesised second a false alarm.
    """
    spans, expected, found = _activities(reference, hypothesis)
    both = expected @ (spans[:, None] * found.T)  # (reference speakers, hypothesis speakers) seconds together
    num_expected, num_found = expected.sum(axis=0), found.sum(axis=0)
    speech = float((spans * num_expected).sum())
    missed = float((spans * np.maximum(num_expected - num_found, 0)).sum())
    false_alarm = float((spans * np.maximum(num_found - num_expected, 0)).sum())
    matched = float((spans * np.minimum(num_expected, num_found)).sum())
    confused = matched - _best_assignment(both)
    return {"missed": missed, "false_alarm": false_alarm, "confused": max(confused, 0.0), "speech": speech}


def _activities(reference: Segments, hypothesis: Segments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths of the stretches between all boundaries (M,), and who speaks in them: (speakers, M), 0 or 1, twice."""
    times = np.unique([time for _, start, end in [*reference, *hypothesis] for time in (start, end)])
    spans = np.diff(times) if len(times) else np.zeros(0)
    sides = []
    for segments in (reference, hypothesis):
        names = sorted({name for name, _, _ in segments})
        active = np.zeros((len(names), len(spans)))
        for name, start, end in segments:
            active[names.index(name), np.searchsorted(times, start) : np.searchsorted(times, end)] = 1
        sides.append(active)
    return spans, *sides


def _best_assignment(gain: np.ndarray) -> float:
    """The largest sum of entries with at most one in each row and column."""
    if min(gain.shape) == 0:
        return 0.0
    if gain.shape[0] > gain.shape[1]:
        gain = gain.T
    rows = range(gain.shape[0])
    if gain.shape[1] <= 7:
        return float(
            max(gain[rows, columns].sum() for columns in itertools.permutations(range(gain.shape[1]), len(rows)))
        )
    from spear.errors import require

    optimize = require("scipy.optimize", "scipy", "diarization of more than seven speakers")
    return float(gain[optimize.linear_sum_assignment(gain, maximize=True)].sum())


# Query by example --------------------------------------------------------------------------------------------------


def maximum_term_weighted_value(
    tables: Sequence[dict], weights: Sequence[float] | None = None, beta: float = MISS_FALSE_ALARM_WEIGHT
) -> float:
    """The best over thresholds of 1 - mean over queries of (miss rate + beta * false-alarm rate); at least 0.

    The official scorer of QUESST 2014 takes every query and document of the evaluation. A pair that is in no list of
    results gets a score below all thresholds: where only a part was searched, as SUPERB searches English, the other
    queries are missed whole, and the other documents are right to be silent.

    Args:
        tables: for each query {scores: {document: score}, targets: [documents that hold it]}, and where only a part was
            searched `among`, [queries, documents] of the whole. Queries without a target document, or with nothing
            else, do not count, as in the official scorer; they are not among the queries of `among` either.
        weights: how often each query counts (the bootstrap); once by default.
    """
    values, gains, total, searched, whole = [], [], 0.0, 0, 0
    for number, table in enumerate(tables):
        targets = set(table["targets"]) & set(table["scores"])
        queries, documents = table.get("among") or (0, len(table["scores"]))
        others = max(documents, len(table["scores"])) - len(targets)
        weight = 1.0 if weights is None else float(weights[number])
        if not targets or not others:
            continue
        searched, whole = searched + 1, max(whole, queries)
        if not weight:
            continue
        total += weight
        for document, value in table["scores"].items():
            values.append(value)
            gains.append(weight / len(targets) if document in targets else -weight * beta / others)
    if not total:
        return float("nan")
    order = np.argsort(-np.asarray(values), kind="stable")
    sorted_values = np.asarray(values)[order]
    last = np.append(np.diff(sorted_values) != 0, True)
    missed = max(1.0, whole / searched)  # a query that was not searched counts with no gain
    return max(0.0, float(np.cumsum(np.asarray(gains)[order])[last].max()) / (total * missed))
