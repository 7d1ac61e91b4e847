"""BEATs (Chen et al., arXiv 2212.09058): a transformer over patches of a spectrogram, 160 ms by 16 mel bands.

    beats:BEATs_iter3_plus_AS2M.pt@-1        beats:FOLDER@9,bands=concat

The path is the authors' checkpoint (a .pt file with "model" and "cfg"), or a folder with model.safetensors and
config.json. The encoder is small enough to be written here; test/parity has numbers of the authors' code. Each time
has 8 patches, one above the other, which are averaged (768 channels), or with bands=concat put side by side (6,144).
6.25 frames a second: the frames that lie whole in the audio, so 0.175 s have one.

LAYER k is the residual stream after block k (0: what enters block 1), -1 the encoder's output, which is that of the
last block. Each utterance is heard by itself, so frames do not depend on the batch.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spear import weights
from spear.audio.fbank import Fbank, FbankConfig
from spear.errors import ConfigError
from spear.teachers.base import weights_sha256
from spear.teachers.checkpoints import number_of, read_checkpoint
from spear.teachers.frozen import FrozenTeacher
from spear.teachers.installed import fill, on_meta

_PATCH, _NUM_MELS, _BANDS = 16, 128, 8
_MEAN, _DEVIATION = 15.41663, 6.55582  # of the fbank of AudioSet; values are divided by twice the second
_HOP, _WINDOW = 160, 400
_NEAREST_SHARE = 2  # of the buckets of one direction, one half is for near places, one each
_GATES = 8
_EXPECTED = "a BEATs checkpoint: the authors' .pt file with 'model' and 'cfg'"


class _Attention(nn.Module):
    """Attention with a bias by distance, which each query gates for itself."""

    def __init__(self, dim: int, num_heads: int, num_buckets: int, max_distance: int, with_bias: bool):
        super().__init__()
        self.num_heads, self.max_distance = num_heads, max_distance
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.grep_linear = nn.Linear(dim // num_heads, _GATES)
        self.grep_a = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        if with_bias:
            self.relative_attention_bias = nn.Embedding(num_buckets, num_heads)

    def bias(self, length: int) -> Tensor:
        """(heads, length, length) by distance: exact near by, in logarithmic steps farther away."""
        table = self.relative_attention_bias.weight
        one_way = len(table) // 2
        places_T = torch.arange(length, device=table.device)
        distance_TT = places_T[None, :] - places_T[:, None]
        away_TT, near = distance_TT.abs(), one_way // _NEAREST_SHARE
        steps_TT = torch.log(away_TT.float() / near) / math.log(self.max_distance / near) * (one_way - near)
        far_TT = (near + steps_TT.clamp(min=0).long()).clamp(max=one_way - 1)
        bucket_TT = torch.where(away_TT < near, away_TT, far_TT) + one_way * (distance_TT > 0)
        return table[bucket_TT].permute(2, 0, 1)

    def forward(self, x_BTD: Tensor, bias_HTT: Tensor) -> Tensor:
        q, k, v = (
            part(x_BTD).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        first_BHT1, second_BHT1 = self.grep_linear(q).unflatten(3, (2, -1)).sum(4).sigmoid().chunk(2, dim=3)
        gate_BHT1 = first_BHT1 * (second_BHT1 * self.grep_a - 1) + 2
        y_BHTC = F.scaled_dot_product_attention(q, k, v, attn_mask=(gate_BHT1 * bias_HTT).to(q.dtype))
        return self.out_proj(y_BHTC.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    """A layer with norms behind the sums, whose residual stream is scaled up (DeepNorm)."""

    def __init__(self, dim: int, hidden: int, scale: float, **attention):
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = _Attention(dim, **attention), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.final_layer_norm = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.LayerNorm(dim)
        self.scale = scale

    def forward(self, x_BTD: Tensor, bias_HTT: Tensor) -> Tensor:
        x_BTD = self.self_attn_layer_norm(x_BTD * self.scale + self.self_attn(x_BTD, bias_HTT))
        return self.final_layer_norm(x_BTD * self.scale + self.fc2(F.gelu(self.fc1(x_BTD))))


class _Body(nn.Module):
    def __init__(self, dim: int, depth: int, positions: int, groups: int, **block):
        super().__init__()
        convolution = nn.Conv1d(dim, dim, positions, padding=positions // 2, groups=groups)
        self.pos_conv = nn.ModuleList([nn.utils.parametrizations.weight_norm(convolution, dim=2)])
        self.layer_norm = nn.LayerNorm(dim)
        scale = (2 * depth) ** 0.25
        self.layers = nn.ModuleList(_Block(dim, scale=scale, with_bias=n == 0, **block) for n in range(depth))

    def forward(self, x_BTD: Tensor) -> Tensor:
        placed_BDT = F.gelu(self.pos_conv[0](x_BTD.transpose(1, 2))[:, :, : x_BTD.shape[1]])
        x_BTD = self.layer_norm(x_BTD + placed_BDT.transpose(1, 2))
        bias_HTT = self.layers[0].self_attn.bias(x_BTD.shape[1])
        for layer in self.layers:
            x_BTD = layer(x_BTD, bias_HTT)
        return x_BTD


class BeatsEncoder(nn.Module):
    """The encoder, with the parameter names of the released checkpoints (but for those of weight norm).

    Args:
        embed_dim: channels of a patch before the projection.
        dim, depth, hidden, num_heads: of the transformer.
        positions, groups: kernel and groups of the convolution over places.
        num_buckets, max_distance: of the bias by distance.
    """

    def __init__(
        self,
        embed_dim: int,
        dim: int,
        depth: int,
        hidden: int,
        num_heads: int,
        positions: int = 128,
        groups: int = 16,
        num_buckets: int = 320,
        max_distance: int = 800,
    ):
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, embed_dim, _PATCH, _PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(embed_dim)
        self.post_extract_proj = nn.Linear(embed_dim, dim)
        attention = dict(num_heads=num_heads, num_buckets=num_buckets, max_distance=max_distance)
        self.encoder = _Body(dim, depth, positions, groups, hidden=hidden, **attention)

    def forward(self, fbank_TM: Tensor) -> Tensor:
        """Log-mel energies (T, 128) -> (1, T / 16 * 8, D), the 8 patches of a time one after the other."""
        normed_TM = (fbank_TM - _MEAN) / (2 * _DEVIATION)
        x_BTD = self.patch_embedding(normed_TM[None, None]).flatten(2).transpose(1, 2)
        return self.encoder(self.post_extract_proj(self.layer_norm(x_BTD)))


class BeatsTeacher(FrozenTeacher):
    """A frozen BEATs encoder behind the `Teacher` protocol.

    Args:
        path: see the module's docstring.
        layer: see the module's docstring.
        device, dtype, window_seconds, overlap_seconds, part: see `FrozenTeacher`.
        bands: mean or concat.

    Raises:
        DataError: no checkpoint there. ConfigError: not a BEATs, or no such layer.
    """

    name, frame_rate, frame_rule = "beats", 16000 / (_HOP * _PATCH), "hop2560-window2800"
    samples_per_frame, extra_samples, min_samples = _HOP * _PATCH, _WINDOW - _HOP, _WINDOW + _HOP * (_PATCH - 1)
    feed_forward, has_final_norm = "fc2", False

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 30.0,
        overlap_seconds: float | str = 2.0,
        part: str = "",
        bands: str = "mean",
    ):
        super().__init__(layer, device, dtype, window_seconds, overlap_seconds, part)
        if bands not in ("mean", "concat"):
            raise ConfigError(f"bands={bands} of teacher 'beats'", "mean or concat", "correct the spec")
        self._bands, self._model = bands, load_beats(str(path))
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self._blocks = self._model.encoder.layers
        self._width = self._model.post_extract_proj.out_features
        self.dim = self._width * (_BANDS if bands == "concat" else 1)
        self._tap_layers([self.layer], "the residual stream after a block (0: before the first), or -1 for the output")
        self._model.to(self.device)
        self._fbank = Fbank(FbankConfig(high_hz=0.0))

    def settings(self) -> dict:
        """Windows, and what becomes of the patches of one time."""
        return {**super().settings(), "bands": self._bands}

    def fbank(self, wave_S: Tensor, count: int) -> Tensor:
        """(count * 16, 128) energies of spectra that lie whole in the audio, as Kaldi makes them of 16-bit numbers."""
        # Ours are centred: shifted by 40 samples, the second one begins where the audio does.
        moved_S = F.pad(wave_S, (_HOP - (_WINDOW - _HOP) // 2, 0)) * 2.0**15
        features_1TM, _ = self._fbank(moved_S[None], torch.tensor([len(moved_S)], device=moved_S.device))
        return features_1TM[0, 1 : 1 + count * _PATCH]

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames of the layer."""
        out_BTD = torch.zeros(len(lengths), max(frames), self.dim, device=self.device)
        for out_TD, wave_S, length, count in zip(out_BTD, waves_BS, lengths, frames):
            found_1LD = self._tapped(self._model(self.fbank(wave_S[:length], count)))
            # (time, bands, layers side by side, channels)
            found_TELD = found_1LD[0].unflatten(0, (count, _BANDS)).unflatten(2, (-1, self._width))
            if self._bands == "mean":
                found_TELD = found_TELD.mean(1, keepdim=True)
            out_TD[:count] = found_TELD.transpose(1, 2).flatten(1).float()
        return out_BTD


