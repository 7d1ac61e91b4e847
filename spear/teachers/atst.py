"""ATST-Frame (Li et al., arXiv 2306.04186): a vision transformer over 40 ms patches of a 64-mel spectrogram.

    atst:atstframe_base.ckpt@-1        atst:FOLDER@10

The path is the authors' checkpoint (a .ckpt file with "state_dict"), of which the teacher's encoder is taken, or a
folder with model.safetensors. The encoder is small enough to be written here; test/parity has numbers of the authors'
code. 25 frames a second.

LAYER k is the residual stream after block k, without the final norm (0: before block 1); -1 is the encoder's output,
with it. There are positions for 10 s: longer audio is embedded in windows of that. Each utterance is heard by itself,
so frames do not depend on the batch.
"""

import torch
from torch import Tensor, nn

from spear import compat, weights
from spear.errors import ConfigError
from spear.teachers.base import weights_sha256
from spear.teachers.checkpoints import number_of, read_checkpoint
from spear.teachers.frozen import FrozenTeacher
from spear.teachers.installed import fill, on_meta
from spear.teachers.vit import Attention, FeedForward

_NUM_MELS, _PATCH, _FFT, _HOP, _EPS = 64, 4, 1024, 160, 1e-6
_LOW_HZ, _HIGH_HZ, _RANGE_DB = 60.0, 7800.0, 80.0
_LEAST, _MOST = -79.6482, 50.6842  # decibels that become -1 and 1
_HEAD_CHANNELS = 64
_EXPECTED = "an ATST-Frame checkpoint: the authors' .ckpt file with 'state_dict'"


def mel_filters() -> Tensor:
    """(513, 64) triangular filters on the HTK mel scale from 60 to 7800 Hz, with peaks of 1."""
    with torch.device("cpu"):
        hz = torch.linspace(0, 8000, _FFT // 2 + 1, dtype=torch.float64)
        low, high = (2595 * torch.log10(torch.tensor(1 + f / 700, dtype=torch.float64)) for f in (_LOW_HZ, _HIGH_HZ))
        edges = 700 * (10 ** (torch.linspace(float(low), float(high), _NUM_MELS + 2, dtype=torch.float64) / 2595) - 1)
    rising = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int, bias: bool):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=_EPS), Attention(dim, num_heads, bias)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=_EPS), FeedForward(dim, hidden)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
        return x_BTD + self.mlp(self.norm2(x_BTD))


