"""Single notes of several timbres, by adding partials: their pitch is known, their sound varies widely."""

import numpy as np

from spear.audio.synthesis.channel import coloured_noise, random_filter
from spear.audio.synthesis.espeak import SAMPLE_RATE_HZ

TIMBRES = ("organ", "piano", "pluck", "clarinet", "brass", "strings", "flute", "bell")
LOWEST_MIDI, NUM_PITCHES = 40, 24
_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def note_name(midi: int) -> str:
    """60 -> 'C4'."""
    return f"{_NAMES[midi % 12]}{midi // 12 - 1}"


def _partials(timbre: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequency ratios, amplitudes and decay rates (1/s) of the partials of a note."""
    number = np.arange(1, count + 1, dtype=np.float64)
    ratios, decay = number.copy(), np.zeros(count)
    if timbre == "organ":
        stops = np.zeros(count)
        for stop in (1, 2, 3, 4, 6, 8):
            if stop <= count:
                stops[stop - 1] = rng.uniform(0.1, 1.0)
        amplitudes = stops
    elif timbre == "piano":
        ratios = number * np.sqrt(1 + rng.uniform(1e-4, 6e-4) * number**2)
        amplitudes, decay = number ** -rng.uniform(0.8, 1.6), rng.uniform(0.8, 2.0) + 0.25 * number
    elif timbre == "pluck":
        position = rng.uniform(0.1, 0.45)
        amplitudes = np.abs(np.sin(np.pi * number * position)) / number ** rng.uniform(0.5, 1.2)
        decay = rng.uniform(2.0, 5.0) + rng.uniform(0.3, 0.9) * number
    elif timbre == "clarinet":
        amplitudes = np.where(number % 2 == 1, 1.0, rng.uniform(0.02, 0.2)) / number ** rng.uniform(0.6, 1.2)
    elif timbre == "brass":
        amplitudes = np.exp(-(((number - rng.uniform(2, 6)) / rng.uniform(3, 8)) ** 2)) + 0.1 / number
    elif timbre == "strings":
        amplitudes = number ** -rng.uniform(0.7, 1.2) * (1 + 0.6 * np.sin(number * rng.uniform(0.5, 3)))
    elif timbre == "flute":
        amplitudes = np.exp(-rng.uniform(0.6, 1.6) * (number - 1))
    else:  # bell: a hum note and a minor third beside the strike note, as real bells have
        ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.1, 5.4])
        amplitudes = rng.uniform(0.2, 1.0, ratios.size) * np.array([0.6, 1, 0.8, 0.5, 0.9, 0.4, 0.3, 0.4, 0.2, 0.1])
        decay = rng.uniform(0.8, 2.5) * (0.5 + 0.6 * ratios)
    return ratios, np.abs(amplitudes), decay


def note(midi: int, timbre: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """One note, float64 (samples,) of unit peak, within 30 cents of its pitch."""
    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    fundamental = 440.0 * 2 ** ((midi - 69 + rng.uniform(-0.3, 0.3)) / 12)
    ratios, amplitudes, decay = _partials(timbre, int(7200 / fundamental), rng)
    keep = ratios * fundamental < 7600
    ratios, amplitudes, decay = ratios[keep], amplitudes[keep], decay[keep]
    # Body and microphone: every partial is a little louder or softer, so that no template of partials fits a pitch.
    amplitudes = amplitudes * random_filter(rng, ratios * fundamental, 8.0) * 10 ** rng.normal(0, 0.3, ratios.size)
    depth = rng.uniform(0.0, 0.008) if timbre in ("strings", "flute", "brass", "clarinet") else 0.0
    speed, lag = rng.uniform(4, 7), rng.uniform(0, 2 * np.pi)
    vibrato = depth * np.clip(time / 0.3, 0, 1) * np.sin(2 * np.pi * speed * time + lag)
    phase = 2 * np.pi * fundamental * np.cumsum(1 + vibrato) / SAMPLE_RATE_HZ
    wave = np.zeros(time.size, np.float32)
    start = rng.uniform(0, 2 * np.pi, ratios.size)
    for ratio, amplitude, rate, offset in zip(ratios, amplitudes, decay, start):
        if amplitude > 1e-3 * amplitudes.max():
            partial = np.sin((ratio * phase + offset).astype(np.float32))
            wave += np.float32(amplitude) * (partial * np.exp(-np.float32(rate) * time.astype(np.float32)))
    if timbre == "flute":
        breath = coloured_noise(rng, time.size)
        wave = wave + rng.uniform(0.02, 0.15) * np.abs(wave).max() * breath
    attack = rng.uniform(0.002, 0.012) if decay.any() else rng.uniform(0.02, 0.12)
    release = min(0.25 * seconds, rng.uniform(0.05, 0.3))
    wave = wave * np.clip(time / attack, 0, 1) * np.clip((time[-1] - time) / release, 0, 1)
    before = np.zeros(int(rng.uniform(0, 0.3) * SAMPLE_RATE_HZ))
    wave = np.concatenate([before, wave])
    return wave / (np.abs(wave).max() + 1e-9)
