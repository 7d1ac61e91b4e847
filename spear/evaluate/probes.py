"""Training of probing heads from cached features: the whole learning-rate grid in one pass, selection without test.

The task kinds differ in how a batch is made, in the loss, and in how an output is read; the loop is one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.evaluate import metrics
from spear.evaluate.heads import Heads, ProbeConfig, standardise_stats
from spear.evaluate.units import BLANK, collapse
from spear.seeds import numpy_rng

Hypotheses = list[list[Any]]


class Problem(Protocol):
    """What the loop needs to know about a task's data. `split` is train, dev or test."""

    metric: str
    shape: tuple[int, int, int]  # layers, dim, outputs

    def train_batches(self, epoch: int, batch_size: int) -> Iterator[Any]:
        """Batches of one pass over the training items, as a function of the epoch."""

    def loss(self, heads: Heads, batch: Any) -> Tensor:
        """Mean loss of each head, (H,)."""

    def evaluate(self, heads: Heads, split: str) -> tuple[Hypotheses, Tensor]:
        """Hypotheses of every head for every item of the split, in its order, and the mean loss (H,)."""

    def references(self, split: str) -> list[Any]:
        """References of the split."""


@dataclass
class ProbeResult:
    """What a grid gave.

    Attributes:
        heads: for each head its learning_rate, seed, dev_score, test_score,
            best_step, layer_weights, skipped_steps, curve.
        learning_rate: the selected one.
        score: test score, mean over seeds.
        dev_score: dev score, mean over seeds; over all folds where there are any, as in `heads`.
        dev_standard_error: of the best dev score, by bootstrap over its items.
        interval: 95 % bootstrap interval of the score over test items.
        hypotheses: for each test item one hypothesis for each seed, of the selected learning rate.
    """

    heads: list[dict]
    learning_rate: float
    score: float
    dev_score: float
    dev_standard_error: float
    interval: tuple[float, float]
    hypotheses: Hypotheses
    layer_weights: list[float]
    steps: int


def train_probes(problem: Problem, config: ProbeConfig, seed: int = 0, folds: Sequence[Problem] = ()) -> ProbeResult:
    """Trains all heads of the grid side by side and selects the learning rate on dev.

    Args:
        folds: divisions of train and dev (`fold_places`) whose dev parts together take the place of dev in the
            selection; the heads that are scored are trained on `problem` all the same.
    """
    heads, curves, best_step, steps = _train(problem, config)
    parts = [_on_dev(fold, _train(fold, config)[0]) for fold in folds] or [_on_dev(problem, heads)]
    dev_counts = [np.concatenate(of_head) for of_head in zip(*(counts for counts, _ in parts))]
    dev_loss_H = torch.stack([loss_H for _, loss_H in parts]).mean(dim=0)
    with torch.no_grad():
        test, _ = problem.evaluate(heads, "test")
    test_counts = _counts(problem, test, "test")
    dev_scores, test_scores = ([metrics.score(*c.T) for c in counts] for counts in (dev_counts, test_counts))
    weights, skipped = heads.layer_weights(), heads.optimizer.skipped_H.tolist()
    rows = [
        {
            "learning_rate": rate,
            "seed": head_seed,
            "dev_score": dev_scores[index],
            "dev_loss": float(dev_loss_H[index]),
            "test_score": test_scores[index],
            "best_step": best_step[index],
            "layer_weights": weights[index],
            "skipped_steps": skipped[index],
            "curve": curves[index],
        }
        for index, (rate, head_seed) in enumerate(config.heads)
    ]
    chosen, error = select_learning_rate(rows, problem.metric, dev_counts, config.default_rate)
    picked = [index for index, row in enumerate(rows) if row["learning_rate"] == chosen]
    hypotheses = [[test[index][item] for index in picked] for item in range(len(test[0]))]
    predictions = [{"reference": r, "hypotheses": h} for r, h in zip(problem.references("test"), hypotheses)]
    counts = metrics.prediction_counts(problem.metric, predictions)
    return ProbeResult(
        heads=rows,
        learning_rate=chosen,
        score=metrics.score(*counts),
        dev_standard_error=error,
        dev_score=float(np.mean([dev_scores[index] for index in picked])),
        interval=metrics.bootstrap_interval(*counts, seed=seed),
        hypotheses=hypotheses,
        layer_weights=np.mean([weights[index] for index in picked], axis=0).round(5).tolist(),
        steps=steps,
    )


def _train(problem: Problem, config: ProbeConfig) -> tuple[Heads, list[list[dict]], list[int], int]:
    heads = Heads(*problem.shape, config)
    curves, best_step, steps = _fit(problem, heads, config)
    if config.early_stopping:
        heads.restore_best()
    return heads, curves, best_step, steps


