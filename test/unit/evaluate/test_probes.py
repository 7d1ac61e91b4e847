"""Heads trained side by side."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from spear.evaluate.heads import Heads, HeadwiseAdam, ProbeConfig
from spear.evaluate.probes import CtcProblem, UtteranceProblem, fold_places, select_learning_rate, train_probes
from spear.evaluate.units import make_units

SPLITS = {"train": 120, "dev": 40, "test": 60}


def clusters(noise: float):
    """Features (3, items, 8) whose middle layer alone knows the label."""
    rng = torch.Generator().manual_seed(1)
    centres = 3 * torch.randn(4, 8, generator=rng)
    features, targets = {}, {}
    for name, count in SPLITS.items():
        labels = torch.randint(0, 4, (count,), generator=rng)
        features[name] = torch.randn(3, count, 8, generator=rng)
        features[name][1] = centres[labels] + noise * torch.randn(count, 8, generator=rng)
        targets[name] = ["abcd"[int(label)] for label in labels]
    return features, targets


def test_heads_equal_a_weighted_sum_two_linear_layers_and_a_mean_in_this_order():
    config = ProbeConfig(learning_rates=(1e-3, 1e-2), seeds=(0, 1))
    heads = Heads(3, 8, 5, config)
    with torch.no_grad():
        heads.layer_HL.normal_(generator=torch.Generator().manual_seed(0))
    frames_LTD = torch.randn(3, 17, 8)
    fast_HC = heads.logits(frames_LTD.mean(dim=1, keepdim=True))[:, 0]
    for index in range(4):
        down, out = nn.Linear(8, 256), nn.Linear(256, 5)
        down.weight.data, down.bias.data = heads.down_HDP[index].T, heads.down_bias_H1P[index, 0]
        out.weight.data, out.bias.data = heads.out_HPC[index].T, heads.out_bias_H1C[index, 0]
        mixed_TD = (heads.layer_HL[index].softmax(-1)[:, None, None] * frames_LTD).sum(dim=0)
        assert torch.allclose(out(down(mixed_TD).mean(dim=0)), fast_HC[index], atol=1e-5)


def test_headwise_adam_equals_torch_adam_for_every_head():
    rates = [1e-3, 1e-2]
    start = torch.randn(2, 3, 4)
    together = start.clone().requires_grad_()
    optimizer = HeadwiseAdam([together], rates, max_gradient_norm=0.5)
    alone = [start[i].clone().requires_grad_() for i in range(2)]
    others = [torch.optim.Adam([p], lr=rate) for p, rate in zip(alone, rates)]
    for step in range(5):
        x = torch.randn(4, generator=torch.Generator().manual_seed(step))
        (together @ x).square().sum().backward()
        optimizer.step(scale=1.0)
        for parameter, other in zip(alone, others):
            other.zero_grad()
            (parameter @ x).square().sum().backward()
            nn.utils.clip_grad_norm_([parameter], 0.5)
            other.step()
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


def test_a_head_whose_gradient_is_not_finite_is_left_alone_and_counted():
    parameter = torch.ones(2, 3, requires_grad=True)
    optimizer = HeadwiseAdam([parameter], [0.1, 0.1], 1.0)
    (parameter * torch.tensor([[1.0], [float("inf")]])).sum().backward()
    optimizer.step(1.0)
    assert optimizer.skipped_H.tolist() == [0, 1]
    assert (parameter[0] < 1).all() and (parameter[1] == 1).all()


def test_classification_finds_the_layer_that_knows_and_is_repeatable():
    results = [train_probes(UtteranceProblem(*clusters(noise=0.5)), ProbeConfig(max_steps=150)) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].score > 0.9 and results[0].interval[0] <= results[0].score <= results[0].interval[1]
    assert np.argmax(results[0].layer_weights) == 1


def test_grid_side_by_side_equals_each_learning_rate_alone():
    both = train_probes(UtteranceProblem(*clusters(1.0)), ProbeConfig(learning_rates=(1e-3, 1e-2)))
    for rate in (1e-3, 1e-2):
        alone = train_probes(UtteranceProblem(*clusters(1.0)), ProbeConfig(learning_rates=(rate,)))
        mine = [row for row in both.heads if row["learning_rate"] == rate]
        for a, b in zip(mine, alone.heads):
            assert a["dev_score"] == pytest.approx(b["dev_score"], abs=0.03)
            assert a["curve"][2]["dev_loss"] == pytest.approx(b["curve"][2]["dev_loss"], rel=1e-2)


def chosen(scores: dict[float, float], metric: str, items: int) -> float:
    """The selected rate for dev scores on `items` items; test scores point elsewhere."""
    rows = [{"learning_rate": r, "dev_score": s, "dev_loss": 1.0, "test_score": -r} for r, s in scores.items()]
    counts = [np.stack([np.r_[np.ones(round(s * items)), np.zeros(items - round(s * items))], np.ones(items)], 1)
              for s in scores.values()]  # fmt: skip
    return select_learning_rate(rows, metric, counts, default=0.01)[0]


def test_selection_takes_the_best_of_dev_where_dev_is_large_and_the_default_where_dev_cannot_tell():
    scores = {0.001: 0.60, 0.01: 0.55, 0.1: 0.40}
    assert chosen(scores, "accuracy", items=10000) == 0.001
    assert chosen(scores, "accuracy", items=40) == 0.01
    assert chosen(scores, "per", items=10000) == 0.1


def test_every_item_is_in_one_fold_and_labels_are_spread_over_them():
    labels = list("aaaaabbbbbbbbbbcccccd")
    folds = fold_places(labels, 5)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(labels)))
    counts = np.array([[sum(labels[place] == label for place in fold) for label in "abc"] for fold in folds])
    assert (counts == [1, 2, 1]).all() and sorted(map(len, folds)) == [4, 4, 4, 4, 5]
    assert len(fold_places(["a", "b", "a"], 5)) == 3


def test_folds_select_where_dev_misleads_and_leave_the_heads_as_they_are():
    features, targets = clusters(noise=2.0)
    config = ProbeConfig(learning_rates=(1e-6, 1e-2), max_steps=150)  # of which the first learns nothing
    problem = UtteranceProblem(features, {**targets, "dev": [targets["train"][0]] * SPLITS["dev"]})  # a wrong dev
    parts = []
    for held in fold_places(targets["train"], 3):
        kept = np.setdiff1d(np.arange(SPLITS["train"]), held)
        inputs = {"train": features["train"][:, kept], "dev": features["train"][:, held]}
        labels = {"train": [targets["train"][i] for i in kept], "dev": [targets["train"][i] for i in held]}
        parts.append(UtteranceProblem(inputs, labels))
    plain, folded = train_probes(problem, config), train_probes(problem, config, folds=parts)
    assert folded.learning_rate == 1e-2 and folded.dev_score > 0.5 > plain.dev_score
    assert [row["test_score"] for row in folded.heads] == [row["test_score"] for row in plain.heads]


def test_early_stopping_keeps_the_best_dev_weights():
    config = ProbeConfig(learning_rates=(0.1,), eval_every=10, early_stopping=True, patience=2)
    result = train_probes(UtteranceProblem(*clusters(noise=3.0)), config)
    assert result.steps < config.max_steps
    for row in result.heads:
        assert row["dev_score"] == pytest.approx(max(point["dev_score"] for point in row["curve"]), abs=1e-5)


def test_a_label_that_training_lacks_is_an_error_and_not_a_skip():
    features, targets = clusters(0.1)
    targets["test"] = ["never"] * len(targets["test"])
    result = train_probes(UtteranceProblem(features, targets), ProbeConfig(max_steps=50))
    assert result.score == 0.0 and len(result.hypotheses) == 60


def test_slots_are_right_only_together():
    features, targets = clusters(0.1)
    pairs = {name: [(t, "odd" if t in "ac" else "even") for t in targets[name]] for name in targets}
    problem = UtteranceProblem(features, pairs)
    assert problem.shape[2] == 6
    result = train_probes(problem, ProbeConfig(max_steps=150))
    assert result.score > 0.9 and result.hypotheses[0][0] in {(t, p) for t in "abcd" for p in ("odd", "even")}


def ctc_problem():
    """Sequences over four symbols, each symbol 2 to 4 frames of its own vector."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 2, 6))
    frames, targets, keys = {}, {}, {}
    for name, count in {"train": 60, "dev": 12, "test": 12}.items():
        keys[name] = [f"{name}{i}" for i in range(count)]
        targets[name] = []
        for key in keys[name]:
            symbols = rng.integers(1, 5, size=rng.integers(2, 7))
            spans = [s for symbol in symbols for s in [symbol] * int(rng.integers(2, 5)) + [0]]
            frames[key] = (vectors[spans].transpose(1, 0, 2) + 0.2 * rng.standard_normal((2, len(spans), 6))).astype(
                "f2"
            )
            targets[name].append(tuple("_wxyz"[s] for s in symbols))
    units = make_units(targets["train"], "phones")
    return CtcProblem(frames.__getitem__, lambda key: frames[key].shape[1], keys, targets, units, "per"), frames, keys


def test_ctc_learns_sequences():
    problem, _, _ = ctc_problem()
    config = ProbeConfig(learning_rates=(1e-3, 1e-2), seeds=(0,), max_steps=120, batch_size=12, eval_every=30)
    result = train_probes(problem, config)
    assert result.score < 0.1 and result.learning_rate == 1e-2
    assert result.heads[0]["curve"][0]["train_loss"] > result.heads[0]["curve"][-1]["train_loss"]


def test_ctc_loss_of_a_head_equals_the_loss_of_its_utterances_alone():
    problem, frames, keys = ctc_problem()
    heads = Heads(*problem.shape, ProbeConfig(learning_rates=(1e-3,), seeds=(0, 1)))
    places = np.asarray([0, 5, 9])
    together_H = problem.loss(heads, places)
    alone = torch.stack([problem.loss(heads, places[i : i + 1]) for i in range(3)])
    assert torch.allclose(together_H, alone.mean(dim=0), atol=1e-5)
    log_probs = heads.logits(problem._batch("train", places[:1]))[0].log_softmax(-1)
    target = torch.tensor([problem.units.encode(problem.references("train")[0])])
    expected = functional.ctc_loss(log_probs, target[0], (len(log_probs),), (target.shape[1],))
    assert alone[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)
