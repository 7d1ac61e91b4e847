"""musicnn (Pons and Serra, arXiv 1909.06654): convolutions over the shape of spectra and over rhythm, for music.

    musicnn        musicnn:FOLDER@1

Weights come from `spear teachers install musicnn`. LAYER 0 is the front end (561 channels: two filters over spectra and
three over time), 1 to 3 the three layers after it (64 each), -1, the default, all of them side by side, as the authors'
pooling sees them (753). 62.5 frames a second at 16 kHz.

The authors cut music into patches of 3 s; here utterances are heard whole, which changes only frames near the ends of
patches. Spectra are float32: the package rounds them to half precision before it multiplies them by 10,000, and what
is loud becomes infinite there. Each utterance is computed by itself, so frames do not depend on the batch, and windows
overlap by more than a frame sees, so they change nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spear import compat
from spear.errors import ConfigError
from spear.teachers.base import weights_sha256
from spear.teachers.frozen import FrozenTeacher, check_layer
from spear.teachers.installed import fill, on_meta, read_installed

_NUM_MELS, _FFT, _HOP = 96, 512, 256
_NORM_EPS = 1e-3
_MEANING = "0: the front end, 1 to 3: a layer after it, -1: all side by side"


def slaney_filters() -> Tensor:
    """(257, 96) triangular filters on Slaney's mel scale from 0 to 8000 Hz, each of area 1 in Hz."""
    with torch.device("cpu"):
        # Linear below 1000 Hz, 15 mels; logarithmic above, 27 mels for a factor of 6.4.
        step = torch.log(torch.tensor(6.4, dtype=torch.float64)) / 27
        top = 15 + torch.log(torch.tensor(8.0, dtype=torch.float64)) / step
        mels = torch.linspace(0, float(top), _NUM_MELS + 2, dtype=torch.float64)
        edges = torch.where(mels < 15, mels * (1000 / 15), 1000 * torch.exp(step * (mels - 15)))
        hz = torch.linspace(0, 8000, _FFT // 2 + 1, dtype=torch.float64)
    rising = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * (2 / (edges[2:] - edges[:-2]))).float()


class _Timbral(nn.Module):
    """A filter over spectra: how high it lies does not matter, the loudest place counts."""

    def __init__(self, channels: int, height: int):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (7, height), padding=(3, 0))
        self.norm = nn.BatchNorm2d(channels, eps=_NORM_EPS)

    def forward(self, x_1CTM: Tensor) -> Tensor:
        return self.norm(self.conv(x_1CTM).relu()).amax(3)


