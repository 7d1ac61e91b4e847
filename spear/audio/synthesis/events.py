"""Sound events made by signal processing: each class is a family whose members differ widely.

The classes come in groups that share a long-term spectrum (steady noises, impacts, tones, machines), so that what
tells them apart lies in how they move through time. Every function takes (rng, num_samples) and returns float64
(samples,) of any level; `event` normalises.
"""

from collections.abc import Callable

import numpy as np

from spear.audio.synthesis.channel import transform_size
from spear.audio.synthesis.espeak import SAMPLE_RATE_HZ

Generator = np.random.Generator


def _time(count: int) -> np.ndarray:
    return np.arange(count) / SAMPLE_RATE_HZ


def _band_noise(rng: Generator, count: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Noise with soft band edges, unit root-mean-square."""
    size = transform_size(max(count, 8))
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    shape = 1 / (1 + (low_hz / np.maximum(frequencies, 1)) ** 6) / (1 + (frequencies / high_hz) ** 6)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * np.sqrt(shape), size)[:count]
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-12)


def _slow(rng: Generator, count: int, rate_hz: float, low: float, high: float) -> np.ndarray:
    """A smooth random curve between low and high that changes about `rate_hz` times a second."""
    knots = rng.uniform(low, high, int(count / SAMPLE_RATE_HZ * rate_hz) + 3)
    return np.interp(np.linspace(0, knots.size - 1, count), np.arange(knots.size), knots)


def _sweep(frequency_hz: np.ndarray, harmonics: np.ndarray) -> np.ndarray:
    """A tone whose frequency follows a curve; `harmonics` are amplitudes of the partials 1, 2, ... below 7.6 kHz."""
    phase = 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ
    wave = np.zeros(frequency_hz.size)
    for number, amplitude in enumerate(harmonics, 1):
        if number * frequency_hz.max() < 7600:
            wave += amplitude * np.sin(number * phase)
    return wave


def _place(count: int, starts_seconds: np.ndarray, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Adds one sound from `make` at every start."""
    wave = np.zeros(count)
    for start in starts_seconds:
        first = int(start * SAMPLE_RATE_HZ)
        piece = make()[: max(count - first, 0)]
        wave[first : first + piece.size] += piece
    return wave


def _regular(rng: Generator, count: int, period_seconds: float, jitter: float) -> np.ndarray:
    """Start times with one period and some jitter (a fraction of it)."""
    seconds = count / SAMPLE_RATE_HZ
    starts = np.arange(rng.uniform(0, min(period_seconds, seconds / 2)), seconds - 0.02, period_seconds)
    return np.clip(starts + rng.normal(0, jitter * period_seconds, starts.size), 0, None)


def _scattered(rng: Generator, count: int, per_second: float) -> np.ndarray:
    """Start times of a Poisson process, at least one."""
    seconds = count / SAMPLE_RATE_HZ
    return rng.uniform(0, max(seconds - 0.05, 0.01), max(1, rng.poisson(per_second * seconds)))


def _impact(rng: Generator, modes_hz: tuple[float, float], decay_seconds: float, noise: float) -> np.ndarray:
    """A struck object: a few damped modes and a noise burst."""
    time = _time(int(min(6 * decay_seconds, 1.0) * SAMPLE_RATE_HZ) + 32)
    wave = noise * rng.standard_normal(time.size) * np.exp(-time / (0.15 * decay_seconds))
    for _ in range(rng.integers(3, 7)):
        frequency = np.exp(rng.uniform(*np.log(modes_hz)))
        wave += (
            rng.uniform(0.2, 1)
            * np.sin(2 * np.pi * frequency * time + rng.uniform(0, 6))
            * np.exp(-time / (decay_seconds * rng.uniform(0.4, 1.2)))
        )
    return wave


def _rain(rng: Generator, count: int) -> np.ndarray:
    low = rng.uniform(200, 1500)
    drops = _place(count, _scattered(rng, count, rng.uniform(20, 120)), lambda: _impact(rng, (1500, 6000), 0.004, 0.5))
    return (
        _band_noise(rng, count, low, rng.uniform(3500, 7500)) * _slow(rng, count, 2, 0.8, 1)
        + rng.uniform(0.5, 3) * drops
    )


def _wind(rng: Generator, count: int) -> np.ndarray:
    gusts = _slow(rng, count, rng.uniform(1, 3), 0.05, 1.0) ** 1.5
    centre = rng.uniform(200, 1500)
    return gusts * (_band_noise(rng, count, 60, rng.uniform(800, 5000)) + _band_noise(rng, count, centre, 1.3 * centre))


def _waves(rng: Generator, count: int) -> np.ndarray:
    period = rng.uniform(1.2, 3.0)
    swell = (0.5 + 0.5 * np.sin(2 * np.pi * _time(count) / period + rng.uniform(0, 6))) ** rng.uniform(1.5, 3)
    hiss = _band_noise(rng, count, rng.uniform(200, 1500), rng.uniform(3500, 7500))
    return swell * hiss + 0.3 * _band_noise(rng, count, 60, 600)


def _applause(rng: Generator, count: int) -> np.ndarray:
    low = rng.uniform(500, 1200)

    def clap() -> np.ndarray:
        length = int(rng.uniform(0.006, 0.025) * SAMPLE_RATE_HZ)
        return rng.uniform(0.2, 1) * _band_noise(rng, length, low, 5 * low) * np.exp(-np.arange(length) / (length / 4))

    return _place(count, _scattered(rng, count, rng.uniform(30, 150)), clap)


def _fire(rng: Generator, count: int) -> np.ndarray:
    def crack() -> np.ndarray:
        return rng.uniform(0.1, 1) ** 2 * _impact(rng, (800, 6000), rng.uniform(0.001, 0.006), 2.0)

    rumble = _band_noise(rng, count, 40, rng.uniform(400, 4000)) * _slow(rng, count, 4, 0.4, 1)
    return 4 * _place(count, _scattered(rng, count, rng.uniform(5, 25)), crack) + rng.uniform(0.1, 0.5) * rumble


def _clock(rng: Generator, count: int) -> np.ndarray:
    state = rng.bit_generator.state  # every tick of one clock is the same sound
    modes, decay = (rng.uniform(500, 1500), rng.uniform(2500, 6000)), rng.uniform(0.004, 0.03)

    def tick() -> np.ndarray:
        own = np.random.Generator(np.random.PCG64())
        own.bit_generator.state = state
        return _impact(own, modes, decay, 0.3)

    return _place(count, _regular(rng, count, rng.uniform(0.2, 0.6), 0.005), tick)


def _knock(rng: Generator, count: int) -> np.ndarray:
    low = rng.uniform(90, 500)
    decay, period = rng.uniform(0.02, 0.06), rng.uniform(0.12, 0.3)
    number = rng.integers(3, 7)
    first = rng.uniform(0, max(count / SAMPLE_RATE_HZ - number * period, 0.05))
    starts = first + np.arange(number) * period + rng.normal(0, 0.01, number)
    return _place(count, np.clip(starts, 0, None), lambda: _impact(rng, (low, 4 * low), decay, 0.8))


def _footsteps(rng: Generator, count: int) -> np.ndarray:
    low, decay = rng.uniform(60, 400), rng.uniform(0.015, 0.05)

    def step() -> np.ndarray:
        heel, toe = _impact(rng, (low, 5 * low), decay, 0.6), 0.5 * _impact(rng, (2 * low, 8 * low), decay, 1.5)
        wave = np.zeros(max(heel.size, toe.size + 1600))
        wave[: heel.size] += heel
        wave[1100 : 1100 + toe.size] += toe
        return wave

    return _place(count, _regular(rng, count, rng.uniform(0.35, 0.65), 0.04), step)


def _typing(rng: Generator, count: int) -> np.ndarray:
    low = rng.uniform(400, 2000)
    return _place(
        count,
        _scattered(rng, count, rng.uniform(5, 12)),
        lambda: rng.uniform(0.3, 1) * _impact(rng, (low, 4 * low), rng.uniform(0.003, 0.015), 0.8),
    )


def _drops(rng: Generator, count: int) -> np.ndarray:
    def drop() -> np.ndarray:
        time = _time(int(0.12 * SAMPLE_RATE_HZ))
        frequency = rng.uniform(500, 2500) * np.exp(time * rng.uniform(4, 14))  # a closing bubble rises in pitch
        return rng.uniform(0.3, 1) * np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE_HZ) * np.exp(-time / 0.02)

    return _place(count, _scattered(rng, count, rng.uniform(2, 9)), drop)


