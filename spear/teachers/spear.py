"""Our own encoders as teachers: any checkpoint that `spear.load_model` reads, any layer.

    spear:PATH@LAYER,frame_rate_hz=25,dtype=bfloat16

LAYER counts the encoder's layers from 0, as `hidden_states` does: their raw outputs, at 50 Hz. -1, the default, is the
encoder's output (`encoder_out`), at 50 Hz or, with output downsampling, at 25 Hz. `frame_rate_hz=25` averages pairs of
50 Hz frames; a last frame without a partner stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from spear import compat
from spear.audio import FbankConfig
from spear.errors import ConfigError
from spear.models.encoders import EncoderConfig
from spear.models.loading import load_model
from spear.teachers.align import register_frame_rule
from spear.teachers.base import weights_sha256

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class SpearTeacher:
    """A frozen SPEAR encoder behind the `Teacher` protocol.

    Args:
        path: what `spear.load_model` reads: our checkpoint or experiment, a released folder, an icefall .pt.
        layer: see the module's docstring.
        device: where it computes.
        frame_rate_hz: 25 or 50; the layer's own rate when None.
        dtype: float32, or bfloat16 for the matrix products.

    Raises:
        ConfigError: no path, no such layer, a rate it cannot give, an unknown dtype.
        CheckpointError: no model at the path.
    """

    name = "spear"
    sample_rate = 16000

    def __init__(
        self,
        path: str | Path = "",
        layer: int = -1,
        device: str | torch.device = "cpu",
        frame_rate_hz: float | str | None = None,
        dtype: str = "float32",
    ):
        if not str(path):
            raise ConfigError("teacher 'spear' without a path", "spear:PATH@LAYER", "give the checkpoint's directory")
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype '{dtype}' of teacher 'spear'", "float32 or bfloat16", "correct the spec")
        self.device, self.layer, self.dtype = torch.device(device), int(layer), dtype
        self._model = load_model(path).to(self.device).eval().requires_grad_(False)
        # An utterance must give the same frames in a padded batch as alone, whatever the model was trained with.
        for module in self._model.modules():
            if hasattr(module, "exact_padding"):
                module.exact_padding = True
        self.batch_invariant = True
        config = self._model.config
        dims = config.layer_dims
        if not -1 <= self.layer < len(dims):
            raise ConfigError(
                f"layer {layer} of {path}",
                f"-1 (the encoder's output) to {len(dims) - 1}",
                "correct the teacher's spec",
            )
        self.dim = config.output_dim if self.layer == -1 else dims[self.layer]
        self._asked_rate, self._watching, self._layers = frame_rate_hz, False, [self.layer]
        self._set_rate(self._own_rate(self.layer))
        self._weights_sha256: str | None = None

    def _own_rate(self, layer: int) -> int:
        config = self._model.config
        return int(config.frame_rate_hz) if layer == -1 else config.hidden_rate_hz

    def watch_layers(self, layers: Sequence[int]) -> list[int]:
        """As `FrozenTeacher.watch_layers`; all at the rate that was asked for, or each at its own if that is the same.

        Raises:
            ConfigError: there is no such layer, or the rates differ.
        """
        dims = self._model.config.layer_dims
        rates = sorted({self._rate(self._own_rate(layer), self._asked_rate) for layer in layers})
        if not all(-1 <= layer < len(dims) for layer in layers) or len(rates) > 1:
            found = f"layers {', '.join(map(str, layers))} of teacher 'spear', at {' and '.join(map(str, rates))} Hz"
            raise ConfigError(
                found, f"-1 to {len(dims) - 1}, at one rate", "state frame_rate_hz=25, or correct the numbers"
            )
        self._layers, widths = list(layers), [self._model.config.output_dim if n == -1 else dims[n] for n in layers]
        self._set_rate(self._own_rate(layers[0]))
        self.dim = sum(widths)
        return widths

    def _set_rate(self, own_rate: int) -> None:
        self.frame_rate = self._rate(own_rate, self._asked_rate)
        self.frame_rule = _frame_rule(self._model.config, self.frame_rate)

    def watch_states(self, final_norm: bool = False) -> list[int]:
        """As `FrozenTeacher.watch_states`: what enters the first layer and each layer's output, at their rate."""
        if final_norm or self.layer != -1:
            raise ConfigError(
                f"final_norm=true or layer {self.layer} of teacher 'spear'",
                "every state: -1, and no further norm",
                "correct the spec",
            )
        config = self._model.config
        widths = [config.layer_dims[0], *config.layer_dims]
        self._watching, self.dim = True, sum(widths)
        self._set_rate(config.hidden_rate_hz)
        return widths

    @staticmethod
    def _rate(own_rate: int, asked: float | str | None) -> int:
        try:
            rate = own_rate if asked is None else float(asked)
        except ValueError:
            rate = -1
        if rate not in (own_rate, own_rate / 2) or rate < 25:
            raise ConfigError(
                f"frame_rate_hz = {asked} of a layer at {own_rate} Hz",
                " or ".join(str(rate) for rate in sorted({own_rate, 25})),
                "correct the teacher's spec",
            )
        return int(rate)

    def fingerprint(self) -> dict:
        """What decides the frames; see `Teacher.fingerprint`."""
        if self._weights_sha256 is None:
            self._weights_sha256 = weights_sha256(self._model.state_dict())
        return {
            "teacher": self.name,
            "weights_sha256": self._weights_sha256,
            "layer": self.layer,
            "frame_rate_hz": float(self.frame_rate),
            "sample_rate_hz": self.sample_rate,
            "dim": self.dim,
            "frame_rule": self.frame_rule,
            "fbank_sha256": FbankConfig(num_mel_bins=self._model.config.num_mel_bins).definition_hash(),
            "dtype": self.dtype,
        }

    def embed(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio in [-1, 1] at 16 kHz with lengths in samples -> float32 frames (B, T, D) and lengths in frames."""
        dtype = _DTYPES[self.dtype]
        with torch.inference_mode():
            features_BTF, feature_lens_B = self._model.fbank(waves_BS, lengths_B)
            with compat.autocast(self.device.type, dtype):
                out = self._model.encode(
                    features_BTF, feature_lens_B, with_hidden_states=self._watching or self._layers != [-1]
                )
        if self._watching:
            return self._at_rate(torch.cat([out.embed_out, *out.hidden_states], dim=2), out.hidden_lens, 0)
        found = []
        for layer in self._layers:
            # Hidden states stay at their rate when the output is downsampled.
            own = (
                (out.encoder_out, out.encoder_out_lens) if layer == -1 else (out.hidden_states[layer], out.hidden_lens)
            )
            found.append(self._at_rate(*own, layer))
        return torch.cat([x_BTD for x_BTD, _ in found], dim=2), found[0][1]

    def _at_rate(self, x_BTD: Tensor, lens_B: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        pairs = self._own_rate(layer) == 2 * self.frame_rate
        return average_pairs(x_BTD.float(), lens_B) if pairs else (x_BTD.float(), lens_B)


def _frame_rule(config: EncoderConfig, rate_hz: int) -> str:
    """The name of the rule by which an encoder makes frames; encoders with a front end of their own bring theirs."""
    if config.embedding_frames is EncoderConfig.embedding_frames:
        return f"zipformer-{rate_hz}hz"

    def rule(num_samples: int) -> int:
        embeddings = max(0, config.embedding_frames((num_samples + 80) // 160))
        return -(-embeddings * rate_hz // config.hidden_rate_hz)

    register_frame_rule(f"{config.encoder}-{rate_hz}hz", rule)
    return f"{config.encoder}-{rate_hz}hz"


def average_pairs(x_BTD: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
    """Means of successive pairs of frames; an utterance's last frame without a partner stays as it is."""
    batch, frames, dim = x_BTD.shape
    x_BTD = torch.nn.functional.pad(x_BTD, (0, 0, 0, frames % 2))
    valid_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) < lens_B.to(x_BTD.device)[:, None]
    sums_BTD = x_BTD.masked_fill(~valid_BT[:, :, None], 0.0).unflatten(1, (-1, 2)).sum(2)
    counts_BT = valid_BT.unflatten(1, (-1, 2)).sum(2)
    return sums_BTD / counts_BT.clamp(min=1)[:, :, None], (lens_B + 1) // 2
