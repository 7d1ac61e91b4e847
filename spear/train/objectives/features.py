"""A teacher's frames themselves: USAD's objective (arXiv 2506.18843) on several layers, or regression of the last one.

The frames are read from stores that `spear embed` wrote, one for each layer of the teacher, or computed while the
student trains. The teacher hears the cut alone, whatever is mixed into what the student hears.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear import records
from spear.data.collate import Batch
from spear.data.features import AudioStreamConfig, FeatureStreamConfig
from spear.data.streams import StreamConfig
from spear.errors import ConfigError
from spear.fs import human_bytes
from spear.log import human_seconds
from spear.models.feature_head import LOSSES, FeatureHead, FeatureHeadSpec
from spear.seeds import numpy_rng
from spear.teachers.align import expected_frames, matched_rate, rate_ratio, resample_rows
from spear.teachers.several import load_layers
from spear.tokens.extract import embed
from spear.train.directions import effective_rank
from spear.train.objectives.base import Context, Objective, Probe, Settings

# Of the targets' standard deviation: predictions that vary less are nearly the same everywhere.
LEAST_SPREAD = 0.05
_MEASURED_SECONDS = 4


@dataclass
class FeatureSettings(Settings):
    """Settings of `features`: stored frames, unless a teacher is named.

    Attributes:
        features: directories of stored frames below the data directory, one for each layer of the teacher; without
            any, `tokens/<stream name>`.
        teachers: specs such as `wavlm:FOLDER@6`, one for each layer, of what computes the targets on the fly instead.
        teacher_sample_rate_hz: of the audio that these teachers hear.
        student_layers: the student's layers, counted from 0, that predict them; -1 is its output. Without any, layers
            at equal distances, the last the output.
        loss: `usad` (L1 and cosine), `l1` or `l2`.
        hidden_dim: of the network of two linear layers on each of them; 0: as wide as the layer.
        mask_input: predict from masked input; USAD does not.
    """

    features: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    teacher_sample_rate_hz: records.PositiveCount = 16000
    student_layers: list[int] = field(default_factory=list)
    loss: str = "usad"
    hidden_dim: records.Count = 0
    mask_input: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ConfigError(f"streams.*.loss: '{self.loss}'", "one of " + ", ".join(LOSSES), "correct streams.*.loss")
        if self.features and self.teachers:
            raise ConfigError("streams.*.features beside streams.*.teachers", "one of them", "remove the other")

    def stores(self, name: str) -> tuple[str, ...]:
        """See `Settings`."""
        return () if self.teachers else tuple(self.features) or (f"tokens/{name}",)


class FeatureObjective(Objective):
    """Regression of a teacher's frames, one or several layers of it."""

    Settings = FeatureSettings
    measures = ("l1", "cosine")

    def __init__(self, context: Context):
        super().__init__(context)
        settings, self.stream, self.device = self.settings, context.stream, context.device
        self.masks_input = settings.mask_input
        self._teachers = load_layers(settings.teachers, context.device)
        prints = {place: found for of in self._teachers for place, found in zip(of.places, of.prints)}
        for place, found in prints.items():
            rate = found["sample_rate_hz"]
            if rate != settings.teacher_sample_rate_hz:
                raise ConfigError(
                    f"streams.{self.name}: teacher {settings.teachers[place]}, which hears {rate} Hz",
                    f"teacher_sample_rate_hz = {settings.teacher_sample_rate_hz}",
                    f"set streams.{self.name}.teacher_sample_rate_hz: {rate}",
                )
        self._prints = [prints[place] for place in sorted(prints)] if prints else self.stream.teachers
        rates = sorted({float(each["frame_rate_hz"]) for each in self._prints})
        if len(rates) > 1:
            found = " and ".join(f"{rate:g}" for rate in rates)
            raise ConfigError(f"teachers of {found} Hz", "one frame rate in a stream", "make a stream of each rate")
        self.rate_hz, self.widths = rates[0], [int(each["dim"]) for each in self._prints]
        self._matched_hz = matched_rate(self.rate_hz, context.frame_rate_hz)
        if settings.student_layers and len(settings.student_layers) != len(self.widths):
            raise ConfigError(
                f"streams.{self.name}: {len(settings.student_layers)} student_layers",
                f"{len(self.widths)}, one for each layer of the teacher",
                "state as many, or none",
            )
        self.head = FeatureHeadSpec(
            tuple(self.widths), self._ratio, tuple(settings.student_layers), settings.loss, settings.hidden_dim
        )
        self._best_spread = 0.0

    def _ratio(self, student_rate_hz: float) -> tuple[int, int]:
        return rate_ratio(self._matched_hz, student_rate_hz)

    @classmethod
    def reads(cls, settings, name: str, data_dir: Path, domains: tuple[str, ...]) -> StreamConfig:
        """See `Objective`."""
        if settings.teachers:
            return AudioStreamConfig(name, "", domains, sample_rate_hz=settings.teacher_sample_rate_hz)
        paths = tuple(str(data_dir / store) for store in settings.stores(name))
        return FeatureStreamConfig(name, paths[0], domains, paths=paths)

    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """(B, T, widths side by side) float32, NaN where there is no target, at a rate that goes with the student's."""
        stored_BTW = batch.targets[self.name]
        found_BTW = self._embed(stored_BTW[:, :, 0]) if self._teachers else stored_BTW.float()
        return resample_rows(found_BTW, self.rate_hz, self._matched_hz)

    def _embed(self, waves_BS: Tensor) -> Tensor:
        """The teachers' frames of audio that is NaN after each utterance's end."""
        device, waves_BS = waves_BS.device, waves_BS.cpu()
        lens = (~waves_BS.isnan()).sum(1).tolist()
        frames = [expected_frames(length, self._prints[0]) for length in lens]
        targets_BTW = torch.full((len(lens), max(*frames, 1), sum(self.widths)), torch.nan, device=device)
        heard = [row for row, count in enumerate(frames) if count]
        waves = {row: waves_BS[row, : lens[row]].numpy() for row in heard}
        by_layer = targets_BTW.split(self.widths, dim=2)  # views
        for of in self._teachers:
            # Alone where the other cuts of a batch would change a cut's frames.
            groups = [heard] if of.teacher.batch_invariant else [[row] for row in heard]
            for group in filter(None, groups):
                for row, found_TW in zip(group, embed(of.teacher, [waves[row] for row in group])):
                    found_TW = found_TW[: targets_BTW.shape[1]].to(device)
                    for place, found_TD in zip(of.places, found_TW.split(of.widths, dim=1)):
                        by_layer[place][row, : len(found_TD)] = found_TD
        return targets_BTW

    def probe(self, head: FeatureHead, encoded, targets: Tensor, weights_B: Tensor, early: bool) -> Probe:
        """Directions that predictions use, and how much they vary, beside the targets; those of the last layer."""
        pair = head.pairs(encoded, targets, weights_B)[-1]
        if len(pair.target_MD) < 2:
            return Probe({})
        ranks = [effective_rank(pair.predicted_MD), effective_rank(pair.target_MD)]
        deviations = [float(values.var(0).mean().sqrt()) for values in (pair.predicted_MD, pair.target_MD)]
        spread = deviations[0] / max(deviations[1], 1e-12)
        row = {f"rank/{self.name}/predicted": ranks[0], f"rank/{self.name}/target": ranks[1]}
        row[f"spread/{self.name}/predicted"] = spread
        best = self._best_spread = max(self._best_spread, spread)
        warnings = []
        if deviations[1] < 1e-6:
            warnings.append(f"stream '{self.name}': the targets are the same everywhere, so there is nothing to learn")
        elif spread < LEAST_SPREAD and (not early or best > 2 * LEAST_SPREAD):
            much = f"predictions vary {spread:.2g} times as much as the targets"
            warnings.append(f"stream '{self.name}': {much}: nearly the same everywhere")
        words = f"{self.name} predicts in {ranks[0]:.1f} directions where its targets use {ranks[1]:.1f}"
        return Probe(row, words, tuple(warnings))

    def card(self) -> dict:
        """Fingerprints of the teachers of all layers."""
        return {"teachers": self._prints}

    def costs(self, audio_hours: float) -> list[str]:
        """Disk of stored frames and time of teachers on the fly, for the same audio."""
        row_bytes, rows = 2 * sum(self.widths), audio_hours * 3600 * self.rate_hz
        disk = f"{human_bytes(int(rows * row_bytes))} as float16 for {audio_hours:.3g} h of audio"
        if not self._teachers:
            there = human_bytes(self.stream.num_rows_stored * row_bytes)
            return [f"stream {self.name}: {there} of stored frames; {disk}; streams.{self.name}.teachers needs no disk"]
        rate = self._measured_rate()
        taken = f"{human_seconds(3600 * audio_hours / rate)} of its teachers on {self.device} ({rate:.3g} audio-s/s)"
        return [f"stream {self.name}: on the fly, {taken}; stored once, {disk}"]

    def _measured_rate(self) -> float:
        """Seconds of audio a second: all teachers on noise, after a warm-up."""
        samples = _MEASURED_SECONDS * self.settings.teacher_sample_rate_hz
        noise_BS = torch.from_numpy(0.1 * numpy_rng(0, "teacher_cost").standard_normal((1, samples)).astype(np.float32))
        self._embed(noise_BS.to(self.device))
        start = time.perf_counter()
        self._embed(noise_BS.to(self.device))
        return _MEASURED_SECONDS / max(time.perf_counter() - start, 1e-9)
