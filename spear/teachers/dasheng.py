"""Dasheng (base, 0.6B, 1.2B) as a teacher: a plain vision transformer over 40 ms patches of a 64-mel spectrogram.

    dasheng:FILE_OR_FOLDER@-1        dasheng:mispeech/dasheng-1.2B@-1

The path is the authors' checkpoint (a .pt file with "model" and "config"), a folder that holds one, a folder with
model.safetensors, or a name on the hub. The encoder is small enough to be written here, and the package `dasheng` is
not needed: it asks for torchaudio and an old training stack. test/parity compares the two.

LAYER k is the residual stream after block k, without the final norm (0: before block 1); -1, SPEAR's choice, is the
encoder's output with the final norm. 25 frames a second.

The model hears pieces of 10.08 s that do not overlap, as its authors run it. Spectrograms are made of each utterance
without its padding and patches beyond its end are not attended to, so frames do not depend on the batch; the package
gives the same for one utterance with its `x_length`. In its padded batches the last patch of an utterance sees the
padding, and the floor of the decibels is set by the loudest of the batch.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spear import compat, weights
from spear.errors import ConfigError, DataError, require
from spear.teachers.align import expected_frames
from spear.teachers.base import weights_sha256
from spear.teachers.frozen import DTYPES, FrozenTeacher

_NUM_MELS, _FFT, _HOP, _PATCH = 64, 512, 160, 4
_AMPLITUDE_FLOOR, _DYNAMIC_RANGE_DB = 1e-10, 120.0
_HEADS = {768: 12, 1280: 16, 1536: 24}  # of the released sizes
_EXPECTED = "a Dasheng checkpoint: the authors' .pt file, or a folder with model.safetensors"


def mel_filters() -> Tensor:
    """(257, 64) triangular filters on the HTK mel scale from 0 to 8000 Hz, with peaks of 1."""
    with torch.device("cpu"):
        hz = torch.linspace(0, 8000, _FFT // 2 + 1, dtype=torch.float64)
        top = 2595 * torch.log10(torch.tensor(1 + 8000 / 700, dtype=torch.float64))
        edges = 700 * (10 ** (torch.linspace(0, float(top), _NUM_MELS + 2, dtype=torch.float64) / 2595) - 1)
    rising = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BTD).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y_BHTC = F.scaled_dot_product_attention(q, k, v, attn_mask=valid_BT[:, None, None, :])
        return self.proj(y_BHTC.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BTD)))


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), _Attention(dim, num_heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), _FeedForward(dim, hidden)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD), valid_BT)
        return x_BTD + self.mlp(self.norm2(x_BTD))


class DashengEncoder(nn.Module):
    """The encoder, with the parameter names of the released checkpoints.

    Args:
        dim: channels.
        depth: number of blocks.
        num_heads: of attention.
        hidden: channels of the feed-forward layers.
        piece_patches: patches that are attended to together (252: 10.08 s).
    """

    def __init__(self, dim: int, depth: int, num_heads: int, hidden: int, piece_patches: int):
        super().__init__()
        self.piece_patches = piece_patches
        self.init_bn = nn.ModuleDict({"1": nn.BatchNorm2d(_NUM_MELS)})
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, dim, (_NUM_MELS, _PATCH), (_NUM_MELS, _PATCH))})
        self.time_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, piece_patches))
        self.freq_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.blocks = nn.ModuleList(_Block(dim, num_heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.register_buffer("window", torch.hann_window(_FFT, device="cpu"), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def patches(self, wave_S: Tensor, count: int) -> Tensor:
        """An utterance -> (count, D) patch embeddings without positions, in float32."""
        with compat.disabled_autocast(wave_S.device.type):
            spectrum_FT = torch.stft(wave_S, _FFT, _HOP, window=self.window, return_complex=True).abs().square()
            db_MT = 10 * (self.filters.t() @ spectrum_FT).clamp(min=_AMPLITUDE_FLOOR).log10()
            db_MT = db_MT.clamp(min=float(db_MT.max()) - _DYNAMIC_RANGE_DB)
            normed_1MT1 = self.init_bn["1"](db_MT[None, :, :, None])
            return self.patch_embed["proj"](normed_1MT1[:, None, :, :, 0])[0, :, 0, :count].t()

    def forward(self, pieces: list[Tensor]) -> Tensor:
        """Patch embeddings of pieces, each (at most piece_patches, D) -> (number of pieces, longest, D)."""
        x_PTD = nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        counts_P = torch.tensor([len(piece) for piece in pieces], device=x_PTD.device)
        valid_PT = torch.arange(x_PTD.shape[1], device=x_PTD.device) < counts_P[:, None]
        positions_DT = self.time_pos_embed[0, :, 0, : x_PTD.shape[1]] + self.freq_pos_embed[0, :, 0]
        x_PTD = x_PTD + positions_DT.t()
        for block in self.blocks:
            x_PTD = block(x_PTD, valid_PT)
        return self.norm(x_PTD)


class DashengTeacher(FrozenTeacher):
    """A frozen Dasheng encoder behind the `Teacher` protocol.

    Args:
        path: see the module's docstring; mispeech/dasheng-1.2B when empty.
        layer: see the module's docstring.
        device: where it computes.
        dtype: float32, or bfloat16 for the matrix products.
        part: see `FrozenTeacher`.

    Raises:
        DataError: no checkpoint there. ConfigError: not a Dasheng, or no such layer.
    """

    name, frame_rate, frame_rule = "dasheng", 25.0, "dasheng-25hz"
    samples_per_frame = _HOP * _PATCH
    feed_forward = "mlp"

    def __init__(
        self, path="", layer: int = -1, device: str | torch.device = "cpu", dtype: str = "float32", part: str = ""
    ):
        super().__init__(layer, device, dtype, part=part)
        self._model = load_dasheng(str(path) or "mispeech/dasheng-1.2B")
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self.dim = self._model.norm.normalized_shape[0]
        meaning = "the residual stream after a block (0: before the first), or -1 for the encoder's output"
        self._blocks = self._model.blocks
        self._tap_layers([self.layer], meaning)
        self._model.to(self.device)

    def settings(self) -> dict:
        """Windows are the model's own, and part of its weights."""
        return {}

    def embed(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio in [-1, 1] at 16 kHz with lengths in samples -> float32 frames (B, T, D) and lengths in frames."""
        lengths = lengths_B.tolist()
        counts = [expected_frames(length, self) for length in lengths]
        x_BTD = torch.zeros(len(counts), max(counts, default=0), self.dim, device=self.device)
        size = self._model.piece_patches
        with torch.inference_mode(), compat.autocast(self.device.type, DTYPES[self.dtype]):
            places, pieces = [], []
            for row, (length, count) in enumerate(zip(lengths, counts)):
                if count:
                    patches_TD = self._model.patches(waves_BS[row, :length].to(self.device), count)
                    for start, piece in zip(range(0, count, size), patches_TD.split(size)):
                        places.append((row, start))
                        pieces.append(piece)
            if pieces:
                y_PTD = self._tapped(self._model(pieces))
                for (row, start), piece, y_TD in zip(places, pieces, y_PTD):
                    x_BTD[row, start : start + len(piece)] = y_TD[: len(piece)].float()
        return x_BTD, torch.tensor(counts, device=lengths_B.device)


def load_dasheng(path: str) -> DashengEncoder:
    """An encoder in evaluation mode from any of the forms in which the weights are passed on.

    Raises:
        DataError: nothing there, not readable, or weights that are not finite. ConfigError: weights of another model.
    """
    found, config = _read(path)
    anchor = "patch_embed.proj.weight"
    prefix = next((name.removesuffix(anchor) for name in found if name.endswith(anchor)), None)
    if prefix is None:
        raise _another(path, f"weights such as {weights.some(sorted(found))}")
    tensors = {}
    for name, value in found.items():
        bare = name.removeprefix(prefix)
        # Filters are computed, and labels of fine-tuning are not needed.
        if name.startswith(prefix) and not bare.startswith(("front_end.", "outputlayer.")):
            bare = bare.replace("init_bn.", "init_bn.1.") if bare.startswith("init_bn.") and ".1." not in bare else bare
            tensors[bare] = value
    known = ("blocks.", "norm.", "patch_embed.", "time_pos_embed", "freq_pos_embed", "init_bn.")
    if foreign := [name for name in tensors if not name.startswith(known)]:
        raise _another(path, weights.some(foreign))
    with torch.device("meta"):
        model = DashengEncoder(**_sizes(path, tensors, config))
    expected = model.state_dict()
    tensors.setdefault("init_bn.1.num_batches_tracked", torch.tensor(0))  # some exports leave it out; nobody reads it
    wrong = [name for name in {*expected, *tensors} if _shape(expected, name) != _shape(tensors, name)]
    if wrong:
        raise _another(path, f"{len(wrong)} tensors that do not fit, such as {weights.some(sorted(wrong))}")
    weights.check_finite(tensors, path)
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, assign=True
    )
    return model.eval().requires_grad_(False)


def _sizes(path: str, tensors: dict[str, Tensor], config: dict) -> dict[str, int]:
    """Arguments of `DashengEncoder`, read off the shapes."""
    patches = tensors["patch_embed.proj.weight"]
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if patches.shape[1:] != (1, _NUM_MELS, _PATCH) or not blocks:
        raise _another(path, f"patches of {tuple(patches.shape[1:])} and {len(blocks)} blocks")
    dim, hidden = len(patches), tensors.get("blocks.0.mlp.fc1.weight")
    positions = tensors.get("time_pos_embed")
    num_heads = config.get("num_heads") or _HEADS.get(dim, max(1, dim // 64))
    if type(num_heads) is not int or num_heads < 1 or dim % num_heads:
        raise _another(path, f"num_heads = {weights.shown(repr(num_heads))} for {dim} channels")
    if any(tensor is None or tensor.dim() == 0 for tensor in (hidden, positions)):
        raise _another(path, "no blocks.0.mlp.fc1.weight or no time_pos_embed")
    return dict(dim=dim, depth=len(blocks), num_heads=num_heads, hidden=len(hidden), piece_patches=positions.shape[-1])


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _another(path: str, found: str) -> ConfigError:
    return ConfigError(f"{path} with {found}", _EXPECTED + " (64 mels, patches of 4 frames)", "correct the path")


def _read(path: str) -> tuple[dict[str, Tensor], dict]:
    place = Path(path)
    config: dict = {}
    if place.is_dir():
        names = ("model.safetensors", "pytorch_model.bin")
        files = [place / name for name in names if (place / name).exists()] or sorted(place.glob("*.pt"))
        if len(files) != 1 and not (files and files[0].name in names):
            listing = ", ".join(sorted(entry.name for entry in place.iterdir())[:6]) or "nothing in it"
            raise DataError(f"{path} with {listing}", _EXPECTED, "correct the path, or name the file itself")
        config = weights.read_settings(place / "config.json") if (place / "config.json").exists() else {}
        place = files[0]
    elif not place.exists():
        if path.count("/") != 1 or path.startswith((".", "/")):
            raise DataError(f"nothing at {path}", _EXPECTED, "correct the path")
        place, config = _download(path)
    if place.suffix == ".safetensors":
        values = weights.read_tensors(place)
    else:
        values = weights.read_torch(place, ("model", "config"))
        if isinstance(values, dict) and isinstance(values.get("model"), dict):
            values, config = values["model"], values.get("config") or config
        if not isinstance(values, dict):
            raise DataError(f"{place} holds a {type(values).__name__}", _EXPECTED, "correct the path")
    config = config if isinstance(config, dict) else {}
    inner = config.get("encoder_kwargs")
    return weights.tensors_of(values), inner if isinstance(inner, dict) else config


def _download(name: str) -> tuple[Path, dict]:
    hub = require("huggingface_hub", "huggingface_hub", f"the hub name {name}")
    try:
        return Path(hub.hf_hub_download(name, "model.safetensors")), weights.read_settings(
            hub.hf_hub_download(name, "config.json")
        )
    except Exception as error:  # its errors have many bases
        raise DataError(
            f"{name} is no file here and cannot be fetched from the hub ({type(error).__name__})",
            _EXPECTED,
            "download it where there is a network, and give dasheng:FILE@LAYER",
        ) from error