def _glass(rng: Generator, count: int) -> np.ndarray:
    start = rng.uniform(0, 0.4 * count / SAMPLE_RATE_HZ)
    spread = rng.uniform(0.05, 0.25)
    starts = np.clip(start + rng.exponential(spread, rng.integers(15, 40)), 0, count / SAMPLE_RATE_HZ - 0.02)
    shards = _place(
        count, starts, lambda: rng.uniform(0.1, 1) * _impact(rng, (1800, 7500), rng.uniform(0.01, 0.08), 0.3)
    )
    crash = _place(count, np.array([start]), lambda: 3 * _impact(rng, (600, 7000), 0.1, 2.0))
    return shards + crash


def _siren(rng: Generator, count: int) -> np.ndarray:
    low = rng.uniform(350, 900)
    cycle = _time(count) / rng.uniform(0.5, 2.5) + rng.uniform(0, 1)
    shape = 0.5 + 0.5 * np.sin(2 * np.pi * cycle) if rng.random() < 0.6 else 2 * np.abs(cycle % 1 - 0.5)
    return _sweep(low * (1 + rng.uniform(0.4, 1.2) * shape), rng.uniform(0.05, 1, 6) / np.arange(1, 7))


def _alarm(rng: Generator, count: int) -> np.ndarray:
    base, other = rng.uniform(500, 2500), rng.uniform(1.0, 1.5)
    cycle = (_time(count) / rng.uniform(0.15, 0.7) + rng.uniform(0, 1)) % 1
    tone = _sweep(np.where(cycle < 0.5, base, base * other), rng.uniform(0.02, 1, 5) / np.arange(1, 6))
    gate = (cycle < 0.5) if rng.random() < 0.6 else np.ones(count)
    return tone * np.convolve(gate, np.ones(80) / 80, "same")


