"""Reading and writing recordings: any rate, channel count and sample format that libsndfile knows.

A recording is mono float32 in [-1, 1] once it is in memory: channels are averaged (or one is chosen), rates converted
with soxr (HQ).
Files are decoded and resampled in blocks, and a segment is decoded alone, so memory depends on what is asked for and
not on the file. A segment equals the same samples of the whole recording.

Files that would quietly become wrong training data are refused: empty, truncated, holding more than their header says
(see `spear.audio.containers`), not audio, not finite, of an impossible rate.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from spear import fs
from spear.audio.compressed import compressed_layout
from spear.audio.containers import Layout, View, container_layout, joined, truncated
from spear.audio.levels import CLIPPED, LARGEST_PEAK
from spear.errors import ConfigError, DataError

_BLOCK_FRAMES = 1 << 18
_LARGEST_FRAMES = 1 << 60  # libsndfile's way to say that it does not know
_RATES_HZ = (1000, 768_000)
_MARGIN_SECONDS = 0.1  # decoded around a segment, so that the resampling filter sees its surroundings
_TOLERANCE_SECONDS = 0.025  # manifests round durations
_EXTRA_SECONDS = 0.1  # behind the samples; less is taken for padding
_MP3_KEPT = 0.98  # decoders leave out damaged frames


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `num_samples` counts samples of one channel at the file's own rate."""

    sample_rate_hz: int
    num_samples: int
    duration_seconds: float
    num_channels: int


