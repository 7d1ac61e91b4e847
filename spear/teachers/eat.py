"""EAT (Chen et al., arXiv 2401.03497): a transformer over patches of a spectrogram, 160 ms by 16 mel bands.

    eat:EAT-base_epoch30_pt.pt@-1        eat:FOLDER@9,bands=concat

The path is the authors' checkpoint (a .pt file with "model"), or a folder with model.safetensors. Names of weights may
begin with "model." as those on the hub do. The encoder is small enough to be written here; test/parity has numbers of
the authors' code. Each time has 8 patches, one above the other, which are averaged (768 channels), or with bands=concat
put side by side (6,144); the token of the whole clip is left out. 6.25 frames a second: those that lie whole in the
audio, so 0.175 s have one. The authors pad clips to 10 s; here an utterance is heard as it is, by itself.

LAYER k is the residual stream after block k (0: what enters block 1), -1 the encoder's output, which is that of the
last block.
"""

import torch
from torch import Tensor, nn

from spear import weights
from spear.errors import ConfigError
from spear.teachers import kaldi
from spear.teachers.base import weights_sha256
from spear.teachers.checkpoints import number_of, read_checkpoint
from spear.teachers.frozen import FrozenTeacher
from spear.teachers.installed import fill, on_meta
from spear.teachers.vit import Attention, FeedForward

_PATCH, _NUM_MELS, _BANDS, _HOP = 16, 128, 8, 160
_MEAN, _DEVIATION, _EPS = -4.268, 4.569, 1e-6  # of AudioSet; values are divided by twice the second
_HEAD_CHANNELS = 64
_EXPECTED = "an EAT checkpoint: the authors' .pt file with 'model'"
_FRONT = "modality_encoders.IMAGE."


class _Block(nn.Module):
    """A layer with norms behind the sums."""

    def __init__(self, dim: int, num_heads: int, hidden: int):
        super().__init__()
        self.attn, self.norm1 = Attention(dim, num_heads), nn.LayerNorm(dim, eps=_EPS)
        self.mlp, self.norm2 = FeedForward(dim, hidden), nn.LayerNorm(dim, eps=_EPS)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = self.norm1(x_BTD + self.attn(x_BTD))
        return self.norm2(x_BTD + self.mlp(x_BTD))


