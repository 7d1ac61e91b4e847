"""Heads trained side by side, and the problems of labels and of sequences."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from spear.evaluate import scoring
from spear.evaluate.ctc import SequenceProblem
from spear.evaluate.engine import run_grids, select, train_grid
from spear.evaluate.heads import Heads, HeadwiseAdam
from spear.evaluate.metrics import score_folds
from spear.evaluate.protocol import Settings
from spear.evaluate.scoring import score_task
from spear.evaluate.table import Row, Table
from spear.evaluate.task import fold_places
from spear.evaluate.tasks.generic import LabelTask
from spear.evaluate.tasks.phoneme_recognition import linear_bank
from spear.manifest import Item

SPLITS = {"train": 120, "dev": 40, "test": 60}
SETTINGS = Settings(
    (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (0, 1), schedule="linear", standardise=True, early_stopping=False, max_steps=150
)
LABELS = LabelTask("labels", "Labels")


class Store:
    """Features by key, as those of a cache."""

    frame_rate_hz = 50.0

    def __init__(self, frames: dict[str, torch.Tensor]):
        self._frames = frames

    def has(self, kind, key):
        return key in self._frames

    def means(self, keys):
        return torch.stack([self._frames[key].mean(dim=1) for key in keys], dim=1)

    def num_frames(self, key):
        return self._frames[key].shape[1]

    def hidden_states(self, key):
        return self._frames[key].half()


def row(name: str, split: str, target) -> Row:
    return Row(name, split, Item(name, f"/{name}.wav", 0.0, 0.0, 0, "speech", "speech"), target, name)


def clusters(noise: float):
    """Rows, and features (3, 1, 8) of which the middle layer alone knows the label."""
    rng = torch.Generator().manual_seed(1)
    centres = 3 * torch.randn(4, 8, generator=rng)
    rows, frames = [], {}
    for split, count in SPLITS.items():
        labels = torch.randint(0, 4, (count,), generator=rng)
        features = torch.randn(3, count, 8, generator=rng)
        features[1] = centres[labels] + noise * torch.randn(count, 8, generator=rng)
        for number, label in enumerate(labels.tolist()):
            rows.append(row(f"{split}{number:03d}", split, "abcd"[label]))
            frames[rows[-1].id] = features[:, number : number + 1]
    return Table(rows, []), Store(frames)


def relabelled(table: Table, change) -> Table:
    return Table([dataclasses.replace(r, target=change(r)) for r in table.rows], [])


def test_heads_equal_a_weighted_sum_two_linear_layers_and_a_mean_in_this_order():
    config = Settings(learning_rates=(1e-3, 1e-2), seeds=(0, 1))
    heads = Heads(3, 8, 5, config)
    with torch.no_grad():
        heads.layer_HL.normal_(generator=torch.Generator().manual_seed(0))
    frames_LTD = torch.randn(3, 17, 8)
    # For one item the layers come one after the other, for seventeen their product is taken first.
    of_mean_HC = heads.logits(frames_LTD.mean(dim=1, keepdim=True))[:, 0]
    of_frames_HC = heads.logits(frames_LTD).mean(dim=1)
    for index in range(4):
        down, out = nn.Linear(8, 256), nn.Linear(256, 5)
        down.weight.data, down.bias.data = heads.down_HDP[index].T, heads.down_bias_H1P[index, 0]
        out.weight.data, out.bias.data = heads.out_HPC[index].T, heads.out_bias_H1C[index, 0]
        mixed_TD = (heads.layer_HL[index].softmax(-1)[:, None, None] * frames_LTD).sum(dim=0)
        expected_C = out(down(mixed_TD).mean(dim=0))
        assert torch.allclose(of_mean_HC[index], expected_C, atol=1e-5)
        assert torch.allclose(of_frames_HC[index], expected_C, atol=1e-5)


@pytest.mark.parametrize("max_gradient_norm", [0.5, 1e6])
def test_headwise_adam_equals_torch_adam_for_every_head(max_gradient_norm):
    rates = [1e-3, 1e-2]
    start = torch.randn(2, 3, 4)
    together = start.clone().requires_grad_()
    optimizer = HeadwiseAdam([together], rates, max_gradient_norm)
    alone = [start[i].clone().requires_grad_() for i in range(2)]
    others = [torch.optim.Adam([p], lr=rate) for p, rate in zip(alone, rates)]
    for step in range(5):
        x = torch.randn(4, generator=torch.Generator().manual_seed(step))
        (together @ x).square().sum().backward()
        optimizer.step(scale=1.0)
        for parameter, other in zip(alone, others):
            other.zero_grad()
            (parameter @ x).square().sum().backward()
            nn.utils.clip_grad_norm_([parameter], max_gradient_norm)
            other.step()
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


def test_a_head_whose_gradient_is_not_finite_is_left_alone_and_counted():
    parameter = torch.ones(2, 3, requires_grad=True)
    optimizer = HeadwiseAdam([parameter], [0.1, 0.1], 1.0)
    for bad in (float("inf"), float("nan")):
        (parameter * torch.tensor([[1.0], [bad]])).sum().backward()
        optimizer.step(1.0)
    assert optimizer.skipped_H.tolist() == [0, 2]
    assert (parameter[0] < 0.9).all() and (parameter[1] == 1).all()
    (parameter * torch.ones(2, 1)).sum().backward()
    optimizer.step(1.0)
    assert torch.allclose(parameter[1], torch.tensor(0.9), atol=1e-4)  # its first step is as long as any first one


def test_classification_finds_the_layer_that_knows_and_is_repeatable():
    results = [score_task(LABELS, *clusters(noise=0.5), SETTINGS) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["score"] > 0.9 and results[0]["interval"][0] <= results[0]["score"] <= results[0]["interval"][1]
    assert np.argmax(results[0]["layer_weights"]) == 1


def test_folds_side_by_side_equal_folds_one_after_the_other():
    table, store = clusters(1.0)
    rows = {split: table.of(split) for split in SPLITS}
    settings = dataclasses.replace(SETTINGS, max_steps=40)
    folds = {str(n): {**rows, "train": rows["train"][n::3]} for n in range(3)}
    before, precision, found = torch.get_num_threads(), torch.backends.cudnn.allow_tf32, []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            problems = {fold: LABELS.problem(splits, table, store, settings) for fold, splits in folds.items()}
            found.append(run_grids(problems, "accuracy", settings, ""))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1] and [grid.fold for grid in found[0]] == ["0", "1", "2"]
    assert torch.backends.cudnn.allow_tf32 == precision


def test_grid_side_by_side_equals_each_learning_rate_alone():
    both = score_task(LABELS, *clusters(1.0), dataclasses.replace(SETTINGS, learning_rates=(1e-3, 1e-2)))["grid"]
    for rate in (1e-3, 1e-2):
        alone = score_task(LABELS, *clusters(1.0), dataclasses.replace(SETTINGS, learning_rates=(rate,)))["grid"]
        for a, b in zip([head for head in both if head["learning_rate"] == rate], alone):
            assert a["dev_score"] == pytest.approx(b["dev_score"], abs=0.03)
            assert a["curve"][2]["dev_loss"] == pytest.approx(b["curve"][2]["dev_loss"], rel=1e-2)


def test_the_hours_of_long_trainings_are_told_before_they_start_and_change_nothing(monkeypatch, caplog):
    table, store = clusters(1.0)
    silent = score_task(LABELS, table, store, SETTINGS)
    monkeypatch.setattr(scoring, "LONG_STEPS", SETTINGS.max_steps)
    with caplog.at_level("INFO"):
        told = score_task(LABELS, table, store, SETTINGS, label="labels, tiny")
    assert "labels, tiny: about " in caplog.text and "150 steps of" in caplog.text
    assert told == silent


def test_every_row_is_in_one_fold_and_labels_are_spread_over_them():
    labels = list("aaaaabbbbbbbbbbcccccd")
    folds = fold_places(list(enumerate(labels)), 5)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(labels)))
    counts = np.array([[sum(labels[place] == label for place in fold) for label in "abc"] for fold in folds])
    assert (counts == [1, 2, 1]).all() and sorted(map(len, folds)) == [4, 4, 4, 4, 5]
    assert len(fold_places(list(enumerate(["a", "b", "a"])), 5)) == 3


def test_groups_are_never_divided_by_folds():
    groups = ["s1", "s1", "s2", "s3", "s3", "s3", "s4"]
    folds = fold_places([(group, "a") for group in groups], 3)
    of_fold = [{groups[place] for place in fold} for fold in folds]
    assert sum(map(len, of_fold)) == 4 and set.union(*of_fold) == {"s1", "s2", "s3", "s4"}


def test_folds_select_where_dev_misleads_and_leave_the_heads_as_they_are():
    table, store = clusters(noise=2.0)
    wrong = relabelled(table, lambda r: "a" if r.split == "dev" else r.target)
    settings = dataclasses.replace(SETTINGS, learning_rates=(1e-6, 1e-2))  # of which the first learns nothing
    plain = score_task(LABELS, wrong, store, settings)
    folded = score_task(LABELS, wrong, store, dataclasses.replace(settings, least_dev_items=100, num_folds=3))
    assert folded["learning_rate"] == 1e-2 and folded["selected_on"] == "3 folds of train and dev"
    assert plain["selected_on"] == "dev" and folded["dev_score"] > 0.5
    assert [head["test_score"] for head in folded["grid"]] == [head["test_score"] for head in plain["grid"]]


def test_early_stopping_scores_the_weights_of_the_best_dev_evaluation():
    settings = dataclasses.replace(SETTINGS, learning_rates=(0.1,), eval_every=10, early_stopping=True)
    for head in score_task(LABELS, *clusters(noise=3.0), settings)["grid"]:
        assert head["dev_score"] == pytest.approx(max(point["dev_score"] for point in head["curve"]), abs=1e-5)


def test_a_label_that_training_lacks_is_an_error_and_not_a_skip():
    table, store = clusters(0.1)
    never = relabelled(table, lambda r: "never" if r.split == "test" else r.target)
    result = score_task(LABELS, never, store, dataclasses.replace(SETTINGS, max_steps=50))
    assert result["score"] == 0.0 and len(result["rows"]) == 60


def test_slots_are_right_only_together():
    table, store = clusters(0.1)
    pairs = relabelled(table, lambda r: {"which": r.target, "parity": "odd" if r.target in "ac" else "even"})
    result = score_task(LABELS, pairs, store, SETTINGS)
    assert result["score"] > 0.9 and result["details"][""]["num_classes"] == [2, 4]
    assert set(result["rows"][0]["hypotheses"][0]) & {"odd", "even"}


def sequences(settings: Settings) -> SequenceProblem:
    """Sequences over four symbols, each symbol 2 to 4 frames of its own vector."""
    rng = np.random.default_rng(0)
    vectors, frames, splits = rng.standard_normal((5, 2, 6)), {}, {}
    for split, count in {"train": 60, "dev": 12, "test": 12}.items():
        splits[split] = []
        for number in range(count):
            symbols = rng.integers(1, 5, size=rng.integers(2, 7))
            spans = [s for symbol in symbols for s in [symbol] * int(rng.integers(2, 5)) + [0]]
            values = vectors[spans].transpose(1, 0, 2) + 0.2 * rng.standard_normal((2, len(spans), 6))
            splits[split].append(row(f"{split}{number}", split, ["_wxyz"[s] for s in symbols]))
            frames[splits[split][-1].id] = torch.from_numpy(values).float()
    return SequenceProblem(splits, Store(frames), settings, list, list, linear_bank)


def test_ctc_learns_sequences():
    settings = dataclasses.replace(
        SETTINGS, learning_rates=(1e-3, 1e-2), seeds=(0,), max_steps=120, batch_size=12, eval_every=30
    )
    grid = train_grid(sequences(settings), "per", settings)
    choice = select([grid], "per", settings.default_rate)
    assert choice.learning_rate == 1e-2
    assert score_folds("per", grid.predictions("test", choice.learning_rate, choice.variant)) < 0.1
    assert grid.heads[0]["curve"][0]["train_loss"] > grid.heads[0]["curve"][-1]["train_loss"]


def test_ctc_loss_of_a_head_equals_the_loss_of_its_utterances_alone():
    problem = sequences(dataclasses.replace(SETTINGS, learning_rates=(1e-3,)))
    bank = problem.make_bank()
    places = np.asarray([0, 5, 9])
    together_H = torch.stack(list(problem.losses(bank, places)))
    alone = torch.stack([torch.stack(list(problem.losses(bank, places[i : i + 1]))) for i in range(3)])
    assert torch.allclose(together_H, alone.mean(dim=0), atol=1e-5)
    log_probs = bank.outputs(*problem.features("train", places[:1]))[0][0].log_softmax(-1)
    target = torch.tensor([problem.symbols.encode(problem.rows("train")[0]["reference"])])
    expected = functional.ctc_loss(log_probs, target[0], (len(log_probs),), (target.shape[1],))
    assert alone[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)