def num_resampled(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Samples after conversion of the rate: rounded half up. Every part of spear counts this way."""
    return (2 * num_samples * to_hz + from_hz) // (2 * from_hz)


def resampled(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Samples of one channel at another rate, float32."""
    if from_hz == to_hz:
        return np.ascontiguousarray(samples, dtype=np.float32)
    found = soxr.resample(np.ascontiguousarray(samples, dtype=np.float32), from_hz, to_hz, quality="HQ")
    total = num_resampled(len(samples), from_hz, to_hz)
    return np.pad(found, (0, max(0, total - len(found))))[:total]


def probe(path: str | Path) -> AudioInfo:
    """Reads headers, of frames as well where those are needed to know the length; nothing is decoded.

    Raises:
        DataError: no such file, not audio, empty, shorter or longer than its header says, or of an impossible rate.
    """
    with open_sound(path, thorough=True) as sound:
        return info_of(sound)


def info_of(sound: soundfile.SoundFile) -> AudioInfo:
    """What is known of an open recording."""
    return AudioInfo(sound.samplerate, sound.frames, sound.frames / sound.samplerate, sound.channels)


def load_audio(
    path: str | Path,
    sample_rate_hz: int = 16000,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    speed: float = 1.0,
    channel: int | None = None,
    gain: float = 1.0,
) -> np.ndarray:
    """Reads a recording, or a segment of it.

    Args:
        path: the file.
        sample_rate_hz: the rate wanted.
        start_seconds: where the segment starts, rounded to a sample at the rate wanted.
        duration_seconds: its length; None: to the end. It may reach 25 ms beyond the end (manifests round durations);
            the result is then as long as the file allows.
        speed: plays the recording so many times as fast, with its pitch; start and duration are of what is then heard.
        channel: which of the file's channels, from 0; None: their mean.
        gain: what samples are multiplied by; 0 (`spear.audio.levels.CLIPPED`): they are clipped to [-1, 1] instead.

    Returns:
        (samples,) float32.

    Raises:
        DataError: no such file, not audio, empty, truncated, not finite, or a segment or channel that it does not have.
        ConfigError: negative start or duration, or a rate or speed that is not positive.
    """
    wrong = duration_seconds is not None and not 0 < duration_seconds < math.inf
    wrong = wrong or not 0 <= start_seconds < math.inf or not 0 <= gain < math.inf
    if wrong or sample_rate_hz < 1 or not 0 < speed < math.inf:
        raise ConfigError(
            f"{path} from {start_seconds} s for {duration_seconds} s at {sample_rate_hz} Hz, speed {speed}, "
            f"gain {gain}",
            "a start from 0, a positive duration, a positive rate and speed, a gain from 0",
            "correct the cut in the manifest",
        )
    start = round(start_seconds * sample_rate_hz)
    stop = None if duration_seconds is None else start + max(1, round(duration_seconds * sample_rate_hz))
    with open_sound(path) as sound:
        if channel is not None and not 0 <= channel < sound.channels:
            raise DataError(
                f"channel {channel} of {path}, which has {sound.channels}",
                f"a channel from 0 to {sound.channels - 1}",
                "correct the channel in the manifest",
            )
        rate = max(1, round(sound.samplerate * speed))
        available = num_resampled(sound.frames, rate, sample_rate_hz)
        _check_segment(path, start, stop, available, sample_rate_hz)
        stop = available if stop is None else min(stop, available)
        if rate == sample_rate_hz:
            samples = _concatenate(_decode(sound, path, start, stop - start, channel))
        else:
            samples = _resampled_segment(sound, path, start, stop, rate, sample_rate_hz, channel)
    _check_samples(samples, path)
    if gain == 1:
        return samples
    return np.clip(samples, -1.0, 1.0) if gain == CLIPPED else samples * np.float32(gain)


def _check_samples(samples: np.ndarray, path: str | Path) -> None:
    peak = max(-float(samples.min(initial=0.0)), float(samples.max(initial=0.0)))
    if not math.isfinite(peak):
        bad = int(len(samples) - np.isfinite(samples).sum())
        raise DataError(
            f"{path} holds {bad} samples that are not finite numbers", "finite samples", "convert or leave out the file"
        )
    if peak > LARGEST_PEAK:
        raise DataError(
            f"{path} has a peak of {peak:.4g}, more than integers of 32 bits have",
            "samples from -1 to 1",
            "leave out the file, or find out what wrote it",
        )


def save_audio(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Writes 16-bit FLAC or WAV, by the path's suffix, atomically. Samples beyond [-1, 1) are clipped.

    Args:
        path: ends in .flac or .wav.
        samples: (samples,) or (samples, channels), float in [-1, 1].
        sample_rate_hz: their rate.

    Raises:
        DataError: no samples, or some that are not finite.
        ConfigError: another suffix.
    """
    path = Path(path)
    samples = np.asarray(samples)
    if path.suffix.lower() not in (".flac", ".wav"):
        raise ConfigError(f"the audio path {path}", "a name that ends in .flac or .wav", "change its suffix")
    if samples.size == 0 or not np.isfinite(samples).all():
        raise DataError(
            f"an array of shape {samples.shape} to be written to {path}",
            "at least one sample, all finite",
            "check what computed the samples",
        )
    pcm = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    with fs.atomic(path) as temporary:
        soundfile.write(temporary, pcm, sample_rate_hz, subtype="PCM_16", format=path.suffix[1:].upper())


@contextmanager
def open_sound(path: str | Path, thorough: bool = False) -> Iterator[soundfile.SoundFile]:
    """An open recording whose length is known and true.

    Args:
        path: the file.
        thorough: look for more behind its end too, which reads all of a compressed file.

    Raises:
        DataError: see `probe`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file {path}", "a recording", "correct the path in the manifest, or get the file")
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        layout = container_layout(file, path, size)
        if layout == Layout():
            layout = compressed_layout(file, path, size, thorough)
        file.seek(0)
        try:
            # By number: libsndfile knows headerless formats by the name of a file, and would read a text as such.
            sound = soundfile.SoundFile(View(file, layout.parts) if layout.parts else file.fileno(), closefd=False)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise DataError(
                f"{path} ({size} bytes) cannot be read as audio: {getattr(error, 'error_string', error)}",
                "a sound file that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF, SPHERE, ...)",
                "convert it (for example: ffmpeg -i IN OUT.flac) or leave it out",
            ) from error
        with sound:
            _check_header(sound, path, layout)
            yield sound


def _check_header(sound: soundfile.SoundFile, path: Path, layout: Layout) -> None:
    frames, rate = sound.frames, sound.samplerate
    if frames == 0:
        raise DataError(f"{path} holds no samples", "at least one sample", "leave the file out or fetch it again")
    if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
        raise DataError(
            f"{path} has {rate} samples per second by its header",
            f"{_RATES_HZ[0]} to {_RATES_HZ[1]}",
            "write the file anew with its true rate (for example: sox -r RATE IN OUT.flac)",
        )
    if frames >= _LARGEST_FRAMES:
        raise DataError(f"{path} does not say how long it is", "a length", "convert it (ffmpeg -i IN OUT.flac)")
    if layout.promised and (layout.extra / layout.promised * frames / rate) > _EXTRA_SECONDS:
        there = frames / rate * (1 + layout.extra / layout.promised)
        promised = f"{frames / rate:.3f} s, {layout.promised} bytes"
        raise joined(path, promised, f"{there:.3f} s, {layout.promised + layout.extra} bytes")


def _check_segment(path: str | Path, start: int, stop: int | None, available: int, rate: int) -> None:
    if available == 0:
        raise DataError(f"{path} is shorter than one sample at {rate} Hz", "at least one sample", "leave the file out")
    tolerance = _TOLERANCE_SECONDS * rate
    if start >= available or (stop is not None and stop > available + tolerance):
        end = "the end" if stop is None else f"{stop / rate:.3f} s"
        raise DataError(
            f"a segment from {start / rate:.3f} s to {end} of {path}, which lasts {available / rate:.3f} s",
            "a segment inside the recording",
            "make the manifest again from the files that are there now",
        )


def blocks(sound: soundfile.SoundFile, path: str | Path, start: int, count: int) -> Iterator[np.ndarray]:
    """Yields (T, channels) float32: `count` frames from frame `start`, at the file's rate.

    Of GSM and G.72x, in which one cannot seek, `start` must not lie before what was read.

    Raises:
        DataError: fewer can be decoded.
    """
    done, frames = 0, sound.frames
    try:
        _go_to(sound, start)
        while done < count:
            block = sound.read(min(_BLOCK_FRAMES, count - done), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            done += len(block)
            sound.frames_read = start + done
            yield block
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = getattr(error, "error_string", error)
        raise truncated(path, f"decoding fails after {start + done} frames ({reason})", f"{frames} frames") from error
    if done < count and not (sound.format in ("MP3", "MPEG") and start + done > _MP3_KEPT * frames):
        raise truncated(path, f"{start + done} frames decoded", f"{frames} frames")


def _go_to(sound: soundfile.SoundFile, start: int) -> None:
    if sound.seekable():
        if sound.tell() != start:
            sound.seek(start)
        return
    place = getattr(sound, "frames_read", 0)
    if start < place:
        raise RuntimeError("it can only be read forwards")
    while place < start and (skipped := len(sound.read(min(_BLOCK_FRAMES, start - place)))):
        place += skipped  # decoded and left


def _decode(
    sound: soundfile.SoundFile, path: str | Path, start: int, count: int, channel: int | None = None
) -> Iterator[np.ndarray]:
    """Yields mono float32 blocks: `count` frames from frame `start` at the file's rate."""
    for block in blocks(sound, path, start, count):
        if channel is None:
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        else:
            yield block[:, channel]


def _concatenate(blocks: Iterator[np.ndarray]) -> np.ndarray:
    parts = list(blocks)
    return np.ascontiguousarray(np.concatenate(parts) if parts else np.zeros(0, np.float32), dtype=np.float32)


def _resampled_segment(
    sound: soundfile.SoundFile,
    path: str | Path,
    start: int,
    stop: int,
    from_hz: int,
    to_hz: int,
    channel: int | None = None,
) -> np.ndarray:
    """Samples `start` to `stop` (counted at `to_hz`) of the recording converted from `from_hz` to `to_hz`."""
    # Both time grids meet every `step_in` samples of the file; decoding from there keeps the filter's phase.
    divisor = math.gcd(from_hz, to_hz)
    step_in, step_out = from_hz // divisor, to_hz // divisor
    step = max(0, start - math.ceil(_MARGIN_SECONDS * to_hz)) // step_out
    first_in, first_out = step * step_in, step * step_out
    last_in = math.ceil(stop * from_hz / to_hz) + math.ceil(_MARGIN_SECONDS * from_hz)
    count = min(sound.frames, last_in) - first_in
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    decoded = 0
    parts = []
    for block in _decode(sound, path, first_in, count, channel):
        decoded += len(block)
        parts.append(stream.resample_chunk(np.ascontiguousarray(block)))
    parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    samples = _concatenate(iter(parts))
    # soxr may return one sample more or less than the rounded count at the end of the recording.
    total = num_resampled(decoded, from_hz, to_hz)
    samples = np.pad(samples, (0, max(0, total - len(samples))))[:total]
    return np.ascontiguousarray(samples[start - first_out : stop - first_out])
