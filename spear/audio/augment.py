"""Mixing recordings at a wanted signal-to-noise ratio, as SPEAR's token mixing needs it.

Powers are means over the whole utterance. The gain that gives the ratio also gives the probability with which a token
of the partner replaces one of the reference: the partner's share of the energy. Arrays are NumPy, float32 at one rate.
"""

from typing import Literal

import numpy as np

from spear.errors import ConfigError

_SILENCE_POWER = 1e-10  # -100 dB below full scale: amplifying this would only bring up rounding noise

Mode = Literal["max", "inside"]


def mean_power(samples: np.ndarray) -> float:
    """Mean of the squared samples, in double precision; 0 for no samples."""
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def gain_for_snr(reference_power: float, addition_power: float, snr_db: float) -> float:
    """The factor g for the addition so that 10 log10(P_ref / (g^2 P_mix)) = `snr_db`; 0 if the addition is silent."""
    if addition_power < _SILENCE_POWER:
        return 0.0
    return float(np.sqrt(reference_power * 10.0 ** (-snr_db / 10.0) / addition_power))


def replacement_probability(reference_power: float, addition_power: float, gain: float) -> float:
    """The addition's share of the energy, g^2 P_mix / (P_ref + g^2 P_mix + 1e-8): 0.5 at 0 dB, 0.24 at 5 dB."""
    added = gain * gain * addition_power
    return added / (reference_power + added + 1e-8)


def mix(
    reference: np.ndarray, addition: np.ndarray, snr_db: float, offset_samples: int = 0, mode: Mode = "max"
) -> tuple[np.ndarray, float]:
    """Adds a second recording to a reference.

    Args:
        reference: (samples,).
        addition: (samples,) at the same rate.
        snr_db: power of the reference over power of the addition.
        offset_samples: where in the reference the addition starts.
        mode: "max": the addition keeps its length, and the mixture is as long as both need (speech partners).
            "inside": the mixture is as long as the reference; the addition is repeated or cropped to last from the
            offset to the reference's end (noise). Its power is then that of the part that is used.

    Returns:
        the mixture, a new float32 array (not clipped to [-1, 1]), and the gain given to the addition.

    Raises:
        ConfigError: more than one dimension, a negative offset, an offset beyond the reference, or another mode.
    """
    if reference.ndim != 1 or addition.ndim != 1:
        raise ConfigError(
            f"arrays of shape {reference.shape} and {addition.shape} to mix", "one dimension", "average the channels"
        )
    beyond = offset_samples > len(reference)
    if offset_samples < 0 or beyond or mode not in ("max", "inside"):
        raise ConfigError(
            f"mode {mode!r} with offset {offset_samples} in a reference of {len(reference)} samples",
            f"mode 'max' or 'inside', offset from 0 to {len(reference)}",
            "correct the mixing settings",
        )
    if mode == "inside":
        room = len(reference) - offset_samples
        # np.resize repeats a shorter array from its start.
        addition = addition[:room] if len(addition) >= room or len(addition) == 0 else np.resize(addition, room)
    gain = gain_for_snr(mean_power(reference), mean_power(addition), snr_db)
    mixed = np.zeros(max(len(reference), offset_samples + len(addition)), dtype=np.float32)
    mixed[: len(reference)] = reference
    if gain > 0.0:
        mixed[offset_samples : offset_samples + len(addition)] += (gain * addition).astype(np.float32)
    return mixed, gain


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """A recording as it sounds in a room: convolved with an impulse response by FFT.

    The loudest sample of the response is the direct sound and moves nothing; what rings on after the recording's end is
    cut off. The mean power stays what it was.

    Args:
        samples: (samples,).
        response: (samples,) at the same rate; a silent one changes nothing.

    Returns:
        (samples,) float32.
    """
    power = mean_power(samples)
    if power < _SILENCE_POWER or not np.any(response):
        return np.asarray(samples, dtype=np.float32)
    size = 1 << (len(samples) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    direct = int(np.abs(response).argmax())
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(samples)]
    return (wet * np.sqrt(power / max(mean_power(wet), np.finfo(np.float64).tiny))).astype(np.float32)
