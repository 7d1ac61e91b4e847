"""Transcripts by a pruned transducer."""

from dataclasses import dataclass, fields
from pathlib import Path

from torch import nn

from spear import records
from spear.data.streams import StreamConfig
from spear.errors import ConfigError
from spear.models.greedy import transducer_greedy
from spear.models.heads import Encoded
from spear.models.transducer_head import TransducerHeadSpec
from spear.train.objectives.base import Context
from spear.train.objectives.ctc import TextObjective, TextSettings


@dataclass
class TransducerSettings(TextSettings):
    """Settings of `transducer`; the defaults are those of published recipes, see `TransducerHeadSpec`.

    Attributes:
        prediction_dim, joiner_dim: sizes of the prediction network and of the joiner.
        context: units that the prediction network sees.
        prune_range: states of a frame for which the joiner is evaluated, at least 2.
        simple_scale: weight of the simple loss after the warm-up.
        lm_scale, am_scale: of states and frames alone in the simple loss; together below 1.
        warmup_batches: reference batches until the pruned loss has its whole weight.
    """

    prediction_dim: records.PositiveCount = 512
    joiner_dim: records.PositiveCount = 512
    context: records.PositiveCount = 2
    prune_range: records.PositiveCount = 5
    simple_scale: records.NotNegative = 0.5
    lm_scale: records.NotNegative = 0.25
    am_scale: records.NotNegative = 0.0
    warmup_batches: records.NotNegative = 2000.0

    def __post_init__(self):
        super().__post_init__()
        if self.prune_range < 2:
            raise ConfigError("streams.*.prune_range = 1", "2 or more", "correct streams.*.prune_range")
        if self.lm_scale + self.am_scale >= 1:
            raise ConfigError(
                f"streams.*.lm_scale + am_scale = {self.lm_scale + self.am_scale:g}", "below 1", "make them smaller"
            )


class TransducerObjective(TextObjective):
    """A transducer at the encoder's output rate: 50 Hz, or 25 Hz where it is downsampled, as published recipes are."""

    Settings = TransducerSettings
    measures, falling = ("simple_loss",), ("simple_loss", "wer", "cer")

    def __init__(self, context: Context):
        super().__init__(context)
        sizes = {size.name: getattr(self.settings, size.name) for size in fields(TransducerHeadSpec)[1:]}
        self.head = TransducerHeadSpec(self.vocabulary.size, **sizes)

    @classmethod
    def reads(cls, settings: TransducerSettings, name: str, data_dir: Path, domains: tuple[str, ...]) -> StreamConfig:
        """See `Objective`; transcripts that the pruning ranges cannot follow take no part."""
        return settings.stream(name, data_dir, domains, units_a_frame=settings.prune_range - 1)

    def decode(self, head: nn.Module, encoded: Encoded) -> list[str]:
        """Greedy transcripts."""
        found = transducer_greedy(head, head.read(encoded), encoded.lens_B)
        return [self.vocabulary.decode(each.units) for each in found]
