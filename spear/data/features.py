"""Streams of vectors: stored frames of a teacher, or the audio that a teacher hears while the student trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spear.audio.load import load_audio
from spear.data.cuts import SAMPLE_RATE_HZ, Cut
from spear.data.streams import StreamConfig, TargetStream
from spear.errors import CardError
from spear.tokens.features import open_features


@dataclass(frozen=True)
class FeatureStreamConfig(StreamConfig):
    """A stream of stored frames.

    Args:
        paths: directories that `spear embed` wrote, one for each layer of the teacher; rows are put side by side.
    """

    paths: tuple[str, ...] = ()

    def open(self, paths: Sequence[str] = ()) -> "FeatureStream":
        """Opens the stores."""
        return FeatureStream(self)


class FeatureStream(TargetStream):
    """Frames of one or more layers of a teacher, (rows, widths one after the other) float16; NaN where there are none.

    Raises:
        DataError: a store is missing. CardError: one that holds something else, or another frame rate than the first.
    """

    what, nothing = "features", np.nan

    def __init__(self, config: FeatureStreamConfig):
        self.config, self.name = config, config.name
        opened = [open_features(path) for path in config.paths]
        self._stores = [store for store, _ in opened]
        self.teachers = [card.teacher for _, card in opened]
        self.widths = [store.width for store in self._stores]
        rates = [float(teacher["frame_rate_hz"]) for teacher in self.teachers]
        if len(set(rates)) > 1:
            listed = ", ".join(f"{Path(path).name} {rate:g} Hz" for path, rate in zip(config.paths, rates))
            raise CardError(f"features of {listed}", "one frame rate in a stream", "make a stream of each rate")
        self.frame_rate_hz = rates[0]
        self.row_bytes = 2 * sum(self.widths)

    @property
    def num_rows_stored(self) -> int:
        """Rows on the disk, of one layer."""
        return self._stores[0].num_rows

    def has_keys(self, keys: np.ndarray, source: int) -> np.ndarray:
        """See `TargetStream`; all layers must be there."""
        return np.logical_and.reduce([store.contains_keys(keys) for store in self._stores])

    def empty(self, num_samples: int) -> np.ndarray:
        """See `TargetStream`; float16."""
        return np.full((self.num_rows(num_samples), sum(self.widths)), self.nothing, dtype=np.float16)

    def read(self, cut: Cut) -> np.ndarray:
        """See `TargetStream`; float16."""
        rows_TW = self.empty(cut.num_samples)
        if cut.domain in self.config.domains and all(cut.id in store for store in self._stores):
            start = 0
            for store, width in zip(self._stores, self.widths):
                found_TD = store.read(cut.id)[: len(rows_TW)]
                rows_TW[: len(found_TD), start : start + width] = found_TD
                start += width
        return rows_TW


@dataclass(frozen=True)
class AudioStreamConfig(StreamConfig):
    """A stream of audio for a teacher that computes targets on the fly.

    Args:
        sample_rate_hz: that the teacher hears.
    """

    sample_rate_hz: int = SAMPLE_RATE_HZ

    def open(self, paths: Sequence[str] = ()) -> "AudioStream":
        """Makes the stream."""
        return AudioStream(self)


class AudioStream(TargetStream):
    """Samples of the cuts themselves, whatever is mixed into them, (samples, 1) float32; NaN after their ends."""

    what, nothing, row_bytes = "audio", np.nan, 4

    def __init__(self, config: AudioStreamConfig):
        self.config, self.name, self.frame_rate_hz = config, config.name, float(config.sample_rate_hz)

    def has_keys(self, keys: np.ndarray, source: int) -> np.ndarray:
        """See `TargetStream`: there is audio for every cut."""
        return np.ones(len(keys), dtype=bool)

    def empty(self, num_samples: int) -> np.ndarray:
        """See `TargetStream`; float32."""
        return np.full((self.num_rows(num_samples), 1), self.nothing, dtype=np.float32)

    def read(self, cut: Cut) -> np.ndarray:
        """See `TargetStream`; float32."""
        rows_S1 = self.empty(cut.num_samples)
        if cut.domain in self.config.domains:
            segment = cut.start_seconds, cut.duration_seconds, cut.speed, cut.channel, cut.gain
            wave = load_audio(cut.path, self.config.sample_rate_hz, *segment)[: len(rows_S1)]
            rows_S1[: len(wave), 0] = wave
        return rows_S1
