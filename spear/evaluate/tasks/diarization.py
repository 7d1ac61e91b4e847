"""SD: who of two speaks when, by an LSTM with a permutation-free loss; diarization error rate.

`target` is a list of [speaker, start, end] in seconds from the start of the row. Ten ways to read the posteriors
(thresholds 0.3 to 0.7, median filter over 1 or 11 frames): the published protocol reports the best of them on test
(the near-legacy number), the clean one chooses on dev. Checkpoints are chosen by frame accuracy on dev, as published. A
segment that covers a whole training chunk is labelled; in s3prl it is not.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.evaluate.activity import covered, smoothed, stretches_on
from spear.evaluate.banks import Bank, ModuleBank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.modules import RecurrentHead
from spear.evaluate.problems import FrameProblem, Splits, padded
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Row, Table
from spear.evaluate.task import Task, unfit
from spear.records import NotNegative

NUM_SPEAKERS = 2
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_FILTERS = (1, 11)


def frame_labels(segments: Sequence[tuple[str, float, float]], frames: int, frame_rate_hz: float) -> np.ndarray:
    """Activity of each speaker, (T, speakers of the recording), 1 where a segment covers a frame's centre."""
    centres_T = (np.arange(frames) + 0.5) / frame_rate_hz
    return covered(segments, centres_T, sorted({name for name, _, _ in segments})).astype(np.float32)


def permutation_free_loss(logits_BTS: Tensor, labels_BTS: Tensor, lens_B: Tensor) -> Tensor:
    """Mean over frames of the binary cross-entropy under the better assignment of the two outputs of each item."""
    valid_BT = (torch.arange(logits_BTS.shape[1]) < lens_B[:, None]).to(logits_BTS.device)
    labels_BTS = labels_BTS.to(logits_BTS.device)
    orders = [
        functional.binary_cross_entropy_with_logits(logits_BTS, labels, reduction="none").mean(dim=2)
        for labels in (labels_BTS, labels_BTS.flip(2))
    ]
    sums_B = torch.stack([(losses_BT * valid_BT).sum(dim=1) for losses_BT in orders]).min(dim=0).values
    return sums_B.sum() / valid_BT.sum()


def frame_accuracy(logits_TS: Tensor, labels_TS: Tensor) -> float:
    """Share of right decisions at threshold 0.5, under the assignment of the two outputs that has the lower loss."""
    orders = (labels_TS, labels_TS.flip(1))
    losses = [functional.binary_cross_entropy_with_logits(logits_TS, order) for order in orders]
    better_TS = orders[int(losses[1] < losses[0])]
    return float(((logits_TS > 0) == (better_TS > 0.5)).float().mean())


def read_segments(posteriors_TS: np.ndarray, threshold: float, width: int, frame_rate_hz: float) -> list[list]:
    """[speaker, start, end] where the median-filtered decisions are on."""
    active_TS = smoothed(posteriors_TS > threshold, width, beyond="constant")
    return [
        [str(speaker), round(start / frame_rate_hz, 4), round(end / frame_rate_hz, 4)]
        for speaker, active_T in enumerate(active_TS.T)
        for start, end in stretches_on(active_T)
    ]


