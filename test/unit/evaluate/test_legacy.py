"""The number under the published selection: which dev set, which rate, which checkpoint, and what it says of itself."""

import numpy as np
import pytest
import superb_corpus
import torch

from spear.evaluate.cache import FeatureCache
from spear.evaluate.engine import Grid, train_grid
from spear.evaluate.legacy import near_legacy
from spear.evaluate.protocol import settings_of
from spear.evaluate.table import Row, Table, read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.tasks.diarization import frame_accuracy
from spear.evaluate.upstream import FbankUpstream
from spear.manifest import Item


def rows_of(labels, split="all", **extra):
    item = Item("x", "x.wav", 0.0, 1.0, 16000, "speech", "speech")
    return [Row(f"{split}{n:03d}", split, item, label, "k", extra) for n, label in enumerate(labels)]


def test_keywords_are_selected_on_a_dev_set_drawn_class_balanced_for_checkpoints_too(tmp_path):
    dev = rows_of(["yes"] * 90 + ["no"] * 10, "dev")
    table = Table([*rows_of(["yes", "no"], "train"), *dev, *rows_of(["no"], "test")], [])
    clean, legacy = (TASKS["KS"].folds(table, legacy)[""]["dev"] for legacy in (False, True))
    assert clean == dev and len(legacy) == 100 and len({row.id for row in legacy}) < 100
    assert 35 < sum(row.target == "no" for row in legacy) < 65
    assert legacy == TASKS["KS"].folds(table, True)[""]["dev"]  # one draw for all evaluations
    # The heads are trained again: their checkpoints are chosen on that set.
    seen = []

    def problems(table, store, settings, legacy=False):
        seen.append(legacy)
        raise StopIteration

    task = type("Task", (), {"legacy": "dev", "metrics": ("accuracy",), "problems": staticmethod(problems)})
    with pytest.raises(StopIteration):
        near_legacy(task, table, None, None, [], 1e-3)
    assert seen == [True]


def test_emotions_are_selected_on_the_published_draw():
    """Of ten rows `torch.utils.data.random_split` after `manual_seed(0)` takes these for training."""
    rows = [row for n, row in enumerate(rows_of(["a", "b"] * 7))]
    rows = [Row(r.id, r.split, r.item, r.target, r.key, {"session": f"s{n // 5}"}) for n, r in enumerate(rows)]
    found = TASKS["ER"].folds(Table(rows, []), legacy=True)["s2"]
    torch.manual_seed(0)
    train, dev = torch.utils.data.random_split(rows[:10], [8, 2])
    assert found["dev"] == [rows[place] for place in dev.indices]
    assert [row.id for row in found["train"]] == sorted(rows[place].id for place in train.indices)


def grid_of(scores):
    """(rate, step) -> items right of 100 on dev and test."""
    rows = [{"id": str(n), "reference": "a"} for n in range(100)]
    heads = [{"learning_rate": rate, "seed": 0} for rate in scores]
    hypotheses = {
        split: [
            {step: ["a"] * pair[place] + ["b"] * (100 - pair[place]) for step, pair in steps.items()}
            for steps in scores.values()
        ]
        for place, split in enumerate(("dev", "test"))
    }
    return Grid("", heads, hypotheses, {"dev": rows, "test": rows}, 1)


def test_test_chooses_the_checkpoint_and_never_the_learning_rate():
    scores = {1e-4: {"step 1": (80, 70), "step 2": (70, 75)}, 1e-3: {"step 1": (60, 99), "step 2": (50, 98)}}
    task = type("Task", (TASKS["ASV"].__class__,), {"metrics": ("accuracy",)})()
    found = near_legacy(task, None, None, None, [grid_of(scores)], 1e-4)
    assert (found["learning_rate"], found["variant"], found["score"]) == (1e-4, "step 2", 0.75)
    assert "held out" in found["differences"][0]


def test_every_published_selection_says_what_still_differs():
    for task in TASKS.values():
        assert bool(task.legacy) == bool(task.legacy_rule) == bool(task.legacy_differences), task.name
    assert {name for name, task in TASKS.items() if task.legacy} == {"KS", "ER", "ASV", "SD"}


def test_frame_accuracy_by_hand():
    logits_TS = torch.tensor([[2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, -2.0]])
    labels_TS = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert frame_accuracy(logits_TS, labels_TS) == pytest.approx(7 / 8)  # outputs swapped; one false alarm
    assert frame_accuracy(logits_TS, labels_TS.flip(1)) == pytest.approx(7 / 8)


def test_checkpoints_of_diarization_are_chosen_by_frame_accuracy(tmp_path):
    data = superb_corpus.make_superb_corpus(tmp_path / "data", (6, 3, 3))
    table = read_table(data, "SD", TASKS["SD"].refuse)
    changes = {"learning_rates": (1e-2,), "max_steps": 6, "eval_every": 2, "early_stopping": True, "rnn_dim": 8}
    settings = settings_of("mini", "SD", changes)
    store = FeatureCache(tmp_path / "cache", FbankUpstream())
    store.ensure([row.item for row in table.rows], {row.key for row in table.rows})
    (problem,) = TASKS["SD"].problems(table, store, settings).values()
    predict, given = problem.predict, iter([0.5, 0.9, 0.7])

    def judged(bank, split):
        found = predict(bank, split)
        if split == "dev":
            problem.dev_accuracies = [next(given, 0.0)]
        return found

    problem.predict = judged
    (head,) = train_grid(problem, "der", settings).heads
    assert head["best_step"] == 4 and [point["dev_accuracy"] for point in head["curve"]] == [0.5, 0.9, 0.7]
    assert np.isfinite([point["dev_score"] for point in head["curve"]]).all()
