"""Recordings and features: reading and writing audio, log-mel fbank, mixing."""

from spear.audio.augment import gain_for_snr, mean_power, mix, replacement_probability
from spear.audio.fbank import LOG_FLOOR, Fbank, FbankConfig
from spear.audio.load import AudioInfo, load_audio, num_resampled, probe, save_audio

__all__ = [
    "LOG_FLOOR",
    "AudioInfo",
    "Fbank",
    "FbankConfig",
    "gain_for_snr",
    "load_audio",
    "mean_power",
    "mix",
    "num_resampled",
    "probe",
    "replacement_probability",
    "save_audio",
]
