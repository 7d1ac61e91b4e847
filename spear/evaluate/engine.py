"""The engine: trains the grid of one task on one upstream, selects on dev, and scores.

A candidate is a point of the grid, as a rule a learning rate, with a variant (see `problems`). Its dev score is the
mean over folds and head seeds. The selection looks at dev alone; where the published protocol selects on test (ASV, SD)
or on a flawed dev set (KS, ER) the number of that rule is reported beside it, see `legacy`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spear.errors import DataError
from spear.evaluate.banks import Bank, arithmetic
from spear.evaluate.metrics import HIGHER_IS_BETTER, interval_of_folds, score_folds
from spear.evaluate.problems import MeanProblem, Problem
from spear.evaluate.protocol import Settings
from spear.log import Progress, get_logger

Point = float | str
"""A point of a grid: its learning rate, or its name where heads differ in more than that."""

logger = get_logger(__name__)


def point_of(head: dict) -> Point:
    """The point that a head was trained at."""
    return head.get("point", head["learning_rate"])


@dataclass
class Grid:
    """What a trained grid gave on one fold.

    Attributes:
        heads: for each head learning_rate, seed, layer_weights, skipped_steps, curve, best_step; and `point` where
            points are more than learning rates.
        hypotheses: split -> for each head {variant: hypotheses in the order of `rows`}.
        rows: split -> {id, reference}.
        steps: optimizer steps taken.
    """

    fold: str
    heads: list[dict]
    hypotheses: dict[str, list[dict[str, list[Any]]]]
    rows: dict[str, list[dict]]
    steps: int

    def predictions(self, split: str, point: Point, variant: str) -> list[dict]:
        """Prediction rows {id, fold, reference, hypotheses} of one candidate, a hypothesis for each head seed."""
        chosen = [number for number, head in enumerate(self.heads) if point_of(head) == point]
        found = [self.hypotheses[split][number][variant] for number in chosen]
        return [
            {**row, "fold": self.fold, "hypotheses": [hypotheses[place] for hypotheses in found]}
            for place, row in enumerate(self.rows[split])
        ]

    @property
    def variants(self) -> list[str]:
        """Names of the variants."""
        return list(self.hypotheses["dev"][0])


def train_grid(problem: Problem, metric: str, settings: Settings, fold: str = "", label: str = "") -> Grid:
    """Trains all heads side by side and predicts dev and test."""
    bank = problem.make_bank()
    rates = settings.heads
    heads = [{"learning_rate": rate, "seed": seed, "curve": [], "best_step": 0} for rate, seed in rates]
    for head, name in zip(heads, settings.point_names):
        head["point"] = name
    hypotheses: dict[str, list[dict]] = {split: [{} for _ in rates] for split in ("dev", "test")}
    if bank is None:
        for split in hypotheses:
            hypotheses[split] = problem.predict(None, split)[0]
        for head in heads:
            head |= {"layer_weights": [], "skipped_steps": 0}
        return Grid(fold, heads, hypotheses, _references(problem), 0)
    with arithmetic(settings):
        steps = _fit(problem, bank, metric, settings, heads, hypotheses, label)
        if not problem.every_evaluation:
            if settings.early_stopping:
                bank.restore_best()
            bank.train(False)
            with torch.no_grad():
                for split in hypotheses:
                    hypotheses[split], losses = problem.predict(bank, split)
                    for head, loss in zip(heads, losses):
                        head[f"{split}_loss"] = loss
    for head, weights, skipped in zip(heads, bank.layer_weights(), bank.skipped_steps()):
        head |= {"layer_weights": weights, "skipped_steps": skipped}
    return Grid(fold, heads, hypotheses, _references(problem), steps)


def _references(problem: Problem) -> dict[str, list[dict]]:
    return {split: problem.rows(split) for split in ("dev", "test")}


def _fit(
    problem: Problem, bank: Bank, metric: str, settings: Settings, heads: list, hypotheses: dict, label: str
) -> int:
    """The loop over steps; fills in curves, best steps and, where every evaluation is a variant, the hypotheses.

    Returns how many steps were taken: fewer where all heads have stopped for want of a better evaluation.
    """
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    best = [(-float("inf"), -float("inf"))] * len(heads)
    waiting = [0] * len(heads)
    # On the heads' device and summed there: to read a loss at every step would wait for a GPU.
    running_H = torch.zeros(len(heads), dtype=torch.float64, device=settings.device)
    batches = endless_batches(problem)
    progress = Progress(settings.max_steps, label or "heads", "steps")
    for step in range(1, settings.max_steps + 1):
        bank.train(True)
        for _ in range(settings.accumulate):
            losses_H = bank.backward(problem.losses(bank, next(batches)), 1 / settings.accumulate)
            running_H += losses_H.double() / settings.accumulate
        bank.step(_rate_share(settings, step))
        progress.update()
        if step % settings.eval_every and step < settings.max_steps:
            continue
        bank.train(False)
        with torch.no_grad():
            dev, dev_losses = problem.predict(bank, "dev")
            if problem.every_evaluation:
                test, _ = problem.predict(bank, "test")
                for number in range(len(heads)):
                    hypotheses["dev"][number][f"step {step}"] = dev[number][""]
                    hypotheses["test"][number][f"step {step}"] = test[number][""]
        improved_H = torch.zeros(len(heads), dtype=torch.bool)
        interval = (step - 1) % settings.eval_every + 1
        train_losses = (running_H / interval).tolist()
        for number, head in enumerate(heads):
            if settings.patience and waiting[number] >= settings.patience:
                continue
            score = _dev_score(problem, metric, dev[number])
            point = {"step": step, "train_loss": train_losses[number], "dev_loss": dev_losses[number]}
            point["dev_score"] = score
            head["curve"].append(point)
            if problem.dev_accuracies is not None:
                point["dev_accuracy"] = problem.dev_accuracies[number]
            value = point.get("dev_accuracy", sign * score)
            # Among equal scores the lower loss: on small dev sets many evaluations tie. Who waits for a better score
            # must not wait for ever lower losses.
            tie = 0.0 if settings.patience else -dev_losses[number]
            rank = (value if np.isfinite(value) else -float("inf"), tie)
            waiting[number] += 1
            if rank > best[number]:
                best[number], improved_H[number], head["best_step"], waiting[number] = rank, True, step, 0
        if settings.early_stopping:
            bank.keep_best(improved_H)
        running_H.zero_()
        if settings.patience and min(waiting) >= settings.patience:
            return step
    return settings.max_steps


def _rate_share(settings: Settings, step: int) -> float:
    """What a learning rate is multiplied with at a step, from 1 on."""
    if settings.schedule == "constant":
        return 1.0
    up = settings.max_steps // 10 if settings.schedule == "warm-up" else 0
    return step / up if step <= up else 1 - (step - up - 1) / (settings.max_steps - up)


def _dev_score(problem: Problem, metric: str, found: dict[str, list[Any]]) -> float:
    """The best over variants."""
    rows = problem.rows("dev")
    scores = [
        score_folds(metric, [{**row, "hypotheses": [h]} for row, h in zip(rows, hypotheses)])
        for hypotheses in found.values()
    ]
    return max(scores, key=lambda score: score if HIGHER_IS_BETTER[metric] else -score)


def endless_batches(problem: Problem) -> Iterator[Any]:
    """Training batches, pass after pass.

    Raises:
        RuntimeError: a pass has none.
    """
    epoch = 0
    while True:
        empty = True
        for batch in problem.train_batches(epoch):
            empty = False
            yield batch
        if empty:
            raise RuntimeError("a pass over the training items without any batch")
        epoch += 1


# Selection -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A candidate, its score on dev, and the standard error of the best candidate there."""

    learning_rate: float
    variant: str
    score: float
    standard_error: float
    point: Point


