"""QbE: finds recordings that hold a spoken query by dynamic time warping; nothing is trained.

Rows have `role` query (its `target` is the term) or document (its `target` is the list of terms spoken in it, or a text
of them); split is dev, test or all. Every layer is a variant; the best on dev is reported on test.

Where only a part of an evaluation is searched, its queries have `among`, [queries with a target document, documents] of
the whole. SUPERB searches the English part of QUESST 2014 alone (138 queries, 2438 documents), and the official scorer
counts all queries, about 560, and 12492 documents: without `among` the score would be about four times the published.
"""

from typing import Any

import numpy as np
import torch

from spear.errors import DataError
from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Row, Table
from spear.evaluate.task import Task, unfit
from spear.records import PositiveCount

MIN_QUERY_FRAMES = 5
_Among = tuple[PositiveCount, PositiveCount] | None


def subsequence_costs(distances_QD: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Least mean distance of a query along any stretch of each document.

    The step pattern is the asymmetric one: each query frame is used once, while the document stands still, advances by
    one or skips one; begin and end are open.

    Args:
        distances_QD: query frames against the frames of all documents, joined.
        starts: where each document begins, ascending from 0.

    Returns:
        One cost for each document.
    """
    total = distances_QD.shape[1]
    first = np.zeros(total, dtype=bool)
    first[starts] = True
    second = np.zeros(total, dtype=bool)
    second[starts[starts + 1 < total] + 1] = True
    second |= first
    costs_D = distances_QD[0].copy()
    for row_D in distances_QD[1:]:
        one = np.concatenate([[np.inf], costs_D[:-1]])
        two = np.concatenate([[np.inf, np.inf], costs_D[:-2]])[:total]
        one[first], two[second] = np.inf, np.inf
        costs_D = row_D + np.minimum(costs_D, np.minimum(one, two))
    return np.minimum.reduceat(costs_D, starts) / len(distances_QD)


class QueryProblem:
    """Scores of every query against every document, layer by layer."""

    every_evaluation = False

    def __init__(self, table: Table, store: FeatureStore):
        self._store = store
        self._documents = {split: _role(table, split, "document") for split in ("dev", "test")}
        self._queries = {split: _role(table, split, "query") for split in ("dev", "test")}
        for split in ("dev", "test"):
            counts = len(self._queries[split]), len(self._documents[split])
            if 0 in counts:
                raise DataError(
                    f"{counts[0]} queries and {counts[1]} documents in {split} of QbE",
                    "some of both in dev and test",
                    "prepare more data",
                )
        everything = {
            row.key: row for side in (self._documents, self._queries) for rows in side.values() for row in rows
        }
        self._keys = list(everything)
        self.num_layers = store.hidden_states(self._keys[0]).shape[0]
        self._variants = [f"layer {number}" for number in range(self.num_layers)]
        short = [row.id for rows in self._queries.values() for row in rows if self._frames(row) < MIN_QUERY_FRAMES]
        self.details = {
            "num_queries": {split: len(rows) for split, rows in self._queries.items()},
            "num_documents": {split: len(rows) for split, rows in self._documents.items()},
            "queries_below_five_frames": short,
        }
        self._statistics = self._moments()

    def _frames(self, row: Row) -> int:
        return self._store.num_frames(row.key)

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation (L, D) over all frames of all queries and documents."""
        sums = squares = 0.0
        count = 0
        for key in self._keys:
            values_LTD = self._store.hidden_states(key).double()
            sums, squares = sums + values_LTD.sum(dim=1), squares + values_LTD.square().sum(dim=1)
            count += values_LTD.shape[1]
        mean_LD = sums / count
        deviation_LD = (squares / count - mean_LD.square()).clamp(min=0).sqrt().clamp(min=1e-9)
        return mean_LD.float(), deviation_LD.float()

    def _directions(self, row: Row, layer: int) -> np.ndarray:
        """Normalised frames of unit length, (T, D)."""
        values_TD = self._store.hidden_states(row.key)[layer].float()
        values_TD = (values_TD - self._statistics[0][layer]) / self._statistics[1][layer]
        return torch.nn.functional.normalize(values_TD, dim=1).numpy()

    def make_bank(self) -> None:
        """Nothing is trained."""

    def train_batches(self, epoch: int):
        """Never asked for."""
        return iter(())

    def losses(self, bank: None, batch: Any) -> list:
        """Never asked for."""
        return []

    def predict(self, bank: None, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """{document: z-normalised score} for each query and layer."""
        found = {}
        for layer, variant in enumerate(self._variants):
            documents = [self._directions(row, layer) for row in self._documents[split]]
            starts = np.cumsum([0, *(len(d) for d in documents[:-1])])
            documents_DC = np.concatenate(documents)
            found[variant] = [self._scores(row, layer, documents_DC, starts, split) for row in self._queries[split]]
        return [found], [float("nan")]

    def _scores(self, query: Row, layer: int, documents_DC: np.ndarray, starts: np.ndarray, split: str) -> dict:
        ids = [row.id for row in self._documents[split]]
        if self._frames(query) < MIN_QUERY_FRAMES:
            return dict.fromkeys(ids, 0.0)
        distances_QD = np.exp(1 - self._directions(query, layer) @ documents_DC.T) - 1
        # Each query frame's distances within a document are scaled to 0..1.
        spans = np.diff(np.append(starts, documents_DC.shape[0]))
        low_QD = np.repeat(np.minimum.reduceat(distances_QD, starts, axis=1), spans, axis=1)
        high_QD = np.repeat(np.maximum.reduceat(distances_QD, starts, axis=1), spans, axis=1)
        costs = subsequence_costs((distances_QD - low_QD) / np.maximum(high_QD - low_QD, 1e-9), starts)
        scores = (costs.mean() - costs) / max(costs.std(), 1e-9)
        return {name: round(float(score), 6) for name, score in zip(ids, scores)}

    def rows(self, split: str) -> list[dict]:
        """For each query the documents that hold its term."""
        documents = self._documents[split]
        return [
            {"id": query.id, "reference": [d.id for d in documents if query.target in _terms(d.target)]}
            | ({"among": query.extra["among"]} if query.extra.get("among") else {})
            for query in self._queries[split]
        ]


def _terms(target: str | list[str]) -> list[str]:
    return target.split() if isinstance(target, str) else target


def _role(table: Table, split: str, role: str) -> list[Row]:
    return [row for row in table.of(split) if row.extra.get("role") == role]


class QueryByExample(Task):
    """See the module's docstring."""

    name, title, metrics = "QbE", "Query by example", ("mtwv",)
    trained_splits, target_type = (), str | list[str]

    def refuse(self, target: Any) -> str | None:
        """A document may hold no term at all."""
        return unfit(target, self.target_type) if target not in (None, "") else "no term"

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> QueryProblem:
        """See `Task`."""
        table.leave_out({row.id: "no role" for row in table.rows if not row.extra.get("role")})
        queries = [row for row in table.rows if row.extra["role"] == "query"]
        table.leave_out({row.id: "a query whose term is a list" for row in queries if not isinstance(row.target, str)})
        wrong = [row for row in queries if unfit(row.extra.get("among"), _Among)]
        said = {row.id: f"among {str(row.extra['among']).strip('[]')}: not [queries, documents]" for row in wrong}
        table.leave_out(said)
        return QueryProblem(table, store)
