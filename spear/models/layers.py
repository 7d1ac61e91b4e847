"""What a head of fine-tuning reads: the encoder's output, or a learned weighted sum over its states."""

import torch
from torch import Tensor, nn

from spear.errors import ConfigError
from spear.models.heads import Encoded
from spear.models.pooling import valid_frames
from spear.nn.resample import with_channels

LAYERS = ("last", "weighted")


def check_layers(layers: str, setting: str = "layers") -> None:
    """Refuses what `LayerMix` does not know.

    Raises:
        ConfigError: no such choice; the message names the setting.
    """
    if layers not in LAYERS:
        raise ConfigError(f"{setting}: '{layers}'", "one of " + ", ".join(LAYERS), f"correct {setting}")


class LayerMix(nn.Module):
    """The encoder's output as it is, or the softmax-weighted sum of all its states, at the rate of the output.

    States are the input to the first layer and the output of every layer, as SUPERB counts (arXiv 2105.01051) and the
    evaluation of frozen encoders does. Narrower ones are filled up with zeros; where the output has fewer frames, the
    mean over the valid frames of each group is taken. All states weigh the same at first.

    Args:
        encoder: has `config` (an `EncoderConfig`), `output_dim` and `frame_rate_hz`.
        layers: `last` or `weighted`.

    Attributes:
        dim: channels of what it gives.
        wants_layers: whether it reads more than the output; the head that holds it says so too.

    Raises:
        ConfigError: another word for `layers`.
    """

    def __init__(self, encoder: nn.Module, layers: str = "last"):
        super().__init__()
        check_layers(layers)
        self.wants_layers = layers == "weighted"
        self.dim = max(encoder.config.layer_dims) if self.wants_layers else encoder.output_dim
        self.factor = round(encoder.config.hidden_rate_hz / encoder.frame_rate_hz)
        if self.wants_layers:
            # Equal numbers are equal weights. Zeros would not move: ScaledAdam's steps are as large as the numbers are.
            self.logits_L = nn.Parameter(torch.ones(1 + len(encoder.config.layer_dims)))

    def forward(self, encoded: Encoded) -> Tensor:
        """(B, T', dim) at the output's rate; `encoded.lens_B` are its valid frames. Padded frames mean nothing."""
        if not self.wants_layers:
            return encoded.hidden_BTD
        weights = self.logits_L.softmax(0)
        states = (encoded.embed_BTD, *encoded.layers)
        mixed_BTD = sum(weight * with_channels(state_BTD, self.dim) for weight, state_BTD in zip(weights, states))
        if self.factor > 1:
            mixed_BTD = self._grouped(mixed_BTD, encoded.layer_lens_B, encoded.hidden_BTD.shape[1])
        # Nothing is added, but what leads to the output alone gets gradients of zero and not none, as ranks expect.
        return mixed_BTD + encoded.hidden_BTD[:, :, :0].sum()

    def _grouped(self, x_BTD: Tensor, lens_B: Tensor, num_frames: int) -> Tensor:
        """The mean over the valid frames of each `factor` successive ones."""
        missing = num_frames * self.factor - x_BTD.shape[1]
        valid_BT1 = valid_frames(x_BTD, lens_B)
        x_BTD = nn.functional.pad(torch.where(valid_BT1, x_BTD, 0.0), (0, 0, 0, missing))
        counts_BT1 = nn.functional.pad(valid_BT1, (0, 0, 0, missing)).unflatten(1, (-1, self.factor)).sum(2)
        return x_BTD.unflatten(1, (-1, self.factor)).sum(2) / counts_BT1.clamp(min=1)