class AtstEncoder(nn.Module):
    """The encoder, with the parameter names of the released checkpoints.

    Args:
        dim, depth, num_heads, hidden: of the transformer.
        positions: of which the first is not used.
        bias: whether the products of attention have one.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, hidden: int, positions: int, bias: bool):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"patch_embed": nn.Linear(_NUM_MELS * _PATCH, dim)})
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, dim))
        self.blocks = nn.ModuleList(_Block(dim, num_heads, hidden, bias) for _ in range(depth))
        self.norm_frame = nn.LayerNorm(dim, eps=_EPS)
        self.register_buffer("window", torch.hann_window(_FFT, device="cpu"), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def spectrogram(self, wave_S: Tensor) -> Tensor:
        """(T, 64) decibels in about [-1, 1], in float32."""
        with compat.disabled_autocast(wave_S.device.type):
            spectrum_FT = torch.stft(wave_S, _FFT, _HOP, window=self.window, return_complex=True).abs().square()
            db_MT = 10 * (self.filters.t() @ spectrum_FT).clamp(min=1e-10).log10()
            db_MT = db_MT.clamp(min=float(db_MT.max()) - _RANGE_DB)
            return ((db_MT - _LEAST) / (_MOST - _LEAST) * 2 - 1).t()

    def forward(self, spectrogram_TM: Tensor) -> Tensor:
        """-> (1, T / 4, D)."""
        count = len(spectrogram_TM) // _PATCH
        patches_TMP = spectrogram_TM[: count * _PATCH].unflatten(0, (count, _PATCH)).transpose(1, 2)
        x_BTD = self.patch_embed["patch_embed"](patches_TMP.flatten(1))[None] + self.pos_embed[:, 1 : count + 1]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm_frame(x_BTD)


class AtstTeacher(FrozenTeacher):
    """A frozen ATST-Frame encoder behind the `Teacher` protocol.

    Args:
        path: see the module's docstring.
        layer: see the module's docstring.
        device, dtype, window_seconds, overlap_seconds, part: see `FrozenTeacher`.

    Raises:
        DataError: no checkpoint there. ConfigError: not an ATST-Frame, no such layer, or windows beyond its positions.
    """

    name, frame_rate, frame_rule = "atst", 25.0, "hop640-window640"
    samples_per_frame, min_samples = _HOP * _PATCH, _HOP * _PATCH
    feed_forward = "mlp"

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 10.0,
        overlap_seconds: float | str = 1.0,
        part: str = "",
    ):
        super().__init__(layer, device, dtype, window_seconds, overlap_seconds, part)
        self._model = load_atst(str(path))
        most = self._model.pos_embed.shape[1] - 1
        if self._window_frames > most:
            raise ConfigError(
                f"window_seconds={window_seconds} of teacher 'atst'",
                f"at most {most / self.frame_rate:g}",
                "shorten it",
            )
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self._blocks, self.dim = self._model.blocks, self._model.norm_frame.normalized_shape[0]
        self._tap_layers([self.layer], "the residual stream after a block (0: before the first), or -1 for the output")
        self._model.to(self.device)

    def hear_whole(self) -> None:
        """Windows stay: the model has positions for no more."""
        self._window_frames = self._model.pos_embed.shape[1] - 1

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames of the layer."""
        out_BTD = torch.zeros(len(lengths), max(frames), self.dim, device=self.device)
        for out_TD, wave_S, length, count in zip(out_BTD, waves_BS, lengths, frames):
            spectrogram_TM = self._model.spectrogram(wave_S[:length])[: count * _PATCH]
            out_TD[:count] = self._tapped(self._model(spectrogram_TM))[0].float()
        return out_BTD


def load_atst(path: str) -> AtstEncoder:
    """An encoder in evaluation mode.

    Raises:
        DataError: nothing there, not readable, or weights that are not finite. ConfigError: weights of another model.
    """
    found, config = read_checkpoint(path, "atst", ("state_dict", "encoder"), _EXPECTED)
    anchor = "patch_embed.patch_embed.weight"
    prefixes = sorted(name.removesuffix(anchor) for name in found if name.endswith(anchor))
    prefix = next((each for each in prefixes if "teacher" in each), prefixes[0] if prefixes else None)
    known = ("patch_embed.", "pos_embed", "blocks.", "norm_frame.")
    tensors = {} if prefix is None else {
        name.removeprefix(prefix): value
        for name, value in found.items()
        if name.startswith(prefix) and name.removeprefix(prefix).startswith(known)
    }  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    patches, hidden = shapes.get(anchor, ()), shapes.get("blocks.0.mlp.fc1.weight", ())
    places = shapes.get("pos_embed", ())
    if patches[1:] != (_NUM_MELS * _PATCH,) or len(hidden) != 2 or len(places) != 3 or places[1] < 2:
        raise ConfigError(f"{path} with {weights.some(sorted(found))}", _EXPECTED, "name the teacher that fits")
    dim, depth = patches[0], sum(name.endswith("fc1.weight") for name in tensors)
    heads = number_of(config, "num_heads", max(1, dim // _HEAD_CHANNELS), 1, dim, path)
    if dim % heads:
        raise ConfigError(f"{path} of {dim} channels with {heads} heads", _EXPECTED, "check config.json")
    bias = "blocks.0.attn.qkv.bias" in tensors
    model = on_meta(AtstEncoder, dim, depth, heads, hidden[0], places[1], bias)
    return fill(model, tensors, path)