@torch.no_grad()
def _on_dev(problem: Problem, heads: Heads) -> tuple[list[np.ndarray], Tensor]:
    """Counts of every head, and its loss (H,)."""
    hypotheses, loss_H = problem.evaluate(heads, "dev")
    return _counts(problem, hypotheses, "dev"), loss_H


def fold_places(labels: Sequence[Any], num_folds: int) -> list[np.ndarray]:
    """Places of the items that each fold holds out; every item is in one, every label in as many as it can.

    Args:
        labels: of the items, in their order.
        num_folds: at most as many as there are items.
    """
    by_label: dict[Any, list[int]] = {}
    for place in numpy_rng(0, "folds", len(labels)).permutation(len(labels)).tolist():
        by_label.setdefault(labels[place], []).append(place)
    dealt = [place for label in sorted(by_label) for place in by_label[label]]
    return [np.sort(dealt[start::num_folds]) for start in range(min(num_folds, len(dealt)))]


def select_learning_rate(
    rows: Sequence[dict], metric: str, dev_counts: Sequence[np.ndarray], default: float
) -> tuple[float, float]:
    """The learning rate nearest (in ratio) to the declared default among those that dev cannot tell from the best.

    That is the one-standard-error rule: a small dev set cannot rank five rates, and its maximum is mostly luck; a large
    one has a small error and decides by itself. Test scores play no part.

    Args:
        rows: one for each head, with learning_rate, dev_score, dev_loss.
        dev_counts: for each head the (items, 2) numerators and denominators on dev.
        default: the declared rate.

    Returns:
        The rate, and the standard error of the best dev score (bootstrap over items).
    """
    sign = -1.0 if metrics.HIGHER_IS_BETTER[metric] else 1.0
    places = {rate: [i for i, row in enumerate(rows) if row["learning_rate"] == rate] for rate in _rates(rows)}
    scores = {rate: sign * float(np.mean([rows[i]["dev_score"] for i in mine])) for rate, mine in places.items()}
    losses = {rate: float(np.mean([rows[i]["dev_loss"] for i in mine])) for rate, mine in places.items()}
    best = min(scores, key=scores.get)
    low, high = metrics.bootstrap_interval(*np.mean([dev_counts[i] for i in places[best]], axis=0).T)
    error = (high - low) / (2 * 1.96)
    close = [rate for rate in scores if scores[rate] <= scores[best] + error + 1e-9 and np.isfinite(losses[rate])]
    distances = {rate: (round(abs(np.log(rate / default)), 6), losses[rate]) for rate in close or [best]}
    return min(distances, key=distances.get), error


def _rates(rows: Sequence[dict]) -> list[float]:
    return sorted({row["learning_rate"] for row in rows})


def _counts(problem: Problem, hypotheses: Hypotheses, split: str) -> list[np.ndarray]:
    """For each head the (items, 2) numerators and denominators."""
    pairs = [zip(problem.references(split), found) for found in hypotheses]
    return [np.asarray([metrics.item_counts(problem.metric, r, h) for r, h in rows], dtype=float) for rows in pairs]


def _fit(problem: Problem, heads: Heads, config: ProbeConfig) -> tuple[list[list[dict]], list[int], int]:
    """The loop: returns each head's dev curve and best step, and the number of steps taken."""
    count = len(config.heads)
    sign = 1.0 if metrics.HIGHER_IS_BETTER[problem.metric] else -1.0
    best: list[tuple[float, float]] = [(-float("inf"), -float("inf"))] * count
    best_step, curves = [0] * count, [[] for _ in range(count)]
    running_H, waited, step = torch.zeros(count), 0, 0
    batches = _endless(lambda epoch: problem.train_batches(epoch, config.batch_size))
    while step < config.max_steps and not (config.early_stopping and waited >= config.patience):
        loss_H = problem.loss(heads, next(batches))
        loss_H.sum().backward()
        heads.optimizer.step(scale=1 - step / config.max_steps)
        running_H += loss_H.detach()
        step += 1
        if step % config.eval_every and step < config.max_steps:
            continue
        with torch.no_grad():
            hypotheses, dev_loss_H = problem.evaluate(heads, "dev")
        improved_H = torch.zeros(count, dtype=torch.bool)
        interval = (step - 1) % config.eval_every + 1
        for index, score in enumerate([metrics.score(*c.T) for c in _counts(problem, hypotheses, "dev")]):
            dev_loss = float(dev_loss_H[index])
            rank = (sign * score, -dev_loss if np.isfinite(dev_loss) else -float("inf"))
            if rank > best[index] or not curves[index]:
                best[index], best_step[index], improved_H[index] = rank, step, True
            train_loss = float(running_H[index]) / interval
            point = {"step": step, "train_loss": train_loss, "dev_loss": dev_loss, "dev_score": score}
            curves[index].append({key: round(value, 5) for key, value in point.items()})
        heads.keep_best(improved_H)
        waited = 0 if improved_H.any() else waited + 1
        running_H.zero_()
    return curves, best_step, step