def gather(grids: Sequence[Grid], split: str, point: Point, variant: str) -> list[dict]:
    """Prediction rows of one candidate over all folds."""
    return [row for grid in grids for row in grid.predictions(split, point, variant)]


def best_variant(grids: Sequence[Grid], metric: str, point: Point, split: str = "dev") -> tuple[str, float, list[dict]]:
    """The best variant of a point on a split, its score there (nan where none is finite), and its prediction rows."""
    found = []
    for variant in grids[0].variants:
        rows = gather(grids, split, point, variant)
        score = score_folds(metric, rows)
        found.append((variant, score if np.isfinite(score) else float("nan"), rows))
    return max(found, key=lambda candidate: _value(metric, candidate[1]))


def _value(metric: str, score: float) -> float:
    """The higher, the better."""
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    return sign * score if np.isfinite(score) else -float("inf")


def select(grids: Sequence[Grid], metric: str, default_rate: float | None) -> Choice:
    """Chooses the candidate on dev.

    With a default it is the learning rate nearest (in ratio) to the declared default among those whose score is
    within one standard error (bootstrap over items) of the best: a small dev set cannot rank rates, a large one has a
    small error and decides by itself. Without a default it is the best score, as the published protocol has it. A point
    of which some head took no step at all is never chosen while there is another.

    Args:
        default_rate: for grids whose points are learning rates.
    """
    rate_of = {point_of(head): head["learning_rate"] for grid in grids for head in grid.heads}
    points = [point for point in sorted(rate_of) if _is_trained(grids, point)] or sorted(rate_of)
    tops = {point: best_variant(grids, metric, point) for point in points}
    values = {point: _value(metric, score) for point, (_, score, _) in tops.items()}
    best = max(values, key=values.__getitem__)
    low, high = interval_of_folds(metric, tops[best][2])
    error = (high - low) / (2 * 1.96) if np.isfinite(high - low) else 0.0
    chosen = best
    if default_rate and len(points) > 1:
        close = [point for point in points if values[point] >= values[best] - error - 1e-9]
        chosen = min(close, key=lambda rate: (round(abs(np.log(rate / default_rate)), 6), -values[rate]))
    variant, score, _ = tops[chosen]
    return Choice(rate_of[chosen], variant, score, error, chosen)


