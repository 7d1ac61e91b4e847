"""One class for each recording: sounds, instruments, commands, emotions."""

from dataclasses import dataclass
from pathlib import Path

from spear import ranges
from spear.data.supervisions import SupervisionStreamConfig
from spear.errors import ConfigError
from spear.models.heads import Encoded
from spear.models.utterance_heads import POOLINGS, ClassificationHead, UtteranceHeadSpec
from spear.train.objectives.base import Context
from spear.train.objectives.supervised import SupervisedObjective, SupervisedSettings, labels_of


@dataclass
class ClassificationSettings(SupervisedSettings):
    """Settings of `classification`.

    Attributes:
        key: of the cuts' labels.
        pooling: over time: `mean`, or `attentive`: mean and deviation weighted by what is learned.
        dropout: of what is pooled.
    """

    key: str = "class"
    pooling: str = "mean"
    dropout: ranges.Part = 0.1

    def __post_init__(self):
        super().__post_init__()
        if self.pooling not in POOLINGS:
            raise ConfigError(
                f"streams.*.pooling: '{self.pooling}'", "one of " + ", ".join(POOLINGS), "correct streams.*.pooling"
            )


class ClassificationObjective(SupervisedObjective):
    """Cross-entropy of the pooled frames; accuracy."""

    Settings = ClassificationSettings
    unit, measures = "nats", ("accuracy",)

    def __init__(self, context: Context):
        super().__init__(context)
        count, settings = self.vocabulary.size, self.settings
        sizes = settings.layers, settings.pooling, settings.dropout
        self.head = UtteranceHeadSpec(lambda encoder: ClassificationHead(encoder, count, *sizes))

    @classmethod
    def reads(cls, settings, name: str, data_dir: Path, domains: tuple[str, ...]) -> SupervisionStreamConfig:
        """See `Objective`."""
        return labels_of(settings, name, data_dir, domains, "class")

    def decode(self, head: ClassificationHead, encoded: Encoded) -> list[dict[str, float]]:
        """For each utterance the probability of every class by name, the most likely first."""
        return [self.by_name(row) for row in head.logits(encoded).softmax(1).cpu()]
