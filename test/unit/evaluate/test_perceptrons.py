"""Perceptrons side by side are those one after another; the grid, its order and its settings are as published."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from spear.errors import ConfigError
from spear.evaluate import engine
from spear.evaluate.perceptrons import PerceptronBank
from spear.evaluate.protocol import PerceptronSettings, Settings, settings_of

SMALL = PerceptronSettings(
    (1e-2, 1e-3), hidden_dim=16, max_steps=60, batch_size=24, eval_every=4, max_gradient_norm=1e30, dropout=0.1,
    patience=4,
)  # fmt: skip


class Blobs:
    """Three clouds of points: a problem of `engine` without audio."""

    every_evaluation, dev_accuracies, details = False, None, {}

    def __init__(self, settings, layers=1, seed=0):
        self.settings = settings
        rng = np.random.default_rng(seed)
        self.labels = {name: rng.integers(3, size=48) for name in ("train", "dev", "test")}
        self.x = {
            name: torch.tensor(rng.normal(size=(layers, 48, 6)) + 0.8 * np.eye(6)[None, y], dtype=torch.float32)
            for name, y in self.labels.items()
        }

    def make_bank(self):
        return PerceptronBank(len(self.x["train"]), 6, 3, self.settings)

    def train_batches(self, epoch):
        order = np.random.default_rng(epoch).permutation(48)
        yield from (order[:24], order[24:])

    def _out(self, bank, split, places):
        x_LND = self.x[split][:, places]
        return [o[:, 0] for o in bank.outputs(x_LND[:, :, None], torch.ones(x_LND.shape[1]))]

    def losses(self, bank, batch):
        target = torch.from_numpy(self.labels["train"][batch])
        return [functional.cross_entropy(logits, target) for logits in self._out(bank, "train", batch)]

    def predict(self, bank, split):
        outputs = self._out(bank, split, slice(None))
        target = torch.from_numpy(self.labels[split])
        losses = [float(functional.cross_entropy(logits, target)) for logits in outputs]
        return [{"": [[str(n)] for n in o.argmax(dim=1).tolist()]} for o in outputs], losses

    def rows(self, split):
        return [{"id": str(n), "reference": [str(label)]} for n, label in enumerate(self.labels[split])]


@pytest.mark.parametrize("layers, seeds", [(1, (0,)), (3, (0, 1))])
def test_a_grid_side_by_side_equals_its_points_one_after_another(layers, seeds):
    settings = dataclasses.replace(SMALL, seeds=seeds)
    together = engine.train_grid(Blobs(settings, layers), "accuracy", settings)
    assert len(settings.points) == 8 and len(together.heads) == 8 * len(seeds)
    for point in settings.points:
        one = settings.at(point.name)
        alone = engine.train_grid(Blobs(one, layers), "accuracy", one)
        heads = [head for head in together.heads if head["point"] == point.name]
        for head, own in zip(heads, alone.heads, strict=True):
            curves = [
                [(p["step"], p["train_loss"], p["dev_loss"], p["dev_score"]) for p in h["curve"]] for h in (head, own)
            ]
            assert len(curves[0]) == len(curves[1]) and head["best_step"] == own["best_step"]
            np.testing.assert_allclose(*curves, atol=1e-4)
            assert head["test_loss"] == pytest.approx(own["test_loss"], abs=1e-4)
        assert together.predictions("test", point.name, "") == alone.predictions("test", point.name, "")


@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_a_head_is_the_module_that_it_stands_for(hidden_layers):
    settings = dataclasses.replace(
        SMALL, dropout=0.0, only=f"{hidden_layers} hidden layer" + "s" * (hidden_layers > 1) + ", normal, 0.01"
    )
    problem = Blobs(settings)
    bank = problem.make_bank()
    (group,) = bank._groups
    parts, sizes = [], [6, *[16] * hidden_layers, 3]
    for number, (weight_HIO, bias_H1O) in enumerate(group.linear):
        layer = nn.Linear(sizes[number], sizes[number + 1])
        layer.bias.requires_grad_(number == hidden_layers)  # before a norm its gradient is rounding errors
        layer.weight.data, layer.bias.data = weight_HIO[0].detach().T.clone(), bias_H1O[0, 0].detach().clone()
        parts += [layer] + ([nn.BatchNorm1d(16), nn.ReLU()] if number < hidden_layers else [])
    module = nn.Sequential(*parts)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for epoch in range(5):
        for batch in problem.train_batches(epoch):
            target = torch.from_numpy(problem.labels["train"][batch])
            loss = functional.cross_entropy(module(problem.x["train"][0, batch]), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found = bank.backward(problem.losses(bank, batch), 1.0)
            bank.step(1.0)
            assert float(found[0]) == pytest.approx(loss.item(), abs=1e-4)
    module.eval()
    bank.train(False)
    with torch.no_grad():
        torch.testing.assert_close(
            problem._out(bank, "test", slice(None))[0], module(problem.x["test"][0]), atol=1e-4, rtol=1e-3
        )


def test_initial_weights_have_the_published_spread():
    settings = PerceptronSettings((1e-3,), hidden_dim=512)
    bank = PerceptronBank(1, 256, 128, settings)
    for point, group, row in zip(settings.points, [bank._groups[0]] * 2 + [bank._groups[1]] * 2, (0, 1, 0, 1)):
        gains = []
        for weight_HIO, _ in group.linear:
            weight_IO = weight_HIO[row].detach()
            gains.append(float(weight_IO.std() / (2 / sum(weight_IO.shape)) ** 0.5))
            peak = float(weight_IO.abs().max() / weight_IO.std())
            assert (peak < 1.75) if point.initial == "uniform" else (peak > 3.5)
        assert gains == pytest.approx([1.0, *[2**0.5] * point.hidden_layers], rel=0.02)


def test_a_head_stops_after_its_patience_and_is_scored_at_its_best():
    settings = dataclasses.replace(SMALL, max_steps=4000, patience=3)
    grid = engine.train_grid(Blobs(settings), "accuracy", settings)
    assert grid.steps < 4000
    for head in grid.heads:
        scores = [point["dev_score"] for point in head["curve"]]
        best = scores.index(max(scores))  # the first of equal ones
        assert head["best_step"] == head["curve"][best]["step"]
        assert len(scores) == best + 1 + 3
    assert max(len(head["curve"]) for head in grid.heads) * 4 == grid.steps


def test_the_published_grid_has_the_eight_points_that_seed_42_draws():
    names = [point.name for point in settings_of("hear", "hear").points]
    assert names == [
        "1 hidden layer, normal, 0.0001",
        "2 hidden layers, uniform, 0.001",
        "1 hidden layer, normal, 0.001",
        "1 hidden layer, normal, 0.00032",
        "2 hidden layers, normal, 0.00032",
        "2 hidden layers, uniform, 0.00032",
        "2 hidden layers, normal, 0.0032",
        "2 hidden layers, uniform, 0.0032",
    ]
    assert len(settings_of("hear", "hear", {"grid": "all"}).points) == 16
    assert len(settings_of("hear", "hear", {"learning_rates": (1e-3,)}).points) == 4


def test_settings_of_the_other_tasks_know_nothing_of_it():
    assert "patience" not in {field.name for field in dataclasses.fields(Settings)}
    assert settings_of("superb", "KS").patience == 0 and settings_of("superb", "KS").point_names == []
    with pytest.raises(ConfigError, match="states 'best'"):
        settings_of("hear", "hear", {"states": "best"})
