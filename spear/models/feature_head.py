"""Predicts a teacher's vectors: a small network on each of some layers of the student (USAD, arXiv 2506.18843)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear import compat
from spear.errors import ConfigError
from spear.models.heads import Encoded, HeadOutput, by_mask

OUTPUT = -1  # the number of the encoder's output among its layers, which count from 0


class Pair(NamedTuple):
    """A tap's predictions with their targets, at M target frames that count.

    Attributes:
        predicted_MD, target_MD: float32 vectors.
        weights_M: of each frame's loss.
        masked_M1: whether the input of the student's frames was masked, as 0 or 1.
    """

    predicted_MD: Tensor
    target_MD: Tensor
    weights_M: Tensor
    masked_M1: Tensor


# The loss of each frame, (M,), from a pair, its mean absolute difference over the D channels and its cosine, (M,) each.
LOSSES: dict[str, Callable[[Pair, Tensor, Tensor], Tensor]] = {
    "usad": lambda pair, difference_M, cosine_M: difference_M - F.logsigmoid(cosine_M),
    "l1": lambda pair, difference_M, cosine_M: difference_M,
    "l2": lambda pair, difference_M, cosine_M: (pair.predicted_MD - pair.target_MD).square().mean(1),
}


@dataclass(frozen=True)
class FeatureHeadSpec:
    """Sizes of the head of a stream of features.

    Attributes:
        target_dims: channels of each of the teacher's layers.
        ratio: of a rate of the student, in Hz: how often a target is repeated, how many targets one frame predicts.
        student_layers: which layer predicts which of them, counted from 0; `OUTPUT` is the encoder's output. Empty:
            layers k L / K of L, and the output for the last.
        loss: one of `LOSSES`.
        hidden_dim: of the network of two linear layers; 0: as wide as the student's layer.
    """

    target_dims: tuple[int, ...]
    ratio: Callable[[float], tuple[int, int]]
    student_layers: tuple[int, ...] = ()
    loss: str = "usad"
    hidden_dim: int = 0

    def build(self, encoder: nn.Module, initial_scale: float = 1.0) -> "FeatureHead":
        """The head for an encoder.

        Raises:
            ConfigError: the encoder has no such layer, or frame rates that do not fit.
        """
        dims = encoder.config.layer_dims
        taps = self.student_layers or spread_layers(len(self.target_dims), len(dims))
        if not all(OUTPUT <= layer < len(dims) for layer in taps):
            raise ConfigError(
                f"student_layers {', '.join(map(str, taps))}",
                f"0 to {len(dims) - 1}, or {OUTPUT} for the output of the encoder",
                "correct the numbers",
            )
        rates_hz = encoder.config.hidden_rate_hz, encoder.frame_rate_hz
        return FeatureHead(self, taps, [*dims, encoder.output_dim], rates_hz, initial_scale)


def spread_layers(count: int, num_layers: int) -> tuple[int, ...]:
    """`count` layers at equal distances, the last of them the encoder's output: of 12, 4 are 2, 5, 8 and `OUTPUT`."""
    return (*(max(0, k * num_layers // count - 1) for k in range(1, count)), OUTPUT)


class FeatureHead(nn.Module):
    """A network of two linear layers with ReLU on every tapped layer; see `FeatureHeadSpec.build`."""

    def __init__(
        self,
        spec: FeatureHeadSpec,
        layers: Sequence[int],
        dims: Sequence[int],
        rates_hz: tuple[float, float],
        initial_scale: float,
    ):
        super().__init__()
        self.layers, self.target_dims, self.loss = tuple(layers), spec.target_dims, LOSSES[spec.loss]
        self.ratios = [spec.ratio(rates_hz[layer == OUTPUT]) for layer in self.layers]
        self.upsampling = round(rates_hz[0] / rates_hz[1])
        self.taps = nn.ModuleList()
        for layer, (_, group), target_dim in zip(self.layers, self.ratios, self.target_dims):
            hidden_dim = spec.hidden_dim or dims[layer]
            tap = nn.Sequential(
                nn.Linear(dims[layer], hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, group * target_dim)
            )
            with torch.no_grad():
                tap[2].weight.mul_(initial_scale)
            self.taps.append(tap)

    @property
    def wants_layers(self) -> bool:
        """Whether it predicts from more than the encoder's output."""
        return any(layer != OUTPUT for layer in self.layers)

    def pairs(self, encoded: Encoded, targets_BTW: Tensor, weights_B: Tensor) -> list[Pair]:
        """Predictions and targets of each tap.

        Where the student is faster than the teacher, its predictions are averaged over the frames that one target
        stands for; where it is slower, one frame predicts several targets.

        Args:
            encoded: the encoder's output.
            targets_BTW: the teacher's frames at their own rate, layers side by side; NaN where there are none.
            weights_B: weight of each utterance.
        """
        rows = weights_B > 0  # of the others, nothing is computed
        found = []
        with compat.disabled_autocast(encoded.hidden_BTD.device.type):
            parts = targets_BTW[rows].float().split(self.target_dims, dim=2)
            for layer, ratio, tap, target_BTD in zip(self.layers, self.ratios, self.taps, parts):
                hidden_BTD, lens_B, masked_BT, weights_BT = self._frames(layer, encoded)
                predicted_BTD = tap(hidden_BTD[rows].float())
                weights_BT = weights_BT[rows] * weights_B[rows, None]
                found.append(_pair(predicted_BTD, target_BTD, ratio, lens_B[rows], masked_BT[rows], weights_BT))
        return found

    def _frames(self, layer: int, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hidden states of a tap with their lengths, masks and weights at their rate."""
        if layer == OUTPUT:
            return encoded.hidden_BTD, encoded.lens_B, encoded.masked_BT, encoded.frame_weights_BT
        hidden_BTD = encoded.layers[layer]
        frames = hidden_BTD.shape[1]
        masks = (
            each.repeat_interleave(self.upsampling, 1)[:, :frames]
            for each in (encoded.masked_BT, encoded.frame_weights_BT)
        )
        return hidden_BTD, encoded.layer_lens_B, *masks

    def predict(self, encoded: Encoded, targets_BTW: Tensor, weights_B: Tensor) -> HeadOutput:
        """Loss and statistics of a batch; arguments as for `pairs`.

        Returns:
            the loss summed over the student's frames and averaged over taps; statistics over frames and taps, with
            two measures, mean absolute difference and cosine.
        """
        loss, stats = targets_BTW.new_zeros((), dtype=torch.float32), []
        with compat.disabled_autocast(encoded.hidden_BTD.device.type):
            for pair in self.pairs(encoded, targets_BTW, weights_B):
                difference_M = (pair.predicted_MD - pair.target_MD).abs().mean(1)
                cosine_M = F.cosine_similarity(pair.predicted_MD, pair.target_MD, dim=1)
                losses_M = self.loss(pair, difference_M, cosine_M)
                loss = loss + (losses_M * pair.weights_M).sum() / len(self.taps)
                sums = losses_M, torch.ones_like(losses_M), difference_M, cosine_M
                stats.append(by_mask(torch.stack(sums, dim=1).detach(), pair.masked_M1))
        return HeadOutput(loss, torch.stack(stats).sum(0))


def _pair(
    predicted_BTD: Tensor,
    target_BTD: Tensor,
    ratio: tuple[int, int],
    lens_B: Tensor,
    masked_BT: Tensor,
    weights_BT: Tensor,
) -> Pair:
    """Brings a tap's frames and the targets together, and keeps those that count."""
    repeat, group = ratio
    dim = target_BTD.shape[2]
    count = min(predicted_BTD.shape[1] // repeat, -(-target_BTD.shape[1] // group))
    places = torch.arange(count * repeat, device=predicted_BTD.device)
    inside_BT = (places < lens_B[:, None]).unflatten(1, (count, repeat)).all(2)

    def pooled(values: Tensor) -> Tensor:
        return values[:, : count * repeat].float().unflatten(1, (count, repeat))

    predicted_BTGD = pooled(predicted_BTD).mean(2).unflatten(2, (group, dim))
    target_BTD = F.pad(target_BTD, (0, 0, 0, max(0, count * group - target_BTD.shape[1])), value=torch.nan)
    target_BTGD = target_BTD[:, : count * group].unflatten(1, (count, group))
    used_BTG = ~target_BTGD.isnan().any(3) & inside_BT[:, :, None]
    masked_BTG = (pooled(masked_BT).mean(2) >= 0.5).float()[:, :, None].expand_as(used_BTG)
    # A target that stands for several frames of the student counts as often, one of several of a frame for its part.
    weights_BTG = (pooled(weights_BT).sum(2) / group)[:, :, None].expand_as(used_BTG)
    return Pair(predicted_BTGD[used_BTG], target_BTGD[used_BTG], weights_BTG[used_BTG], masked_BTG[used_BTG][:, None])
