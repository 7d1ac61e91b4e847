"""Hours of a task's heads: counted from timed batches."""

import dataclasses

import pytest
import torch

from spear.evaluate import estimate as hours_of_heads
from spear.evaluate.banks import ModuleBank
from spear.evaluate.estimate import Cost, describe, estimate, measure
from spear.evaluate.protocol import Settings

SETTINGS = Settings((1e-2, 1e-3), max_steps=90, eval_every=40, accumulate=2, batch_size=4)


class Clock:
    """Time passes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, features_BTD, lens_B):
        return features_BTD * self.scale


class SlowProblem:
    """Each head takes so many seconds for each batch of training: more for the first; half of that in evaluation."""

    every_evaluation, details = False, {}

    def __init__(self, clock, seconds=(5.0, 1.0, 2.0, 3.0), dev=10, test=20):
        self.clock, self.seconds, self.sizes, self.taken = clock, list(seconds), {"dev": dev, "test": test}, 0

    def make_bank(self):
        return ModuleBank(1, Head, SETTINGS)

    def train_batches(self, epoch):
        yield from ([0, 1, 2, 3] for _ in range(2))

    def losses(self, bank, batch):
        training = bank.modules[0].training
        seconds = self.seconds[min(self.taken, len(self.seconds) - 1)]
        self.taken += training
        for output in bank.outputs(torch.ones(1, 4, 2, 3), torch.full((4,), 2)):
            self.clock.now += seconds / (1 if training else 2)
            yield output.sum()

    def rows(self, split):
        return [{"id": str(n), "reference": ""} for n in range(self.sizes[split])]


def test_the_first_batch_does_not_count_when_others_follow():
    clock = Clock()
    cost = measure(SlowProblem(clock), SETTINGS, most_seconds=1e9, batches=3, clock=clock)
    assert cost == Cost(batch_seconds=2 * (1 + 2 + 3) / 3, update_seconds=0.0, item_seconds=2 * 1.5 / 4)


def test_no_batch_begins_after_the_time_for_measuring():
    clock = Clock()
    problem = SlowProblem(clock)
    assert measure(problem, SETTINGS, most_seconds=3.0, clock=clock).batch_seconds == 10.0 and problem.taken == 1


def test_hours_count_steps_evaluations_and_the_last_prediction():
    cost = Cost(batch_seconds=3.0, update_seconds=1.0, item_seconds=0.5)
    assert cost.step_seconds(SETTINGS) == 7.0
    # 90 steps; dev after 40, 80 and 90 of them and once more with the best weights, then test.
    assert cost.hours(SETTINGS, 10, 20) == pytest.approx((90 * 7 + (4 * 10 + 20) * 0.5) / 3600)
    assert cost.hours(SETTINGS, 10, 20, each_on_test=True) == pytest.approx((90 * 7 + 3 * 30 * 0.5) / 3600)


def test_the_estimate_of_a_task_adds_up_its_folds_and_says_how(monkeypatch):
    cost = Cost(batch_seconds=3.0, update_seconds=1.0, item_seconds=0.5)
    monkeypatch.setattr(hours_of_heads, "measure", lambda *arguments: cost)
    problems = {"one": SlowProblem(Clock()), "two": SlowProblem(Clock(), dev=0)}
    found = estimate(problems, SETTINGS, "ER, fbank")
    assert found.hours == pytest.approx(cost.hours(SETTINGS, 10, 20) + cost.hours(SETTINGS, 0, 20))
    assert found.text.startswith("ER, fbank: about") and "2 folds of 90 steps" in found.text


def test_the_line_of_an_estimate():
    cost = Cost(100.0, 0.0, 0.0)
    line = describe("ASR, base", cost, dataclasses.replace(SETTINGS, max_steps=200_000), 11_111.1)
    assert line == (
        "ASR, base: about 11,111 hours (463 days) (200,000 steps of 200 s, 2 heads side by side on cpu; "
        "evaluations included)"
    )
    assert describe("KS", Cost(0.01, 0.0, 0.0), SETTINGS, 0.5).startswith("KS: about 30 minutes (90 steps of 20 ms")
    assert "no heads" in describe("QbE", cost, dataclasses.replace(SETTINGS, max_steps=0), 0.0)


def test_nothing_that_is_measured_changes_what_is_trained_later():
    state = torch.random.get_rng_state()
    measure(SlowProblem(Clock()), SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), state)
