"""Heads that say one thing about an utterance: which tags it has, or which class it is of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear import compat
from spear.models.heads import IGNORE, Encoded, HeadOutput
from spear.models.layers import LayerMix
from spear.models.pooling import AttentiveStatistics, mean_over_time, utterance_output

POOLINGS = ("mean", "attentive")


@dataclass(frozen=True)
class UtteranceHeadSpec:
    """What makes a head for an encoder.

    Attributes:
        make: from the encoder to the head, whose last layer is `output`.
    """

    make: Callable[[nn.Module], nn.Module]

    def build(self, encoder: nn.Module, initial_scale: float = 1.0) -> nn.Module:
        """The head, its last weights scaled."""
        head = self.make(encoder)
        with torch.no_grad():
            head.output.weight.mul_(initial_scale)
        return head


class TaggingHead(nn.Module):
    """Linear on every frame, the mean over valid frames of its logits; each tag is a question of its own.

    Args:
        encoder: see `LayerMix`.
        num_tags: C.
        layers: `last` or `weighted`.
        dropout: of the frames.
    """

    def __init__(self, encoder: nn.Module, num_tags: int, layers: str = "last", dropout: float = 0.1):
        super().__init__()
        self.mix, self.dropout = LayerMix(encoder, layers), nn.Dropout(dropout)
        self.output = nn.Linear(self.mix.dim, num_tags)
        self.wants_layers = self.mix.wants_layers

    def logits(self, encoded: Encoded) -> Tensor:
        """(B, C) float32."""
        with compat.disabled_autocast(encoded.hidden_BTD.device.type):
            x_BTD = self.dropout(self.mix(encoded).float())
            # The mean of a linear function is that of the mean.
            return self.output(mean_over_time(x_BTD, encoded.lens_B))

    def predict(self, encoded: Encoded, targets_B1C: Tensor, weights_B: Tensor) -> HeadOutput:
        """Binary cross-entropy, its mean over an utterance's known tags summed over utterances.

        Args:
            encoded: the encoder's output.
            targets_B1C: 0 to 1 for each tag, -100 where nothing is known.
            weights_B: weight of each utterance.

        Returns:
            without measures; scores are logits and targets.
        """
        logits_BC, targets_BC = self.logits(encoded), targets_B1C[:, 0].float()
        known_BC = targets_BC != IGNORE
        losses_BC = F.binary_cross_entropy_with_logits(logits_BC, targets_BC.clamp(min=0), reduction="none")
        losses_B = (losses_BC * known_BC).sum(1) / known_BC.sum(1).clamp(min=1)
        used_B = known_BC.any(1) & (weights_B > 0)
        output = utterance_output(losses_B, used_B, weights_B, [])
        return output if self.training else output._replace(scores=(logits_BC[used_B], targets_BC[used_B]))


class ClassificationHead(nn.Module):
    """Pools the frames and says which class the utterance is of.

    Args:
        encoder: see `LayerMix`.
        num_classes: C.
        layers: `last` or `weighted`.
        pooling: `mean` over valid frames, or `attentive`: weighted mean and deviation.
        dropout: of what is pooled.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        layers: str = "last",
        pooling: str = "mean",
        dropout: float = 0.1,
    ):
        super().__init__()
        self.mix, self.dropout = LayerMix(encoder, layers), nn.Dropout(dropout)
        self.pooling = AttentiveStatistics(self.mix.dim) if pooling == "attentive" else None
        self.output = nn.Linear(self.mix.dim * (2 if self.pooling else 1), num_classes)
        self.wants_layers = self.mix.wants_layers

    def logits(self, encoded: Encoded) -> Tensor:
        """(B, C) float32."""
        with compat.disabled_autocast(encoded.hidden_BTD.device.type):
            x_BTD = self.mix(encoded).float()
            pooled = self.pooling(x_BTD, encoded.lens_B) if self.pooling else mean_over_time(x_BTD, encoded.lens_B)
            return self.output(self.dropout(pooled))

    def predict(self, encoded: Encoded, targets_B11: Tensor, weights_B: Tensor) -> HeadOutput:
        """Cross-entropy summed over utterances, in nats.

        Args:
            encoded: the encoder's output.
            targets_B11: classes, -100 where there is none.
            weights_B: weight of each utterance.

        Returns:
            with one measure, whether the most likely class is right.
        """
        logits_BC, targets_B = self.logits(encoded), targets_B11[:, 0, 0]
        losses_B = F.cross_entropy(logits_BC, targets_B, ignore_index=IGNORE, reduction="none")
        used_B = (targets_B != IGNORE) & (weights_B > 0)
        return utterance_output(losses_B, used_B, weights_B, [logits_BC.argmax(1) == targets_B])