def load_beats(path: str) -> BeatsEncoder:
    """An encoder in evaluation mode.

    Raises:
        DataError: nothing there, not readable, or weights that are not finite. ConfigError: weights of another model.
    """
    found, config = read_checkpoint(path, "beats", ("model", "cfg"), _EXPECTED)
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise ConfigError(f"{path} with {key} = {weights.shown(repr(config[key]))}", f"{value!r}", _EXPECTED)
    tensors = {}
    for name, value in found.items():
        bare = name.replace("weight_g", "parametrizations.weight.original0")
        bare = bare.replace("weight_v", "parametrizations.weight.original1")
        # The bias by distance is that of the first layer, of which checkpoints repeat it; labels are not needed.
        repeated = "relative_attention_bias" in bare and not bare.startswith("encoder.layers.0.")
        if not repeated and not bare.startswith("predictor"):
            tensors[bare] = value
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    patches, hidden = shapes.get("patch_embedding.weight", ()), shapes.get("encoder.layers.0.fc1.weight", ())
    table = shapes.get("encoder.layers.0.self_attn.relative_attention_bias.weight", ())
    kernel = shapes.get("encoder.pos_conv.0.parametrizations.weight.original1", ())
    if patches[1:] != (1, _PATCH, _PATCH) or len(hidden) != 2 or len(table) != 2 or len(kernel) != 3:
        raise ConfigError(f"{path} with {weights.some(sorted(found))}", _EXPECTED, "name the teacher that fits")
    dim, heads = hidden[1], table[1]
    depth = sum(name.endswith("fc1.weight") for name in tensors)
    if not 1 <= heads <= dim or dim % heads or not 1 <= kernel[1] <= dim or dim % kernel[1] or table[0] < 4:
        raise ConfigError(f"{path} of {dim} channels with {heads} heads, kernel {kernel}", _EXPECTED, "check the path")
    sizes = dict(positions=kernel[2], groups=dim // kernel[1], num_buckets=table[0])
    far = number_of(config, "max_distance", 800, table[0] // 4 + 1, 1_000_000, path)
    model = on_meta(BeatsEncoder, patches[0], dim, depth, hidden[0], heads, max_distance=far, **sizes)
    return fill(model, tensors, path)


_FIXED = {"layer_norm_first": False, "deep_norm": True, "gru_rel_pos": True, "relative_position_embedding": True}
_FIXED |= {"activation_fn": "gelu", "conv_bias": False, "input_patch_size": _PATCH}
