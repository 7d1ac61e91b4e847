"""Events with times, by predictors of frames: targets at frame centres, and events from probabilities, as HEAR does it.

A frame has the labels of the events that are on at its centre. Probabilities are smoothed by a median filter over so
many milliseconds and cut at 0.5; what stays on for the least duration, from its first centre to its last, is an event.
Filter and duration are chosen on dev, at every evaluation.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spear.evaluate.activity import covered, smoothed, stretches_on
from spear.evaluate.cache import FeatureStore
from spear.evaluate.hear.layout import Metadata
from spear.evaluate.hear.problem import HearProblem, embedded
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import PerceptronSettings
from spear.evaluate.table import Row

THRESHOLD = 0.5
_LEAST_BATCH = 1024  # as published; the small protocol's batches are of recordings
_USUAL = {"median_filter_ms": [250], "min_duration": [125, 250]}
_MOST_MS = 60_000  # of a filter or duration
_END_MS = 1e-4
"""An event is on until just behind its end: the benchmark's own allowance."""


def frame_labels(events: Sequence[tuple[str, float, float]], centres_T: np.ndarray, labels: list[str]) -> np.ndarray:
    """(T, C), 1 where an event of a label (start and end in seconds) is on at a frame's centre (in seconds)."""
    return covered(events, centres_T, labels, _END_MS / 1000)


def events_of(
    probabilities_TC: np.ndarray, centres_T: np.ndarray, labels: Sequence[str], median_ms: float, least_ms: float
) -> list[list]:
    """[label, start, end] in seconds, by start.

    Args:
        probabilities_TC: of every label in every frame.
        centres_T: of the frames, in seconds.
        median_ms: of the filter; 0: none.
        least_ms: events that are shorter are left out.
    """
    step_ms = 1000 * float(np.mean(np.diff(centres_T))) if len(centres_T) > 1 else 1.0
    active_TC = smoothed(probabilities_TC > THRESHOLD, round(median_ms / step_ms))
    found = []
    for label, active_T in zip(labels, active_TC.T):
        times = ((float(centres_T[first]), float(centres_T[stop - 1])) for first, stop in stretches_on(active_T))
        found += [[label, start, end] for start, end in times if 1000 * (end - start) >= least_ms - 1e-6]
    return sorted(found, key=lambda event: event[1])


class EventProblem(HearProblem):
    """Frames of all recordings are trained together; dev and test are read recording by recording.

    Args:
        splits: targets are lists of [label, start, end] in seconds.
    """

    def __init__(
        self, splits: Splits, store: FeatureStore, settings: PerceptronSettings, metadata: Metadata, labels: list[str]
    ):
        settings = dataclasses.replace(settings, batch_size=max(settings.batch_size, _LEAST_BATCH))
        self._first, self._rate = store.first_centre_seconds, store.frame_rate_hz
        self._lengths = {name: [store.num_frames(row.key) for row in rows] for name, rows in splits.items()}
        super().__init__(splits, store, settings, metadata, labels)
        grid = metadata.evaluation_params.get("event_postprocessing_grid")
        given = {key: _numbers(grid, key) or usual for key, usual in _USUAL.items()}
        pairs = itertools.product(given["median_filter_ms"], given["min_duration"])
        self._variants = {f"median {m:g} ms, at least {d:g} ms": (m, d) for m, d in pairs}

    def _embeddings(self, store: FeatureStore, rows: list[Row], how: str) -> Tensor:
        parts = [embedded(store.hidden_states(row.key), how) for row in rows]
        return torch.cat(parts, dim=1)

    def _centres(self, frames: int) -> np.ndarray:
        return self._first + np.arange(frames) / self._rate

    def _numbers(self, row: Row) -> list[int]:
        return [self._labels.index(label) for label, _, _ in row.target]

    def _targets(self, split: str) -> Tensor:
        pairs = zip(self._splits[split], self._lengths[split])
        found = [frame_labels(row.target, self._centres(frames), self._labels) for row, frames in pairs]
        return torch.from_numpy(np.concatenate(found))

    def _read(self, split: str, logits_NC: Tensor) -> dict[str, list[Any]]:
        parts = [part.sigmoid().numpy() for part in logits_NC.split(self._lengths[split])]
        return {
            name: [events_of(part, self._centres(len(part)), self._labels, *choice) for part in parts]
            for name, choice in self._variants.items()
        }


def _numbers(grid: Any, key: str) -> list[float]:
    values = grid.get(key) if isinstance(grid, dict) else None
    return [
        v
        for v in (values if isinstance(values, list) else [values])
        if isinstance(v, int | float) and 0 <= v <= _MOST_MS
    ]
