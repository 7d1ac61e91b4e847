"""Random recording conditions: filter, small room, background noise and level.

Without them a mean of log-mel features solves every synthetic task, which would say nothing about representations.
All filtering is done by multiplication of spectra. Waves are float32 (samples,) at 16 kHz.
"""

from dataclasses import dataclass

import numpy as np

from spear.audio.synthesis.espeak import SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Conditions:
    """Ranges that one channel is drawn from (uniformly).

    Attributes:
        equaliser_db: largest gain of a random filter's bells and, per octave / 4, of its tilt.
        snr_db: lowest and highest signal-to-noise ratio.
        reverberation_seconds: longest 60 dB decay of the room.
        level_dbfs: lowest and highest root-mean-square level of the result.
    """

    equaliser_db: float = 6.0
    snr_db: tuple[float, float] = (15.0, 30.0)
    reverberation_seconds: float = 0.35
    level_dbfs: tuple[float, float] = (-38.0, -16.0)


def transform_size(num_samples: int) -> int:
    """The smallest 2^a * {1, 1.25, 1.5} >= num_samples: a fast transform without much padding."""
    power = 1 << max(int(num_samples - 1).bit_length() - 1, 2)
    return next(size for size in (power, power * 5 // 4, power * 3 // 2, power * 2) if size >= num_samples)


def random_filter(rng: np.random.Generator, frequencies_hz: np.ndarray, strength_db: float) -> np.ndarray:
    """Magnitudes of a random equaliser: tilt, two to four bells, sometimes a low-cut or high-cut of low order."""
    octaves = np.log2(np.maximum(frequencies_hz, 20.0) / 1000.0)
    gain_db = rng.uniform(-1, 1) * strength_db / 4 * octaves
    for _ in range(rng.integers(2, 5)):
        centre, width = rng.uniform(np.log2(0.1), np.log2(7.0)), rng.uniform(0.3, 1.2)
        gain_db = gain_db + rng.uniform(-1, 1) * strength_db * np.exp(-0.5 * ((octaves - centre) / width) ** 2)
    if rng.random() < 0.5:
        cut = rng.uniform(60, 300)
        gain_db = gain_db - 10 * np.log10(1 + (cut / np.maximum(frequencies_hz, 1.0)) ** 4)
    if rng.random() < 0.4:
        gain_db = gain_db - 10 * np.log10(1 + (frequencies_hz / rng.uniform(3000, 7000)) ** 6)
    return 10 ** (gain_db / 20)


def room_response(rng: np.random.Generator, longest_seconds: float) -> np.ndarray:
    """A short impulse response: the direct sound, and exponentially decaying noise 3 to 20 dB below it."""
    decay_seconds = rng.uniform(0.05, max(longest_seconds, 0.06))
    time = np.arange(int(decay_seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(time.size) * np.exp(-6.9 * time / decay_seconds)
    tail[: int(0.002 * SAMPLE_RATE_HZ)] = 0
    tail *= 10 ** (-rng.uniform(3, 20) / 20) / np.sqrt((tail**2).sum() + 1e-12)
    tail[0] = 1.0
    return tail


def coloured_noise(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Background noise of unit power: random slope (white to brown), a random filter, slow changes of level."""
    size = transform_size(num_samples)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    slope = rng.uniform(0.0, 1.0)
    spectrum *= np.maximum(frequencies, 40.0) ** -slope * random_filter(rng, frequencies, 8.0)
    noise = np.fft.irfft(spectrum, size)[:num_samples]
    knots = rng.uniform(0.5, 1.0, max(num_samples // SAMPLE_RATE_HZ, 1) + 2)
    noise = noise * np.interp(np.linspace(0, knots.size - 1, num_samples), np.arange(knots.size), knots)
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-12)


def through_channel(wave: np.ndarray, rng: np.random.Generator, conditions: Conditions) -> np.ndarray:
    """One wave through a random filter and room, with noise, at a random level: float32 (samples,) in [-1, 1]."""
    room = room_response(rng, conditions.reverberation_seconds)
    size = transform_size(wave.size + room.size)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(room, size)
    spectrum *= random_filter(rng, frequencies, conditions.equaliser_db)
    wet = np.fft.irfft(spectrum, size)[: wave.size]
    power = np.mean(wet**2)
    noise = coloured_noise(rng, wave.size) * np.sqrt(power * 10 ** (-rng.uniform(*conditions.snr_db) / 10))
    mixed = wet + noise
    target = 10 ** (rng.uniform(*conditions.level_dbfs) / 20)
    return limited(mixed * target / (np.sqrt(np.mean(mixed**2)) + 1e-12))


def limited(wave: np.ndarray) -> np.ndarray:
    """Scaled down when a sample would clip; float32."""
    peak = np.abs(wave).max(initial=0.0)
    return (wave * min(1.0, 0.98 / max(peak, 1e-9))).astype(np.float32)