def _endless(batches: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    epoch = 0
    while True:
        yield from batches(epoch)
        epoch += 1


class UtteranceProblem:
    """Classification of utterances, one or several slots; an item is right when all slots are.

    Args:
        features: split -> (layers, items, D) time means.
        targets: split -> labels, or tuples of labels. Labels that training lacks count as errors.
    """

    def __init__(self, features: dict[str, Tensor], targets: dict[str, list[Any]], standardise: bool = True):
        self.metric = "accuracy"
        self._targets = targets
        rows = {name: [(t,) if isinstance(t, str) else tuple(t) for t in targets[name]] for name in targets}
        self._single = isinstance(targets["train"][0], str)
        self.classes = [sorted({row[slot] for row in rows["train"]}) for slot in range(len(rows["train"][0]))]
        number = [{label: index for index, label in enumerate(names)} for names in self.classes]
        self._labels = {
            name: torch.tensor([[number[slot].get(label, -1) for slot, label in enumerate(row)] for row in rows[name]])
            for name in rows
        }
        self._features = _standardised(features) if standardise else features
        layers, _, dim = features["train"].shape
        self._sizes = [len(names) for names in self.classes]
        self.shape = (layers, dim, sum(self._sizes))

    def train_batches(self, epoch: int, batch_size: int) -> Iterator[Tensor]:
        """Shuffled item numbers."""
        order = numpy_rng(0, "probe-batches", epoch).permutation(len(self._labels["train"]))
        for start in range(0, len(order), batch_size):
            yield torch.from_numpy(order[start : start + batch_size])

    def loss(self, heads: Heads, batch: Tensor) -> Tensor:
        """Sum over slots of the mean cross-entropy, (H,)."""
        return self._loss(heads.logits(self._features["train"][:, batch]), self._labels["train"][batch])

    def _loss(self, logits_HNC: Tensor, labels_NS: Tensor) -> Tensor:
        total_H = torch.zeros(logits_HNC.shape[0])
        for slot, part_HNC in enumerate(logits_HNC.split(self._sizes, dim=-1)):
            target_HN = labels_NS[:, slot].expand(len(part_HNC), -1)
            losses_HN = functional.cross_entropy(part_HNC.transpose(1, 2), target_HN, ignore_index=-1, reduction="none")
            total_H = total_H + losses_HN.mean(dim=1)
        return total_H

    def evaluate(self, heads: Heads, split: str) -> tuple[Hypotheses, Tensor]:
        """Labels (or tuples of them) with the highest logits."""
        logits_HNC = heads.logits(self._features[split])
        picks_HNS = torch.stack(
            [part.argmax(dim=-1) for part in logits_HNC.split(self._sizes, dim=-1)], dim=-1
        ).tolist()
        names = [[tuple(c[i] for c, i in zip(self.classes, row)) for row in rows] for rows in picks_HNS]
        found = [[row[0] for row in rows] for rows in names] if self._single else names
        return found, self._loss(logits_HNC, self._labels[split])

    def references(self, split: str) -> list[Any]:
        """The targets as given."""
        return self._targets[split]


def _standardised(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """All splits scaled by the statistics of train."""
    train = features["train"].double()
    mean_LD, deviation_LD = standardise_stats(train.sum(dim=1), train.square().sum(dim=1), train.shape[1])
    return {name: (value - mean_LD[:, None]) / deviation_LD[:, None] for name, value in features.items()}


class CtcProblem:
    """Sequences by CTC over frames, decoded greedily.

    Args:
        frames: key -> (layers, T, D) float16, read when needed (the cache's `frames`).
        lengths: key -> T.
        keys: split -> keys of its items, in order.
        targets: split -> references (texts or tuples of phones), in the same order.
        units: from `units.make_units`.
    """

    def __init__(
        self,
        frames: Callable[[str], np.ndarray],
        lengths: Callable[[str], int],
        keys: dict[str, list[str]],
        targets: dict[str, list[Any]],
        units: Any,
        metric: str,
        standardise: bool = True,
    ):
        self.metric, self.units, self._frames, self._keys, self._targets = metric, units, frames, keys, targets
        self._lengths = {name: np.asarray([lengths(key) for key in keys[name]]) for name in keys}
        self._numbers = {name: [units.encode(target) for target in targets[name]] for name in targets}
        layers, _, dim = frames(keys["train"][0]).shape
        self.shape = (layers, dim, units.size)
        self._mean_LD, self._deviation_LD = self._statistics() if standardise else (None, None)

    @property
    def infeasible(self) -> int:
        """Training items with more units than frames: their loss is infinite and set to zero."""
        excess = (
            len(numbers) + sum(a == b for a, b in zip(numbers, numbers[1:])) > frames
            for numbers, frames in zip(self._numbers["train"], self._lengths["train"])
        )
        return int(sum(excess))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Over all frames of at most 300 training items, evenly spread."""
        keys = self._keys["train"][:: max(1, len(self._keys["train"]) // 300)]
        sums = squares = torch.zeros(1)
        count = 0
        for key in keys:
            values_LTD = torch.from_numpy(self._frames(key)).float()
            sums = sums + values_LTD.sum(dim=1, dtype=torch.float64)
            squares = squares + values_LTD.square().sum(dim=1, dtype=torch.float64)
            count += values_LTD.shape[1]
        return standardise_stats(sums, squares, count)

    def _batch(self, split: str, places: np.ndarray) -> Tensor:
        """Features of some items, (layers, items * T, D) with T the longest, zeros behind the shorter ones."""
        longest = int(self._lengths[split][places].max())
        layers, dim, _ = self.shape
        batch_LBTD = torch.zeros(layers, len(places), longest, dim)
        for row, place in enumerate(places):
            values_LTD = torch.from_numpy(self._frames(self._keys[split][place]))
            target_LTD = batch_LBTD[:, row, : values_LTD.shape[1]]
            target_LTD.copy_(values_LTD)
            if self._mean_LD is not None:
                target_LTD.sub_(self._mean_LD[:, None]).div_(self._deviation_LD[:, None])
        return batch_LBTD.flatten(1, 2)

    def train_batches(self, epoch: int, batch_size: int) -> Iterator[np.ndarray]:
        """Shuffled batches of similar length: sorted inside windows of eight batches."""
        rng = numpy_rng(0, "probe-batches", epoch)
        order = rng.permutation(len(self._keys["train"]))
        window = 8 * batch_size
        batches = []
        for start in range(0, len(order), window):
            chunk = order[start : start + window]
            chunk = chunk[np.argsort(self._lengths["train"][chunk], kind="stable")]
            batches.extend(chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size))
        for index in rng.permutation(len(batches)):
            yield batches[index]

    def loss(self, heads: Heads, batch: np.ndarray) -> Tensor:
        """Mean over items of the CTC loss for each target unit, (H,)."""
        return self._losses(heads, "train", batch)[0].mean(dim=1)

    def _losses(self, heads: Heads, split: str, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """(losses (H, B), log-probabilities (H, B, T, V))."""
        items = len(places)
        logits_HNV = heads.logits(self._batch(split, places))
        count = logits_HNV.shape[0]
        log_probs_HBTV = logits_HNV.log_softmax(dim=-1).view(count, items, -1, self.shape[2])
        numbers = [self._numbers[split][place] for place in places]
        targets_BU = torch.full((items, max(1, max(map(len, numbers)))), 1)
        for row, values in enumerate(numbers):
            targets_BU[row, : len(values)] = torch.tensor(values, dtype=torch.int64)
        target_lens_B = torch.tensor([len(values) for values in numbers])
        losses = functional.ctc_loss(
            log_probs_HBTV.flatten(0, 1).transpose(0, 1),
            targets_BU.repeat(count, 1),
            torch.from_numpy(self._lengths[split][places]).repeat(count),
            target_lens_B.repeat(count),
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return losses.view(count, items) / target_lens_B.clamp(min=1), log_probs_HBTV

    def evaluate(self, heads: Heads, split: str) -> tuple[Hypotheses, Tensor]:
        """Greedy hypotheses in the order of the items, and mean losses."""
        count, total = len(heads.config.heads), len(self._keys[split])
        found: Hypotheses = [[None] * total for _ in range(count)]
        loss_H = torch.zeros(count)
        order = np.argsort(self._lengths[split], kind="stable")
        for start in range(0, total, 32):
            places = order[start : start + 32]
            losses_HB, log_probs_HBTV = self._losses(heads, split, places)
            loss_H += losses_HB.sum(dim=1)
            picks_HBT = log_probs_HBTV.argmax(dim=-1).numpy()
            for row, place in enumerate(places):
                frames = int(self._lengths[split][place])
                for head in range(count):
                    found[head][place] = self.units.decode(collapse(picks_HBT[head, row, :frames].tolist()))
        return found, loss_H / total

    def references(self, split: str) -> list[Any]:
        """The targets as given."""
        return self._targets[split]
