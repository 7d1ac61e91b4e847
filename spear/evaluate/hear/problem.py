"""A fold of a HEAR task: embeddings as the settings declare them, targets, passes over them turned into steps."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.errors import DataError
from spear.evaluate.cache import FeatureStore
from spear.evaluate.hear.layout import Metadata
from spear.evaluate.perceptrons import PerceptronBank
from spear.evaluate.problems import Splits, standardised
from spear.evaluate.protocol import PerceptronSettings
from spear.evaluate.table import Row
from spear.seeds import numpy_rng

_CHUNK = 8192  # embeddings predicted at a time
_OWN_EPOCHS = {"dcase2016_task2": 10}
"""Passes between evaluations where heareval itself names them; others are in the metadata."""


def embedded(states_LND: Tensor, how: str) -> Tensor:
    """Hidden states (L, N, D) as embeddings (1, N, D or L D), or all of them for a weighted sum (L, N, D)."""
    if how == "last":
        return states_LND[-1:]
    if how == "mean":
        return states_LND.mean(dim=0, keepdim=True)
    return states_LND.transpose(0, 1).flatten(1)[None] if how == "concat" else states_LND


class HearProblem:
    """Scenes: one embedding for each recording, the mean over time. See `Problem`.

    Args:
        splits: rows of train, dev and test; targets are lists of class numbers.
        labels: of the classes.
    """

    every_evaluation = False

    def __init__(
        self, splits: Splits, store: FeatureStore, settings: PerceptronSettings, metadata: Metadata, labels: list[str]
    ):
        self._splits, self._metadata, self._labels = splits, metadata, labels
        self.dev_accuracies: list[float] | None = None
        embeddings = {name: self._embeddings(store, rows, settings.states) for name, rows in splits.items()}
        # What batch normalisation remembers lags behind large offsets.
        self._x = standardised(embeddings) if settings.standardise else embeddings
        self._y = {name: self._targets(name) for name in splits}
        self.settings = self._in_steps(settings)
        held = {n for row in splits["train"] for n in self._numbers(row)}
        absent = sorted({labels[n] for row in splits["test"] for n in self._numbers(row) if n not in held})
        width = self._x["train"].shape[2]
        self.details = {"num_classes": len(labels), "states": settings.states, "embedding_size": width}
        self.details["test_labels_unseen_in_training"] = absent

    def _embeddings(self, store: FeatureStore, rows: list[Row], how: str) -> Tensor:
        return embedded(store.means([row.key for row in rows]), how)

    def _numbers(self, row: Row) -> list[int]:
        return row.target

    def _targets(self, split: str) -> Tensor:
        """(N,) class numbers, or (N, C) indicators."""
        rows = self._splits[split]
        if self._metadata.prediction_type == "multiclass":
            return torch.tensor([row.target[0] for row in rows])
        found_NC = torch.zeros(len(rows), len(self._labels), dtype=torch.uint8)
        for number, row in enumerate(rows):
            found_NC[number, row.target] = 1
        return found_NC

    def _in_steps(self, settings: PerceptronSettings) -> PerceptronSettings:
        own = self._metadata.evaluation_params.get("task_specific_param_grid", {})
        epochs = min([settings.max_epochs, *_whole_numbers(own, "max_epochs")])
        between = [_OWN_EPOCHS.get(self._metadata.task_name, settings.epochs_per_evaluation)]
        between = min(_whole_numbers(own, "check_val_every_n_epoch") or between)
        batches = self._num_batches(settings.batch_size)
        steps = min(settings.max_steps, epochs * batches)
        return dataclasses.replace(
            settings, max_steps=steps, eval_every=min(steps, between * batches), max_epochs=epochs,
            epochs_per_evaluation=between,
        )  # fmt: skip

    def _num_batches(self, size: int) -> int:
        # Batch normalisation needs two: one that is left over joins the batch before it.
        count = self._x["train"].shape[1]
        return max(1, count // size + (count % size > 1))

    def make_bank(self) -> PerceptronBank:
        """See `Problem`."""
        layers, count, dim = self._x["train"].shape
        if count < 2:
            raise DataError("one training embedding", "two or more: batch normalisation needs them", "add recordings")
        return PerceptronBank(layers, dim, len(self._labels), self.settings)

    def train_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Shuffled in every pass: heareval means to and does not."""
        count, size = self._x["train"].shape[1], self.settings.batch_size
        order = numpy_rng(0, "hear-batches", epoch).permutation(count)
        last = self._num_batches(size) - 1
        for number in range(last + 1):
            yield order[number * size :] if number == last else order[number * size : (number + 1) * size]

    def _outputs(self, bank: PerceptronBank, split: str, places: np.ndarray | slice) -> list[Tensor]:
        x_LND = self._x[split][:, places]
        ones = torch.ones(x_LND.shape[1], dtype=torch.int64)
        return [logits_N1C[:, 0] for logits_N1C in bank.outputs(x_LND[:, :, None], ones)]

    def _loss(self, logits_NC: Tensor, targets: Tensor) -> Tensor:
        if self._metadata.prediction_type == "multiclass":
            return functional.cross_entropy(logits_NC, targets)
        return functional.binary_cross_entropy_with_logits(logits_NC, targets.float())

    def losses(self, bank: PerceptronBank, batch: np.ndarray) -> list[Tensor]:
        """See `Problem`."""
        targets = self._y["train"][batch].to(self.settings.device)
        return [self._loss(logits_NC, targets) for logits_NC in self._outputs(bank, "train", batch)]

    def predict(self, bank: PerceptronBank, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """For scenes the log probability of every class, or its log odds."""
        count = self._x[split].shape[1]
        parts = [self._outputs(bank, split, slice(n, n + _CHUNK)) for n in range(0, count, _CHUNK)]
        found, losses = [], []
        for logits in zip(*parts):
            logits_NC = torch.cat(logits)
            losses.append(float(self._loss(logits_NC, self._y[split])))
            found.append(self._read(split, logits_NC))
        if split == "dev" and not self._metadata.use_scoring_for_early_stopping:
            self.dev_accuracies = [-loss for loss in losses]  # checkpoints are chosen by it
        return found, losses

    def _read(self, split: str, logits_NC: Tensor) -> dict[str, list[Any]]:
        if self._metadata.prediction_type == "multiclass":
            logits_NC = logits_NC.double().log_softmax(dim=1)
        return {"": logits_NC.double().round(decimals=4).tolist()}

    def rows(self, split: str) -> list[dict]:
        """See `Problem`: the numbers of the classes, or events."""
        return [{"id": row.id, "reference": row.target} for row in self._splits[split]]


def _whole_numbers(values: Any, key: str) -> list[int]:
    """Those of the lists that a metadata file has for a parameter."""
    found = values.get(key) if isinstance(values, dict) else None
    return [n for n in (found if isinstance(found, list) else [found]) if isinstance(n, int) and 0 < n < math.inf]
