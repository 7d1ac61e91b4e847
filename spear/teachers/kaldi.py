"""Kaldi's log-mel energies with a window of one's choice, for models that were trained on those of other settings."""

import functools
import math

import torch
from torch import Tensor

from spear import compat

_WINDOW, _HOP, _FFT = 400, 160, 512
_PREEMPHASIS, _LOW_HZ, _HIGH_HZ = 0.97, 20.0, 8000.0
_FLOOR = 2.0**-23


def num_frames(num_samples: int) -> int:
    """Windows of 25 ms every 10 ms that lie whole in the audio."""
    return max(0, (num_samples - _WINDOW) // _HOP + 1)


@functools.cache
def _filters(num_mels: int) -> Tensor:
    """(257, num_mels) triangles on the mel scale; the highest frequency has no place in any."""
    with torch.device("cpu"):
        hz = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * (16000 / _FFT)
        mels, (low, high) = 1127 * torch.log1p(hz / 700), (1127 * math.log1p(f / 700) for f in (_LOW_HZ, _HIGH_HZ))
        edges = torch.linspace(low, high, num_mels + 2, dtype=torch.float64)
    rising = (mels[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[-1] = 0
    return filters.float()


def log_mel(wave_S: Tensor, num_mels: int) -> Tensor:
    """(num_frames, num_mels) with a Hann window, at 16 kHz, of samples as they are; float32 whatever autocast says."""
    with compat.disabled_autocast(wave_S.device.type):
        frames_TK = wave_S.float().unfold(0, _WINDOW, _HOP)
        frames_TK = frames_TK - frames_TK.mean(1, keepdim=True)
        before_TK = torch.cat([frames_TK[:, :1], frames_TK[:, :-1]], dim=1)
        window_K = torch.hann_window(_WINDOW, periodic=False, device=wave_S.device)
        spectrum_TF = torch.fft.rfft((frames_TK - _PREEMPHASIS * before_TK) * window_K, _FFT).abs().square()
        return (spectrum_TF @ _filters(num_mels).to(wave_S.device)).clamp(min=_FLOOR).log()