def _bird(rng: Generator, count: int) -> np.ndarray:
    base = rng.uniform(1200, 3500)

    def chirp() -> np.ndarray:
        time = _time(int(rng.uniform(0.04, 0.2) * SAMPLE_RATE_HZ))
        curve = 1 + rng.uniform(-0.5, 0.6) * time / time[-1] + 0.15 * np.sin(2 * np.pi * rng.uniform(10, 40) * time)
        return _sweep(np.clip(base * curve, 300, 7000), np.array([1, 0.15])) * np.hanning(time.size)

    return _place(count, _scattered(rng, count, rng.uniform(2, 6)), chirp)


def _crickets(rng: Generator, count: int) -> np.ndarray:
    time = _time(count)
    wave = np.zeros(count)
    for _ in range(rng.integers(1, 4)):
        trill = np.clip(np.sin(2 * np.pi * rng.uniform(18, 45) * time + rng.uniform(0, 6)), 0, 1)
        group = np.sin(2 * np.pi * rng.uniform(0.8, 3) * time + rng.uniform(0, 6)) > rng.uniform(-0.8, 0.3)
        wave += rng.uniform(0.3, 1) * np.sin(2 * np.pi * rng.uniform(1800, 6000) * time) * trill * group
    return wave


def _dog(rng: Generator, count: int) -> np.ndarray:
    base = rng.uniform(180, 700)

    def bark() -> np.ndarray:
        time = _time(int(rng.uniform(0.1, 0.3) * SAMPLE_RATE_HZ))
        curve = base * (1 + 0.5 * np.sin(np.pi * time / time[-1]) * rng.uniform(0.5, 1.2))
        harmonics = rng.uniform(0.3, 1, 12) * np.exp(-(((np.arange(12) - rng.uniform(1, 4)) / 3) ** 2))
        voice = _sweep(curve, harmonics) + rng.uniform(0.1, 0.5) * _band_noise(rng, time.size, 300, 4000)
        return voice * np.exp(-time / (0.4 * time[-1])) * np.clip(time / 0.01, 0, 1)

    return _place(count, _regular(rng, count, rng.uniform(0.35, 0.9), 0.12), bark)


def _engine(rng: Generator, count: int) -> np.ndarray:
    speed = rng.uniform(25, 110) * _slow(rng, count, rng.uniform(0.5, 2), 0.8, 1.25)
    harmonics = rng.uniform(0.1, 1, 40) / np.arange(1, 41) ** rng.uniform(0.4, 1.0)
    firing = np.sin(2 * np.pi * np.cumsum(speed) / SAMPLE_RATE_HZ)
    hiss = _band_noise(rng, count, 200, rng.uniform(1500, 6000)) * (1 + rng.uniform(0, 1) * firing)
    return _sweep(speed, harmonics) + rng.uniform(0.1, 0.8) * hiss


def _helicopter(rng: Generator, count: int) -> np.ndarray:
    rate = rng.uniform(9, 22)
    beat = (0.5 + 0.5 * np.sin(2 * np.pi * rate * _time(count))) ** rng.uniform(2, 6)
    body = _band_noise(rng, count, 40, rng.uniform(300, 3000))
    whine = _sweep(np.full(count, rng.uniform(300, 1800)), np.array([1.0, 0.4])) * rng.uniform(0, 0.3)
    return body * (beat + rng.uniform(0.05, 0.3)) + whine


def _saw(rng: Generator, count: int) -> np.ndarray:
    stroke = rng.uniform(1.5, 5)
    back_and_forth = np.sin(2 * np.pi * stroke * _time(count) + rng.uniform(0, 6))
    teeth = 1 + np.sin(2 * np.pi * np.cumsum(rng.uniform(80, 250) * np.abs(back_and_forth)) / SAMPLE_RATE_HZ)
    return _band_noise(rng, count, rng.uniform(400, 2000), rng.uniform(3000, 7500)) * np.abs(back_and_forth) * teeth


CLASSES: dict[str, Callable[[Generator, int], np.ndarray]] = {
    **{"rain": _rain, "wind": _wind, "sea_waves": _waves, "applause": _applause, "fire": _fire, "saw": _saw},
    **{"clock": _clock, "knock": _knock, "footsteps": _footsteps, "typing": _typing, "water_drops": _drops},
    **{"glass": _glass, "siren": _siren, "alarm": _alarm, "bird": _bird, "crickets": _crickets, "dog": _dog},
    **{"engine": _engine, "helicopter": _helicopter},
}


def event(name: str, seconds: float, rng: Generator) -> np.ndarray:
    """One sound of a class in `CLASSES`: float64 (samples,) of unit peak."""
    wave = CLASSES[name](rng, int(seconds * SAMPLE_RATE_HZ))
    return wave / (np.abs(wave).max() + 1e-9)