class DiarizationProblem(FrameProblem):
    """Training in chunks; dev and test whole."""

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        super().__init__(splits, store, settings)
        self._variants = [f"threshold {t:g}, median {w}" for t in _THRESHOLDS for w in _FILTERS]
        size = settings.chunk_frames
        self._chunks = [
            (place, start) for place, count in enumerate(self.lengths["train"]) for start in range(0, count, size)
        ]
        crowded = [r.id for rows in splits.values() for r in rows if len(_names(r)) > NUM_SPEAKERS]
        self.details = {"train_chunks": len(self._chunks), "items_of_more_than_two_speakers": len(crowded)}

    def make_bank(self) -> Bank:
        """See `Problem`."""
        settings = self.settings

        def make_head() -> RecurrentHead:
            sizes = (settings.rnn_dim, settings.rnn_layers, NUM_SPEAKERS)
            return RecurrentHead(self.dim, 0, *sizes, bidirectional=False)

        return ModuleBank(self.num_layers, make_head, settings)

    def train_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Batches of numbers of chunks."""
        size = self.settings.chunk_frames
        lengths = np.asarray([min(size, self.lengths["train"][place] - start) for place, start in self._chunks])
        return self.batches_of(lengths, epoch)

    def _labels(self, split: str, place: int) -> np.ndarray:
        """(T, 2): of more speakers the two who speak most."""
        row = self._splits[split][place]
        labels = frame_labels(row.target, int(self.lengths[split][place]), self.frame_rate_hz)
        kept = np.sort(np.argsort(-labels.sum(axis=0), kind="stable")[:NUM_SPEAKERS])
        return np.pad(labels[:, kept], ((0, 0), (0, NUM_SPEAKERS - len(kept))))

    def losses(self, bank: Bank, batch: np.ndarray) -> Iterable[Tensor]:
        """See `Problem`."""
        features, labels = [], []
        for number in batch:
            place, start = self._chunks[number]
            span = slice(start, start + self.settings.chunk_frames)
            features.append(self.item_features("train", place)[:, span])
            labels.append(torch.from_numpy(self._labels("train", place)[span]))
        features_LBTD, lens_B = padded(features)
        # On the heads' device once for all of them.
        labels_BTS = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True).to(self.settings.device)
        return (permutation_free_loss(out, labels_BTS, lens_B) for out in bank.outputs(features_LBTD, lens_B))

    def predict(self, bank: Bank, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """Segments under every threshold and filter."""
        count, total = len(self.settings.heads), len(self._splits[split])
        found = [{variant: [None] * total for variant in self._variants} for _ in range(count)]
        losses, accuracies = [0.0] * count, [0.0] * count
        for places in self.in_batches(split):
            features_LBTD, lens_B = self.features(split, places)
            labels = [torch.from_numpy(self._labels(split, int(place))) for place in places]
            labels_BTS = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
            for head, logits_BTS in enumerate(bank.outputs(features_LBTD, lens_B)):
                losses[head] += float(permutation_free_loss(logits_BTS, labels_BTS, lens_B)) * len(places)
                for row, place in enumerate(places):
                    values_TS = logits_BTS[row, : int(lens_B[row])]
                    accuracies[head] += frame_accuracy(values_TS, labels[row]) / max(1, total)
                    self._read(found[head], values_TS.sigmoid().numpy(), split, int(place))
        if split == "dev":
            self.dev_accuracies = accuracies
        return found, [loss / max(1, total) for loss in losses]

    def _read(self, found: dict[str, list], posteriors_TS: np.ndarray, split: str, place: int) -> None:
        choices = ((t, w) for t in _THRESHOLDS for w in _FILTERS)
        for variant, (threshold, width) in zip(self._variants, choices):
            found[variant][place] = read_segments(posteriors_TS, threshold, width, self.frame_rate_hz)


def _names(row: Row) -> set[str]:
    return {name for name, _, _ in row.target}


class Diarization(Task):
    """See the module's docstring."""

    name, title, metrics, legacy = "SD", "Speaker diarization", ("der",), "test"
    legacy_rule = "threshold and filter selected on test"
    legacy_differences = (
        "recordings of dev and test are read whole, not in chunks of 2000 frames",
        "a segment that covers a whole training chunk is labelled",
    )
    target_type = list[tuple[str, NotNegative, NotNegative]]

    def refuse(self, target: Any) -> str | None:
        """Segments must be [speaker, start, end] with start before end; silence (no segment) is allowed."""
        if not isinstance(target, list):
            return "no segments"
        reason = unfit(target, self.target_type)
        ends = reason or all(start < end for _, start, end in target)
        return reason or (None if ends else "a segment that does not end after it starts")

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> DiarizationProblem:
        """See `Task`."""
        return DiarizationProblem(splits, store, settings)
