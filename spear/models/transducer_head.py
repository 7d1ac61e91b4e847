"""Predicts units of transcripts by a transducer with a stateless prediction network (arXiv 2109.07513) and pruning."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spear import compat
from spear.models.ctc_head import nothing, unit_stats
from spear.models.greedy import padded, transducer_greedy
from spear.models.heads import Encoded, HeadOutput
from spear.models.layers import LayerMix
from spear.nn import ScheduledFloat, transducer
from spear.nn.transducer import BLANK


@dataclass(frozen=True)
class TransducerHeadSpec:
    """Sizes of the head; the defaults are those of published recipes.

    Attributes:
        num_outputs: units, the blank included.
        prediction_dim: of the prediction network.
        joiner_dim: of the joiner's hidden layer.
        context: units that the prediction network sees.
        prune_range: states of a frame for which the joiner is evaluated.
        simple_scale: weight of the simple loss after the warm-up.
        lm_scale, am_scale: see `spear.nn.transducer.simple_loss`.
        warmup_batches: reference batches over which the weight of the simple loss falls from 1 and that of the pruned
            one rises from 0.1: the ranges mean little before the simple loss has learnt something.
        layers: `last` or `weighted`, see `LayerMix`.
    """

    num_outputs: int
    prediction_dim: int = 512
    joiner_dim: int = 512
    context: int = 2
    prune_range: int = 5
    simple_scale: float = 0.5
    lm_scale: float = 0.25
    am_scale: float = 0.0
    warmup_batches: float = 2000.0
    layers: str = "last"

    def build(self, encoder: nn.Module, initial_scale: float = 1.0) -> "TransducerHead":
        """The head for an encoder; it has the encoder's output rate."""
        return TransducerHead(LayerMix(encoder, self.layers), self, initial_scale)


class PredictionNetwork(nn.Module):
    """Embeds the last units and mixes them by a grouped convolution: what was said long before changes nothing.

    Args:
        num_outputs: units, the blank included, which stands before the first unit.
        dim: channels.
        context: units that are seen.
    """

    def __init__(self, num_outputs: int, dim: int, context: int):
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(num_outputs, dim)
        groups = dim // 4 if dim % 4 == 0 else 1
        self.conv = nn.Conv1d(dim, dim, context, groups=groups, bias=False) if context > 1 else None

    def forward(self, units_BU: Tensor) -> Tensor:
        """(B, U - context + 1, dim) of units, each output from `context` of them."""
        x_BUD = self.embedding(units_BU)
        if self.conv is not None:
            x_BUD = self.conv(x_BUD.transpose(1, 2)).transpose(1, 2)
        return functional.relu(x_BUD)

    def states(self, targets_BU: Tensor) -> Tensor:
        """(B, U + 1, dim): before the first unit and after each."""
        return self(functional.pad(targets_BU, (self.context, 0), value=BLANK))


class TransducerHead(nn.Module):
    """See the module's docstring; `TransducerHeadSpec.build` makes it.

    Args:
        mix: what it reads.
        spec: sizes and scales.
        initial_scale: of the first weights of the layers that give logits.
    """

    def __init__(self, mix: LayerMix, spec: TransducerHeadSpec, initial_scale: float = 1.0):
        super().__init__()
        self.mix, self.spec, self.wants_layers = mix, spec, mix.wants_layers
        self.prediction = PredictionNetwork(spec.num_outputs, spec.prediction_dim, spec.context)
        self.from_encoder = nn.Linear(mix.dim, spec.joiner_dim)
        self.from_prediction = nn.Linear(spec.prediction_dim, spec.joiner_dim)
        self.output = nn.Linear(spec.joiner_dim, spec.num_outputs)
        self.simple_am = nn.Linear(mix.dim, spec.num_outputs)
        self.simple_lm = nn.Linear(spec.prediction_dim, spec.num_outputs)
        with torch.no_grad():
            self.output.weight.mul_(initial_scale)
            for layer in (self.simple_am, self.simple_lm):
                layer.weight.mul_(0.25 * initial_scale)
        last = max(spec.warmup_batches, 1e-3)
        self.simple_scale = ScheduledFloat((0.0, 1.0), (last, spec.simple_scale), default=spec.simple_scale)
        self.pruned_scale = ScheduledFloat((0.0, 0.1), (last, 1.0), default=1.0)

    def read(self, encoded: Encoded) -> Tensor:
        """(B, T, D) what `from_encoder` takes."""
        return self.mix(encoded)

    def joined(self, frames: Tensor, states: Tensor) -> Tensor:
        """Logits (..., outputs) of what `from_encoder` and `from_prediction` gave, (..., joiner_dim) each."""
        return self.output(torch.tanh(frames + states))

    def predict(self, encoded: Encoded, targets_BU: Tensor, weights_B: Tensor) -> HeadOutput:
        """Loss and statistics of a batch.

        Args:
            encoded: the encoder's output.
            targets_BU: units, -100 past an utterance's end; utterances without any have no loss, nor do those with
                more units than the ranges can follow (they are left out of training before).
            weights_B: weight of each utterance.

        Returns:
            the weighted sum of utterances' scaled simple and pruned losses; statistics of the pruned loss count units,
            with one measure, the simple loss; scores are greedy and true units.
        """
        target_lens_B = (targets_BU >= 0).sum(1)
        fits_B = target_lens_B <= (self.spec.prune_range - 1) * encoded.lens_B
        used_B = (target_lens_B > 0) & (weights_B > 0) & fits_B
        if not used_B.any():
            return nothing(self, num_measures=1)
        hidden_BTD, true_BU = self.read(encoded)[used_B], targets_BU[used_B]
        targets_BU = true_BU.clamp(min=0)
        lens = encoded.lens_B[used_B], target_lens_B[used_B]
        states_BUD = self.prediction.states(targets_BU)
        am_BTV, lm_BUV = self.simple_am(hidden_BTD), self.simple_lm(states_BUD)
        with compat.disabled_autocast(hidden_BTD.device.type):
            simple = transducer.simple_loss(am_BTV, lm_BUV, targets_BU, *lens, self.spec.lm_scale, self.spec.am_scale)
            ranges_BTR = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, self.spec.prune_range)
        rows_BTRD = transducer.at_ranges(self.from_prediction(states_BUD), ranges_BTR)
        logits_BTRV = self.joined(self.from_encoder(hidden_BTD)[:, :, None], rows_BTRD)
        pruned_B = transducer.pruned_loss(logits_BTRV, ranges_BTR, targets_BU, *lens)
        losses_B = float(self.simple_scale) * simple.loss_B + float(self.pruned_scale) * pruned_B
        stats = unit_stats(pruned_B, lens[1], simple.loss_B.detach().sum())
        scores = () if self.training else (padded(transducer_greedy(self, hidden_BTD, lens[0])), true_BU)
        return HeadOutput((losses_B * weights_B[used_B]).sum(), stats, scores)
