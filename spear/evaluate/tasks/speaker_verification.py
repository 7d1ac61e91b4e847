"""ASV: an x-vector trained with AM-softmax; cosine of trials; equal error rate. `target` is the speaker.

Training rows name training speakers; dev and test rows are the utterances of their trials (`ASV_trials.jsonl`). SUPERB
has no dev trials: it scores ten checkpoints on test and reports the lowest (the near-legacy number does so at the rate
of the clean one). The clean number selects checkpoint and learning rate on trials of held-out training speakers.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.errors import DataError
from spear.evaluate.banks import Bank, ModuleBank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.modules import SpeakerHead, additive_margin_loss
from spear.evaluate.problems import FrameProblem, Splits, padded
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task
from spear.seeds import numpy_rng

_CROP_SECONDS = 8.0


class VerificationProblem(FrameProblem):
    """Every evaluation is a variant: the legacy rule chooses among checkpoints."""

    every_evaluation = True

    def __init__(self, splits: Splits, trials: list[dict], store: FeatureStore, settings: Settings):
        super().__init__(splits, store, settings)
        names = sorted({str(row.target) for row in splits["train"]})
        self._speakers = np.asarray([names.index(str(row.target)) for row in splits["train"]])
        self._trials = {split: [t for t in trials if t["split"] == split] for split in ("dev", "test")}
        for split, chosen in self._trials.items():
            if len({trial["same"] for trial in chosen}) < 2:
                raise DataError(
                    f"{len(chosen)} {split} trials of ASV", "trials of the same and of different speakers", "add some"
                )
        self._places = {split: {row.id: place for place, row in enumerate(splits[split])} for split in ("dev", "test")}
        self._crop_frames = max(1, round(_CROP_SECONDS * self.frame_rate_hz))
        self._epoch = 0
        cut = sum(bool(getattr(row.item, "kept", ())) for rows in splits.values() for row in rows)
        self.details = {"num_speakers": len(names), "num_trials": {s: len(t) for s, t in self._trials.items()}}
        self.details["items_with_silence_cut"] = cut

    def make_bank(self) -> Bank:
        """See `Problem`."""
        settings, speakers = self.settings, int(self._speakers.max()) + 1

        def make_head() -> SpeakerHead:
            return SpeakerHead(self.dim, settings.embedding_dim, settings.pooled_dim, speakers)

        return ModuleBank(self.num_layers, make_head, settings)

    def train_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """See `Problem`."""
        self._epoch = epoch
        return super().train_batches(epoch)

    def _crop(self, place: int) -> Tensor:
        values_LTD = self.item_features("train", place)
        excess = values_LTD.shape[1] - self._crop_frames
        start = int(numpy_rng(0, "asv-crop", self._epoch, place).integers(excess + 1)) if excess > 0 else 0
        return values_LTD[:, start : start + self._crop_frames]

    def losses(self, bank: Bank, batch: np.ndarray) -> Iterable[Tensor]:
        """See `Problem`. A crop is cut from the cached frames of the whole recording."""
        features_LBTD, lens_B = padded([self._crop(int(place)) for place in batch])
        speakers_B = torch.from_numpy(self._speakers[batch])
        return (additive_margin_loss(cosines, speakers_B) for _, cosines in bank.outputs(features_LBTD, lens_B))

    def predict(self, bank: Bank, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """Cosines of the trials."""
        count = len(self.settings.heads)
        tables: list[Any] = [None] * count
        for places in self.in_batches(split):
            for head, (embeddings_BE, _) in enumerate(bank.outputs(*self.features(split, places))):
                if tables[head] is None:
                    tables[head] = torch.zeros(len(self._splits[split]), embeddings_BE.shape[1])
                tables[head][torch.from_numpy(places)] = functional.normalize(embeddings_BE, dim=1)
        sides = [[self._places[split][t[side]] for t in self._trials[split]] for side in ("first", "second")]
        scores = [(table[sides[0]] * table[sides[1]]).sum(dim=1).double().tolist() for table in tables]
        return [{"": [round(score, 7) for score in values]} for values in scores], [float("nan")] * count

    def rows(self, split: str) -> list[dict]:
        """See `Problem`: the trials."""
        return [{"id": f"{t['first']} {t['second']}", "reference": bool(t["same"])} for t in self._trials[split]]


class SpeakerVerification(Task):
    """See the module's docstring."""

    name, title, metrics, legacy = "ASV", "Speaker verification", ("eer",), "test"
    legacy_rule = "checkpoint selected on test"
    legacy_differences = (
        "the head trains without the speakers that are held out for dev (40 of VoxCeleb1)",
        "the learning rate is selected on dev trials, which the published protocol does not have",
    )

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> VerificationProblem:
        """See `Task`."""
        return VerificationProblem(splits, table.trials, store, settings)
