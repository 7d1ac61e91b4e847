"""Recordings and features: reading and writing audio, log-mel fbank, mixing."""

from spear.audio.fbank import LOG_FLOOR, Fbank, FbankConfig
from spear.audio.load import AudioInfo, load_audio, num_resampled, probe, save_audio

__all__ = ["LOG_FLOOR", "AudioInfo", "Fbank", "FbankConfig", "load_audio", "num_resampled", "probe", "save_audio"]
