"""Retrieval: recordings of the same label, by the cosine of time means; nothing is trained.

Every test recording is a query among all others of test: which have its label? `map_at_r` looks at the R nearest, R
being how many have it, `recall_at_1` at the nearest. What has one group with the query is not among the others. Each
layer is a variant, and so is the mean of their cosines; dev chooses. Where the settings say so, the dimensions are
standardised on the training recordings, whose labels do not matter.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import Splits, pooled_states
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task, group_of

ALL_LAYERS = "all layers"


class RetrievalProblem:
    """Labels of the nearest others of every recording of dev and test."""

    every_evaluation, dev_accuracies = False, None

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        self._splits, self._states = splits, pooled_states(splits, store, settings.standardise)
        labels = [row.target for row in splits["test"]]
        alone = [row.id for row in splits["test"] if labels.count(row.target) < 2]
        self.details = {"num_queries": len(labels) - len(alone), "labels": len(set(labels)), "queries_alone": alone}

    def make_bank(self) -> None:
        """Nothing is trained."""

    def train_batches(self, epoch: int) -> Iterator[Any]:
        """Never asked for."""
        return iter(())

    def losses(self, bank: None, batch: Any) -> Iterable[torch.Tensor]:
        """Never asked for."""
        return []

    def predict(self, bank: None, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """Labels of the R nearest, for each query and layer."""
        directions_LND = functional.normalize(self._states[split], dim=2)
        _, groups = np.unique([str(group_of(row)) for row in self._splits[split]], return_inverse=True)
        labels = np.asarray([str(row.target) for row in self._splits[split]], dtype=object)
        found: dict[str, list] = {f"layer {layer}": [] for layer in range(len(directions_LND))} | {ALL_LAYERS: []}
        for query in range(len(labels)):
            others = np.flatnonzero(groups != groups[query])
            count = int((labels[others] == labels[query]).sum())
            cosines_LN = torch.einsum("ld,lnd->ln", directions_LND[:, query], directions_LND[:, others]).numpy()
            for variant, cosines_N in zip(found, [*cosines_LN, cosines_LN.mean(axis=0)]):
                nearest = others[np.argsort(-cosines_N, kind="stable")[:count]]
                found[variant].append(labels[nearest].tolist())
        return [found], [float("nan")]

    def rows(self, split: str) -> list[dict]:
        """See `Problem`."""
        return [{"id": row.id, "reference": str(row.target)} for row in self._splits[split]]


class RetrievalTask(Task):
    """See the module's docstring."""

    metrics, needs_frames, settings_key = ("map_at_r", "recall_at_1"), False, "retrieval"

    def __init__(self, name: str, title: str):
        self.name, self.title = name, title

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> RetrievalProblem:
        """See `Task`."""
        return RetrievalProblem(splits, store, settings)
