"""SED: which sounds begin when, by linear heads on frames; F1 of onsets within 0.2 s, error rate of segments of 1 s.

`target` is a list of [class, start, end] in seconds from the start of the row; none is a recording without events. The
loss is the binary cross-entropy of every class in every frame. Posteriors become events by a threshold, a median filter
and a least duration, all chosen on dev.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.errors import DataError
from spear.evaluate.activity import covered
from spear.evaluate.banks import Bank, LinearBank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import FrameProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.tasks.diarization import Diarization, read_segments

_THRESHOLDS, _MEDIAN_SECONDS, _LEAST_SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), (0.1, 0.3, 0.5), (0.0, 0.3)


class EventProblem(FrameProblem):
    """The classes are those of training."""

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        super().__init__(splits, store, settings)
        self._classes = sorted({name for row in splits["train"] for name, _, _ in row.target})
        if not self._classes:
            raise DataError("no event in any training recording", "some, with times", "check the targets")
        choices = itertools.product(_THRESHOLDS, _MEDIAN_SECONDS, _LEAST_SECONDS)
        self._variants = [f"threshold {t:g}, median {m:g} s, at least {d:g} s" for t, m, d in choices]
        unseen = {name for row in splits["test"] for name, _, _ in row.target} - set(self._classes)
        self.details = {"classes": self._classes, "test_labels_unseen_in_training": sorted(unseen)}

    def make_bank(self) -> Bank:
        """See `Problem`."""
        return LinearBank(self.num_layers, self.dim, len(self._classes), self.settings)

    def _labels(self, split: str, places: Sequence[int]) -> Tensor:
        """(B, T, C), 1 where an event covers the centre of a frame, -1 behind each item."""
        frames = int(self.lengths[split][places].max())
        found_BTC = np.full((len(places), frames, len(self._classes)), -1, dtype=np.float32)
        for number, place in enumerate(places):
            length = int(self.lengths[split][place])
            centres_T = (np.arange(length) + 0.5) / self.frame_rate_hz
            found_BTC[number, :length] = covered(self._splits[split][place].target, centres_T, self._classes)
        return torch.from_numpy(found_BTC)

    def _loss(self, logits_BTC: Tensor, labels_BTC: Tensor) -> Tensor:
        """Mean over frames and classes of (B,)."""
        labels_BTC = labels_BTC.to(logits_BTC.device)
        valid_BTC = labels_BTC >= 0
        losses_BTC = functional.binary_cross_entropy_with_logits(logits_BTC, labels_BTC.clamp(min=0), reduction="none")
        return (losses_BTC * valid_BTC).sum(dim=(1, 2)) / valid_BTC.sum(dim=(1, 2)).clamp(min=1)

    def losses(self, bank: Bank, batch: np.ndarray) -> Iterable[Tensor]:
        """See `Problem`."""
        labels_BTC = self._labels("train", batch).to(self.settings.device)  # once for all heads
        return (self._loss(out, labels_BTC).mean() for out in bank.outputs(*self.features("train", batch)))

    def predict(self, bank: Bank, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """Events under every threshold, filter and least duration."""
        count, total = len(self.settings.heads), len(self._splits[split])
        found = [{variant: [None] * total for variant in self._variants} for _ in range(count)]
        losses = [0.0] * count
        for places in self.in_batches(split):
            labels_BTC = self._labels(split, places)
            for head, logits_BTC in enumerate(bank.outputs(*self.features(split, places))):
                losses[head] += float(self._loss(logits_BTC, labels_BTC).sum()) / max(1, total)
                for row, place in enumerate(places):
                    posteriors_TC = logits_BTC[row, : int(self.lengths[split][place])].sigmoid().numpy()
                    for variant, events in zip(self._variants, self._events(posteriors_TC)):
                        found[head][variant][place] = events
        return found, losses

    def _events(self, posteriors_TC: np.ndarray) -> Iterator[list[list]]:
        """Those of every variant, in their order."""
        for threshold, median in itertools.product(_THRESHOLDS, _MEDIAN_SECONDS):
            width = 2 * int(median * self.frame_rate_hz / 2) + 1
            segments = read_segments(posteriors_TC, threshold, width, self.frame_rate_hz)
            for least in _LEAST_SECONDS:
                yield [
                    [self._classes[int(place)], start, end] for place, start, end in segments if end - start >= least
                ]


class EventDetection(Diarization):
    """See the module's docstring."""

    name, title, metrics, board = "SED", "Sound event detection", ("event_f1", "segment_er"), ""
    legacy = legacy_rule = ""
    legacy_differences = ()

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> EventProblem:
        """See `Task`."""
        return EventProblem(splits, store, settings)
