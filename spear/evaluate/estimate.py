"""How long the heads of a task will train here: a few real steps are timed before anything starts, the rest is counted.

Nothing is kept of what is trained meanwhile.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from spear.evaluate.banks import arithmetic
from spear.evaluate.engine import endless_batches
from spear.evaluate.problems import Problem
from spear.evaluate.protocol import Settings

Clock = Callable[[], float]


@dataclass(frozen=True)
class Cost:
    """What the grid of a task costs, loading of features included.

    Attributes:
        batch_seconds: forward and backward of a batch through all heads.
        update_seconds: of all heads.
        item_seconds: an item of dev or test through all heads.
    """

    batch_seconds: float
    update_seconds: float
    item_seconds: float

    def step_seconds(self, settings: Settings) -> float:
        """An optimizer step of all heads."""
        return settings.accumulate * self.batch_seconds + self.update_seconds

    def hours(self, settings: Settings, dev_items: int, test_items: int, each_on_test: bool = False) -> float:
        """Training, evaluations and the last prediction of one fold.

        Args:
            each_on_test: every evaluation predicts test as well, and nothing is predicted at the end.
        """
        evaluations = math.ceil(settings.max_steps / settings.eval_every)
        items = evaluations * (dev_items + test_items) if each_on_test else (evaluations + 1) * dev_items + test_items
        return (settings.max_steps * self.step_seconds(settings) + items * self.item_seconds) / 3600


@dataclass(frozen=True)
class Estimate:
    """Hours of the heads of a task over all folds, and a sentence that says how they are counted."""

    hours: float
    text: str


def measure(
    problem: Problem, settings: Settings, most_seconds: float = 20.0, batches: int = 3, clock: Clock = time.monotonic
) -> Cost:
    """Times batches of a problem; the first one, which pays for what is done once, does not count if others follow.

    Args:
        most_seconds: no further batch begins after so many; one is always timed.
        batches: to time.
        clock: `time.process_time` for CPU seconds.
    """
    bank = problem.make_bank()
    if bank is None or not settings.max_steps:
        return Cost(0.0, 0.0, 0.0)
    times: list[float] = []
    start = clock()
    with arithmetic(settings):
        bank.train(True)
        for batch in itertools.islice(endless_batches(problem), batches + 1):
            times.append(_timed(lambda b=batch: bank.backward(problem.losses(bank, b), 1.0), settings, clock))
            if clock() - start > most_seconds:
                break
        update = _timed(lambda: bank.step(1.0), settings, clock)
        bank.train(False)
        with torch.no_grad():
            forward = _timed(lambda: list(problem.losses(bank, batch)), settings, clock)
    counted = times[1:] or times
    return Cost(sum(counted) / len(counted), update, forward / len(batch))


def _timed(function: Callable[[], object], settings: Settings, clock: Clock) -> float:
    def wait() -> None:
        if torch.device(settings.device).type == "cuda":
            torch.cuda.synchronize(settings.device)

    wait()
    start = clock()
    function()
    wait()
    return clock() - start


def estimate(problems: dict[str, Problem], settings: Settings, label: str, most_seconds: float = 20.0) -> Estimate:
    """Hours of all folds of a task, from a few batches of the first.

    Decoding that is not part of the heads (a lexicon beam, the warping of QbE) is not in it.

    Args:
        problems: of every fold, see `Task.problems`.
        label: begins the sentence, such as "ASR, fbank".
    """
    first = next(iter(problems.values()))
    cost = measure(first, settings, most_seconds)
    hours = sum(
        cost.hours(settings, _items(problem, "dev"), _items(problem, "test"), problem.every_evaluation)
        for problem in problems.values()
    )
    return Estimate(hours, describe(label, cost, settings, hours, len(problems)))


def describe(label: str, cost: Cost, settings: Settings, hours: float, folds: int = 1) -> str:
    """One line."""
    if not settings.max_steps:
        return f"{label}: no heads to train"
    parts = f"{settings.max_steps:,} steps of {_short(cost.step_seconds(settings))}"
    repeated = f"{folds} folds of " if folds > 1 else ""
    heads = f"{len(settings.heads)} heads side by side on {settings.device}"
    return f"{label}: about {_long(hours)} ({repeated}{parts}, {heads}; evaluations included)"


def _items(problem: Problem, split: str) -> int:
    """Items that go through the heads; pairs are fewer items or more."""
    lengths = getattr(problem, "lengths", None)
    return len(problem.rows(split)) if lengths is None else len(lengths[split])


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _long(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.2g} minutes" if hours > 1 / 60 else f"{max(1, round(3600 * hours))} s"
    return f"{hours:.3g} hours" if hours < 72 else f"{hours:,.0f} hours ({hours / 24:,.0f} days)"