class EatEncoder(nn.Module):
    """The encoder.

    Args:
        dim, depth, num_heads, hidden: of the transformer.
        positions: patches for which there are positions: 8 for each 160 ms.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, hidden: int, positions: int):
        super().__init__()
        self.patches = nn.Conv2d(1, dim, _PATCH, _PATCH)
        self.positions = nn.Parameter(torch.zeros(1, positions, dim))
        self.clip = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.blocks = nn.ModuleList(_Block(dim, num_heads, hidden) for _ in range(depth))

    def forward(self, features_TM: Tensor) -> Tensor:
        """Normalised log-mel energies (T, 128) -> (1, 1 + T / 16 * 8, D), the token of the clip first."""
        x_BTD = self.patches(features_TM[None, None]).flatten(2).transpose(1, 2)
        x_BTD = self.norm(torch.cat([self.clip, x_BTD + self.positions[:, : x_BTD.shape[1]]], dim=1))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return x_BTD


class EatTeacher(FrozenTeacher):
    """A frozen EAT encoder behind the `Teacher` protocol.

    Args:
        path: see the module's docstring.
        layer: see the module's docstring.
        device, dtype, window_seconds, overlap_seconds, part: see `FrozenTeacher`.
        bands: mean or concat.

    Raises:
        DataError: no checkpoint there. ConfigError: not an EAT, no such layer, or windows beyond its positions.
    """

    name, frame_rate, frame_rule = "eat", 16000 / (_HOP * _PATCH), "hop2560-window2800"
    samples_per_frame, extra_samples, min_samples = _HOP * _PATCH, 240, 2800
    feed_forward, has_final_norm = "mlp", False

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 10.24,
        overlap_seconds: float | str = 1.0,
        part: str = "",
        bands: str = "mean",
    ):
        super().__init__(layer, device, dtype, window_seconds, overlap_seconds, part)
        if bands not in ("mean", "concat"):
            raise ConfigError(f"bands={bands} of teacher 'eat'", "mean or concat", "correct the spec")
        self._bands, self._model = bands, load_eat(str(path))
        most = self._model.positions.shape[1] // _BANDS
        if self._window_frames > most:
            raise ConfigError(
                f"window_seconds={window_seconds} of teacher 'eat'", f"at most {most / self.frame_rate:g}", "shorten it"
            )
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self._blocks = self._model.blocks
        self._width = self._model.clip.shape[2]
        self.dim = self._width * (_BANDS if bands == "concat" else 1)
        self._tap_layers([self.layer], "the residual stream after a block (0: before the first), or -1 for the output")
        self._model.to(self.device)

    def settings(self) -> dict:
        """Windows, and what becomes of the patches of one time."""
        return {**super().settings(), "bands": self._bands}

    def hear_whole(self) -> None:
        """Windows stay: the model has positions for no more."""
        self._window_frames = self._model.positions.shape[1] // _BANDS

    def prepare_wave(self, wave_S: Tensor) -> Tensor:
        """Mean 0 over the utterance."""
        return wave_S - wave_S.mean()

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames of the layer."""
        out_BTD = torch.zeros(len(lengths), max(frames), self.dim, device=self.device)
        for out_TD, wave_S, length, count in zip(out_BTD, waves_BS, lengths, frames):
            features_TM = kaldi.log_mel(wave_S[:length], _NUM_MELS)[: count * _PATCH]
            found_1LD = self._tapped(self._model((features_TM - _MEAN) / (2 * _DEVIATION)))[:, 1:]
            # (time, bands, layers side by side, channels)
            found_TELD = found_1LD[0].unflatten(0, (count, _BANDS)).unflatten(2, (-1, self._width))
            if self._bands == "mean":
                found_TELD = found_TELD.mean(1, keepdim=True)
            out_TD[:count] = found_TELD.transpose(1, 2).flatten(1).float()
        return out_BTD


def load_eat(path: str) -> EatEncoder:
    """An encoder in evaluation mode.

    Raises:
        DataError: nothing there, not readable, or weights that are not finite. ConfigError: weights of another model.
    """
    found, config = read_checkpoint(path, "eat", ("model", "cfg"), _EXPECTED)
    names = {
        "local_encoder.proj.weight": "patches.weight",
        "local_encoder.proj.bias": "patches.bias",
        "fixed_positional_encoder.positions": "positions",
        "extra_tokens": "clip",
        "context_encoder.norm.weight": "norm.weight",
        "context_encoder.norm.bias": "norm.bias",
    }
    tensors = {}
    for name, value in found.items():
        bare = name.removeprefix("model.").removeprefix(_FRONT)
        if bare in names or bare.startswith("blocks."):
            tensors[names.get(bare, bare)] = value
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    patches, hidden = shapes.get("patches.weight", ()), shapes.get("blocks.0.mlp.fc1.weight", ())
    places = shapes.get("positions", ())
    if patches[1:] != (1, _PATCH, _PATCH) or len(hidden) != 2 or len(places) != 3 or places[1] < _BANDS:
        raise ConfigError(f"{path} with {weights.some(sorted(found))}", _EXPECTED, "name the teacher that fits")
    dim, depth = patches[0], sum(name.endswith("fc1.weight") for name in tensors)
    heads = number_of(config, "num_heads", max(1, dim // _HEAD_CHANNELS), 1, dim, path)
    if dim % heads:
        raise ConfigError(f"{path} of {dim} channels with {heads} heads", _EXPECTED, "check config.json")
    return fill(on_meta(EatEncoder, dim, depth, heads, hidden[0], places[1]), tensors, path)
