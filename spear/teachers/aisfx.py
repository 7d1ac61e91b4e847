"""aiSFX (Ma and Lerch, ISMIR 2022): eight convolutions trained on the classes of nine libraries of sound effects.

    aisfx        aisfx:FOLDER

Weights come from `spear teachers install aisfx`. A frame is the fourth block's output averaged over frequency, 512
channels; the authors take its maximum over blocks of 2.3 s. There is one layer, -1. 44.1 kHz, a frame every 8192
samples (5.38 a second).

Mel spectra are those of Essentia, with which it was trained. Utterances are heard whole; where the last frame begins
in the audio it is completed with silence, as the package does. Each utterance is computed by itself, so frames do not
depend on the batch, and windows overlap by more than a frame sees, so they change nothing.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spear import compat
from spear.errors import ConfigError
from spear.teachers.base import weights_sha256
from spear.teachers.frozen import FrozenTeacher
from spear.teachers.installed import fill, on_meta, read_installed

_SAMPLE_RATE_HZ, _NUM_MELS, _FFT, _HOP, _POOLED = 44100, 96, 2048, 1024, 8
_LARGEST_VALUE = 9.457798957824707  # of all spectra that it was trained on; values are divided by it
_NUM_BLOCKS = 4


def mel_filters() -> Tensor:
    """(1025, 96) filters from 0 to 22,050 Hz, triangles on the HTK mel scale (not in Hz), each of sum 1."""
    with torch.device("cpu"):
        hz = torch.linspace(0, _SAMPLE_RATE_HZ / 2, _FFT // 2 + 1, dtype=torch.float64)
        mels = 2595 * torch.log10(1 + hz / 700)
        edges = torch.linspace(0, float(mels[-1]), _NUM_MELS + 2, dtype=torch.float64)
    rising = (mels[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    return (filters / filters.sum(0)).float()


class _Block(nn.Module):
    def __init__(self, inputs: int, channels: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.pool = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels), pool

    def forward(self, x_BCTM: Tensor) -> Tensor:
        x_BCTM = self.bn1(self.conv1(x_BCTM)).relu()
        return F.max_pool2d(self.bn2(self.conv2(x_BCTM)).relu(), self.pool)


class Aisfx(nn.Module):
    """The network without its classifiers, with the parameter names of the released checkpoint.

    Args:
        channels: of the first block; each block has twice as many as the one before.
    """

    def __init__(self, channels: int = 64):
        super().__init__()
        widths = [1, *(channels << number for number in range(_NUM_BLOCKS))]
        for number in range(_NUM_BLOCKS):
            pool = 1 if number == _NUM_BLOCKS - 1 else 2
            self.add_module(f"conv_block{number + 1}", _Block(widths[number], widths[number + 1], pool))
        self.dim = widths[-1]
        self.register_buffer("window", torch.hann_window(_FFT, periodic=False, device="cpu"), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def spectrogram(self, wave_S: Tensor) -> Tensor:
        """(T, 96) compressed energies in about [0, 1], in float32; a frame is centred on every 1024th sample."""
        count = math.ceil(len(wave_S) / _HOP)
        with compat.disabled_autocast(wave_S.device.type):
            spectrum_FT = torch.stft(wave_S, _FFT, _HOP, window=self.window, pad_mode="constant", return_complex=True)[
                :, :count
            ]
            energies_MT = self.filters.t() @ spectrum_FT.abs().square()
            return (1 + 10000 * energies_MT).log10().t() / _LARGEST_VALUE

    def forward(self, spectrogram_TM: Tensor) -> Tensor:
        """-> (T / 8, dim), T a multiple of 8 or completed to one with silence."""
        x_BCTM = F.pad(spectrogram_TM, (0, 0, 0, -len(spectrogram_TM) % _POOLED))[None, None]
        for number in range(_NUM_BLOCKS):
            x_BCTM = self.get_submodule(f"conv_block{number + 1}")(x_BCTM)
        return x_BCTM[0].mean(2).t()


def load_aisfx(path: str) -> Aisfx:
    """The network from a folder of `spear teachers install`.

    Raises:
        DataError: nothing there, or damaged. ConfigError: weights of another model.
    """
    folder, tensors = read_installed(path, "aisfx")
    first = tensors.get("conv_block1.bn1.bias")
    model = on_meta(Aisfx, len(first) if first is not None and first.dim() == 1 else 64)
    return fill(model, tensors, folder)


class AisfxTeacher(FrozenTeacher):
    """A frozen aiSFX behind the `Teacher` protocol.

    Args:
        path: folder; where `spear teachers install` puts it when empty.
        layer: -1.
        device, dtype, window_seconds: see `FrozenTeacher`; windows overlap by 2 s, more than a frame sees.

    Raises:
        DataError, ConfigError: no such model, another layer.
    """

    name, frame_rate, frame_rule = "aisfx", _SAMPLE_RATE_HZ / (_HOP * _POOLED), "aisfx-5.38hz"
    sample_rate, samples_per_frame = _SAMPLE_RATE_HZ, _HOP * _POOLED

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 60.0,
    ):
        super().__init__(layer, device, dtype, window_seconds)
        if self.layer != -1:
            raise ConfigError(f"layer {layer} of 'aisfx'", "-1: it has one", "leave @LAYER out")
        self._model = load_aisfx(str(path)).to(self.device)
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self.dim = self._model.dim

    def settings(self) -> dict:
        """Windows change nothing."""
        return {}

    def watch_states(self, final_norm: bool = False) -> list[int]:
        """The only state there is; see `FrozenTeacher.watch_states`."""
        return [self.dim]

    def watch_layers(self, layers) -> list[int]:
        """As `FrozenTeacher.watch_layers`, of the one layer."""
        if any(layer != -1 for layer in layers):
            raise ConfigError(f"layers {list(layers)} of 'aisfx'", "-1: it has one", "leave @LAYER out")
        self.dim = self._model.dim * len(layers)
        return [self._model.dim] * len(layers)

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames."""
        out_BTD = torch.zeros(len(lengths), max(frames), self.dim, device=self.device)
        for out_TD, wave_S, length, count in zip(out_BTD, waves_BS, lengths, frames):
            found_TD = self._model(self._model.spectrogram(wave_S[:length]))
            out_TD[:count] = found_TD.float().repeat(1, self.dim // self._model.dim)
        return out_BTD