class _Temporal(nn.Module):
    """A filter over time, on every mel band; the loudest band counts."""

    def __init__(self, channels: int, length: int):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (length, 1))
        self.norm = nn.BatchNorm2d(channels, eps=_NORM_EPS)

    def forward(self, x_1CTM: Tensor) -> Tensor:
        length = self.conv.kernel_size[0]
        padded_1CTM = F.pad(x_1CTM, (0, 0, (length - 1) // 2, length // 2))
        return self.norm(self.conv(padded_1CTM).relu()).amax(3)


class _Middle(nn.Module):
    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, 7, padding=3)
        self.norm = nn.BatchNorm1d(channels, eps=_NORM_EPS)

    def forward(self, x_1CT: Tensor) -> Tensor:
        return self.norm(self.conv(x_1CT).relu())


class _Tagger(nn.Module):
    """The head of the package: tags of a patch of 3 s, which teachers do not need."""

    def __init__(self, channels: int, hidden: int, num_tags: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(2 * channels, eps=_NORM_EPS)
        self.hidden, self.hidden_norm = nn.Linear(2 * channels, hidden), nn.BatchNorm1d(hidden, eps=_NORM_EPS)
        self.out = nn.Linear(hidden, num_tags)

    def forward(self, x_BTC: Tensor) -> Tensor:
        pooled_BC2 = torch.stack([x_BTC.amax(1), x_BTC.mean(1)], dim=2)
        return self.out(self.hidden_norm(self.hidden(self.norm(pooled_BC2.flatten(1))).relu())).sigmoid()


class Musicnn(nn.Module):
    """The network.

    Args:
        timbral, temporal: channels of a filter over spectra, and of one over time.
        middle: channels of a layer after the front end.
        hidden, num_tags: of the tagger.
        heights: in mel bands, of the filters over spectra.
        lengths: in frames, of the filters over time.
    """

    def __init__(
        self,
        timbral: int = 204,
        temporal: int = 51,
        middle: int = 64,
        hidden: int = 200,
        num_tags: int = 50,
        heights: tuple[int, ...] = (38, 67),
        lengths: tuple[int, ...] = (128, 64, 32),
    ):
        super().__init__()
        self.input_norm = nn.BatchNorm2d(1, eps=_NORM_EPS)
        self.timbral = nn.ModuleList(_Timbral(timbral, height) for height in heights)
        self.temporal = nn.ModuleList(_Temporal(temporal, length) for length in lengths)
        front = timbral * len(heights) + temporal * len(lengths)
        self.middle = nn.ModuleList(_Middle(front if number == 0 else middle, middle) for number in range(3))
        self.dims = (front, middle, middle, middle)
        self.tagger = _Tagger(sum(self.dims), hidden, num_tags)
        self.register_buffer("window", torch.hann_window(_FFT, device="cpu"), persistent=False)
        self.register_buffer("filters", slaney_filters(), persistent=False)

    def spectrogram(self, wave_S: Tensor, count: int) -> Tensor:
        """(count, 96) compressed energies, in float32."""
        with compat.disabled_autocast(wave_S.device.type):
            wave_S = F.pad(wave_S, (0, max(0, _FFT // 2 + 1 - len(wave_S))))  # its ends are mirrored
            spectrum_FT = torch.stft(wave_S, _FFT, _HOP, window=self.window, return_complex=True).abs().square()
            return (1 + 10000 * (self.filters.t() @ spectrum_FT)).log10().t()[:count]

    def layers(self, spectrogram_TM: Tensor) -> list[Tensor]:
        """The front end and the three layers after it, each (T, channels)."""
        x_1CTM = self.input_norm(spectrogram_TM[None, None])
        x_1CT = torch.cat([filters(x_1CTM) for filters in (*self.timbral, *self.temporal)], dim=1)
        found = [x_1CT]
        for number, layer in enumerate(self.middle):
            found.append(layer(found[-1]) + (found[-1] if number else 0))
        return [each_1CT[0].t() for each_1CT in found]


def load_musicnn(path: str) -> Musicnn:
    """The network from a folder of `spear teachers install`.

    Raises:
        DataError: nothing there, or damaged. ConfigError: weights of another model.
    """
    folder, tensors = read_installed(path, "musicnn")

    def size(name: str) -> int:
        tensor = tensors.get(name)
        return len(tensor) if tensor is not None and tensor.dim() == 1 else 1

    sizes = [size(f"{name}.bias") for name in ("timbral.0.conv", "temporal.0.conv", "middle.0.conv")]
    model = on_meta(Musicnn, *sizes, size("tagger.hidden.bias"), size("tagger.out.bias"))
    return fill(model, tensors, folder)


class MusicnnTeacher(FrozenTeacher):
    """A frozen musicnn behind the `Teacher` protocol.

    Args:
        path: folder; where `spear teachers install` puts it when empty.
        layer: see the module's docstring.
        device, dtype, window_seconds: see `FrozenTeacher`; windows overlap by 2 s, more than a frame sees.

    Raises:
        DataError, ConfigError: no such model, no such layer.
    """

    name, frame_rate, frame_rule = "musicnn", 62.5, "musicnn-62.5hz"
    samples_per_frame = _HOP

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 60.0,
    ):
        super().__init__(layer, device, dtype, window_seconds)
        check_layer(self.layer, 3, self.name, _MEANING)
        self._model = load_musicnn(str(path)).to(self.device)
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self._layers = [self.layer]
        self.dim = self._width(self.layer)

    def _width(self, layer: int) -> int:
        return sum(self._model.dims) if layer == -1 else self._model.dims[layer]

    def settings(self) -> dict:
        """Windows change nothing."""
        return {}

    def watch_states(self, final_norm: bool = False) -> list[int]:
        """From now on a frame is all four layers side by side, as `FrozenTeacher.watch_states`."""
        if final_norm or self.layer != -1:
            raise ConfigError(f"layer {self.layer} or final_norm of '{self.name}'", "-1 alone", "correct the spec")
        return list(self._model.dims)

    def watch_layers(self, layers) -> list[int]:
        """As `FrozenTeacher.watch_layers`."""
        self._layers = [check_layer(layer, 3, self.name, _MEANING) for layer in layers]
        widths = [self._width(layer) for layer in self._layers]
        self.dim = sum(widths)
        return widths

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames of the layer."""
        out_BTD = torch.zeros(len(lengths), max(frames), self.dim, device=self.device)
        for out_TD, wave_S, length, count in zip(out_BTD, waves_BS, lengths, frames):
            found = self._model.layers(self._model.spectrogram(wave_S[:length], count))
            joined_TD = torch.cat([torch.cat(found, 1) if n == -1 else found[n] for n in self._layers], dim=1)
            out_TD[:count] = joined_TD.float()
        return out_BTD