def _is_trained(grids: Sequence[Grid], point: Point) -> bool:
    """Whether every head of a point took a step; a step whose gradient is not finite is none."""
    return not any(
        point_of(head) == point and head.get("skipped_steps", 0) >= grid.steps > 0
        for grid in grids
        for head in grid.heads
    )


def run_grids(problems: dict[str, Problem], metric: str, settings: Settings, label: str) -> list[Grid]:
    """Trains every fold.

    Raises:
        DataError: at every learning rate there is a head that took no step: what it would give is no score.
    """
    grids = _trained(problems, metric, settings, label)
    if not any(_is_trained(grids, point_of(head)) for head in grids[0].heads):
        raise DataError(
            f"{label or 'heads'}: no head took a step, the gradients of all {grids[0].steps} were not finite",
            "finite losses",
            "look for features or targets of extreme size; try smaller --learning-rates",
        )
    return grids


def _trained(problems: dict[str, Problem], metric: str, settings: Settings, label: str) -> list[Grid]:
    """The grids of all folds; those of time means side by side, with a thread each."""

    def train(fold: str) -> Grid:
        # Where heads are trained in passes over the data, each fold has its own number of steps.
        own = problems[fold].settings if settings.patience else settings
        return train_grid(problems[fold], metric, own, fold, f"{label} {fold}".strip())

    threads = torch.get_num_threads()
    # Others draw from torch's global generator, and have products that are worth several threads.
    of_means = all(isinstance(problem, MeanProblem) for problem in problems.values())
    if settings.device != "cpu" or not of_means or min(threads, len(problems)) < 2:
        return [train(fold) for fold in problems]
    try:
        # Threads that share small products wait for one another at each, for long where others use the cores, too.
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        with arithmetic(settings), pool:  # what is global is set once for all
            return list(pool.map(train, problems))
    finally:
        torch.set_num_threads(threads)
