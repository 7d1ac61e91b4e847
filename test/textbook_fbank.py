"""What the features are without rounding: the definition written out in double precision."""

import numpy as np


def fbank(wave: np.ndarray) -> np.ndarray:
    """Kaldi's fbank, frame by frame in double precision."""
    length, frames = len(wave), (len(wave) + 80) // 160
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    mel = lambda hz: 1127 * np.log(1 + hz / 700)  # noqa: E731
    edges = np.linspace(mel(20), mel(7600), 130)
    bins = mel(np.arange(256) * 31.25)[:, None]
    weights = np.minimum((bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]).clip(0)
    rows = []
    for frame in range(frames):
        phase = np.arange(160 * frame - 120, 160 * frame + 280) % (2 * length)
        samples = wave.astype(np.float64)[np.where(phase < length, phase, 2 * length - 1 - phase)]
        samples = samples - samples.mean()
        samples = samples - 0.97 * np.concatenate([samples[:1], samples[:-1]])
        power = np.abs(np.fft.rfft(samples * window, 512))[:256] ** 2
        rows.append(np.log(np.maximum(power @ weights, 2.0**-23)))
    return np.array(rows).reshape(frames, 128)
