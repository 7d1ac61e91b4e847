"""Tasks of SUPERB at their published size on random features: what trains on frames, for `spear bench evaluate`.

The numbers of utterances are those of the corpora; mean lengths are rounded. Only a few rows are made, enough for
batches of the published size with the published number of outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spear.audio import save_audio
from spear.evaluate.problems import Problem
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Row, Table
from spear.evaluate.tasks import TASKS
from spear.manifest import Item
from spear.seeds import numpy_rng, torch_rng

_RATE_HZ, _ROWS = 16000, 64


@dataclass(frozen=True)
class FrameCorpus:
    """Utterances of train, dev and test, their mean seconds in training and evaluation, and outputs of the head.

    `outputs` are symbols of PR, ASR and SF, blank and end included, and speakers of ASV. Training items
    of ASV are cut to 8 s.
    """

    train: int
    dev: int
    test: int
    train_seconds: float
    eval_seconds: float
    outputs: int


# LibriSpeech (100 hours), Audio SNIPS, VoxCeleb1, Libri2Mix (100 hours; its longer mixtures for SD, the shorter for SS)
FRAME_CORPORA = {
    "PR": FrameCorpus(28_539, 2_703, 2_620, 12.7, 7.3, 72),
    "ASR": FrameCorpus(28_539, 2_703, 2_620, 12.7, 7.3, 29),
    "SF": FrameCorpus(104_672, 2_800, 2_800, 2.7, 2.7, 107),
    "ASV": FrameCorpus(148_642, 0, 4_874, 8.0, 8.3, 1_211),
    "SD": FrameCorpus(13_900, 3_000, 3_000, 15.0, 13.0, 2),
    "SS": FrameCorpus(13_900, 1_000, 3_000, 11.0, 9.0, 2),
}


class RandomStore:
    """Features of normal random numbers at one frame rate; every item's are a stretch of the same ones."""

    def __init__(self, layers: int, dim: int, frame_rate_hz: float, seconds: dict[str, float]):
        self.frame_rate_hz, self._seconds = frame_rate_hz, seconds
        most = max(map(self.num_frames, seconds))
        values_LTD = torch.randn(layers, most, dim, generator=torch_rng(0, "bench-features"))
        self._values_LTD = values_LTD.to(torch.bfloat16)

    def num_frames(self, key: str) -> int:
        """See `FeatureStore`."""
        return max(1, round(self._seconds[key] * self.frame_rate_hz))

    def hidden_states(self, key: str) -> Tensor:
        """See `FeatureStore`."""
        return self._values_LTD[:, : self.num_frames(key)]


def frame_problem(
    task: str, settings: Settings, layers: int, dim: int, frame_rate_hz: float, most_seconds: float, directory: Path
) -> Problem:
    """The problem of a task on random features.

    Args:
        most_seconds: utterances are cut to this.
        directory: receives the recording that SS reads.
    """
    corpus = FRAME_CORPORA[task]
    seconds = min(corpus.train_seconds, most_seconds)
    path = directory / "noise.wav"
    if not path.exists():
        noise = numpy_rng(0, "bench-noise").standard_normal(round(30 * _RATE_HZ)).astype(np.float32)
        save_audio(path, 0.05 * noise, _RATE_HZ)
    counts = {"train": max(_ROWS, corpus.outputs if task == "ASV" else 0), "dev": 4, "test": 4}
    rows = [
        _row(f"{split}-{number}", split, _target(task, number, seconds, corpus), path, seconds)
        for split, count in counts.items()
        for number in range(count)
    ]
    trials = [
        {"split": split, "first": f"{split}-0", "second": f"{split}-{other}", "same": other == 1}
        for split in ("dev", "test")
        for other in (1, 2)
    ]
    store: Any = RandomStore(layers, dim, frame_rate_hz, {row.key: seconds for row in rows})
    return TASKS[task].problems(Table(rows, [], trials if task == "ASV" else []), store, settings)[""]


def _row(name: str, split: str, target: Any, path: Path, seconds: float) -> Row:
    samples = round(seconds * _RATE_HZ)
    item = Item(
        id=name,
        path=path,
        start_seconds=0.0,
        duration_seconds=seconds,
        num_samples=samples,
        domain="speech",
        kind="speech",
    )
    return Row(name, split, item, target, name)


def _target(task: str, number: int, seconds: float, corpus: FrameCorpus) -> Any:
    """Of usual density: 10 phones or 14 letters a second; together the rows have every symbol."""
    if task == "ASV":
        return f"speaker {number % corpus.outputs}"
    if task == "SD":
        return [["a", 0.0, 0.7 * seconds], ["b", 0.3 * seconds, seconds]]
    if task == "SS":
        return ["noise.wav", "noise.wav"]
    if task == "PR":
        return [f"P{(number + place) % (corpus.outputs - 2)}" for place in range(max(1, round(10 * seconds)))]
    letters = _words(number, round(14 * seconds))
    if task == "ASR":
        return letters
    half = len(letters) // 2
    return [[None, letters[:half] or "A"], [f"slot{number % 39}", letters[half:] or "B"]]


def _words(number: int, count: int) -> str:
    letters: Sequence[str] = [chr(ord("A") + (number + place) % 26) for place in range(max(2, count))]
    return " ".join("".join(letters[start : start + 5]) for start in range(0, len(letters), 5))
