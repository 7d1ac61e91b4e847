"""Predicts units of transcripts by CTC (Graves et al., 2006): dropout and one linear layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spear import compat
from spear.models.greedy import ctc_greedy, padded
from spear.models.heads import Encoded, HeadOutput
from spear.models.layers import LayerMix
from spear.nn.transducer import BLANK


@dataclass(frozen=True)
class CtcHeadSpec:
    """Size of the head.

    Attributes:
        num_outputs: units, the blank included.
        dropout: of what it reads.
        layers: `last` or `weighted`, see `LayerMix`.
    """

    num_outputs: int
    dropout: float = 0.1
    layers: str = "last"

    def build(self, encoder: nn.Module, initial_scale: float = 1.0) -> "CtcHead":
        """The head for an encoder; it has the encoder's output rate."""
        return CtcHead(LayerMix(encoder, self.layers), self, initial_scale)


class CtcHead(nn.Module):
    """See the module's docstring; `CtcHeadSpec.build` makes it.

    Args:
        mix: what it reads.
        spec: sizes.
        initial_scale: of the first weights.
    """

    def __init__(self, mix: LayerMix, spec: CtcHeadSpec, initial_scale: float = 1.0):
        super().__init__()
        self.mix, self.dropout = mix, nn.Dropout(spec.dropout)
        self.wants_layers = mix.wants_layers
        self.output = nn.Linear(mix.dim, spec.num_outputs)
        with torch.no_grad():
            self.output.weight.mul_(initial_scale)

    def read(self, encoded: Encoded) -> Tensor:
        """(B, T, D) what `log_probs` takes."""
        return self.mix(encoded)

    def log_probs(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, outputs) float32 log-probabilities."""
        with compat.disabled_autocast(hidden_BTD.device.type):
            return self.output(self.dropout(hidden_BTD.float())).log_softmax(-1)

    def predict(self, encoded: Encoded, targets_BU: Tensor, weights_B: Tensor) -> HeadOutput:
        """Loss and statistics of a batch.

        Args:
            encoded: the encoder's output.
            targets_BU: units, -100 past an utterance's end; utterances without any have no loss, nor do those that
                need more frames than there are (they are left out of training before, see `spear.data.supervisions`).
            weights_B: weight of each utterance.

        Returns:
            the weighted sum of utterances' losses; statistics count units; scores are greedy and true units.
        """
        target_lens_B = (targets_BU >= 0).sum(1)
        repeats_B = ((targets_BU[:, 1:] == targets_BU[:, :-1]) & (targets_BU[:, 1:] >= 0)).sum(1)
        used_B = (target_lens_B > 0) & (weights_B > 0) & (target_lens_B + repeats_B <= encoded.lens_B)
        if not used_B.any():
            return nothing(self)
        log_probs_BTV = self.log_probs(self.read(encoded)[used_B])
        losses_B = functional.ctc_loss(
            log_probs_BTV.transpose(0, 1),
            targets_BU[used_B].clamp(min=0),
            encoded.lens_B[used_B],
            target_lens_B[used_B],
            blank=BLANK,
            reduction="none",
            zero_infinity=False,
        )
        scores = ()
        if not self.training:
            scores = padded(ctc_greedy(log_probs_BTV, encoded.lens_B[used_B])), targets_BU[used_B]
        return HeadOutput((losses_B * weights_B[used_B]).sum(), unit_stats(losses_B, target_lens_B[used_B]), scores)


def unit_stats(losses_B: Tensor, target_lens_B: Tensor, *measures: Tensor) -> Tensor:
    """Statistics by unit, see `HeadOutput.stats`; all frames count as unmasked."""
    sums = torch.stack([losses_B.detach().sum(), target_lens_B.sum(), *measures]).float()
    return torch.stack([torch.zeros_like(sums), sums])


def nothing(head: nn.Module, num_measures: int = 0) -> HeadOutput:
    """What a head gives of a batch without targets: a loss of 0 whose gradient is 0 for every parameter.

    Every parameter takes part in every step, or ranks would wait for each other.
    """
    loss = sum(parameter.sum() for parameter in head.parameters()) * 0.0
    return HeadOutput(loss, torch.zeros(2, 2 + num_measures, device=loss.device))
