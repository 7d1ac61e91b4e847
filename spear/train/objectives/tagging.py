"""Tags of recordings, several of them at once, as AudioSet has them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spear import ranges
from spear.data.supervisions import SupervisionStreamConfig
from spear.evaluate.average_precision import macro_average_precision
from spear.models.heads import Encoded
from spear.models.utterance_heads import TaggingHead, UtteranceHeadSpec
from spear.train.objectives.base import Context
from spear.train.objectives.supervised import SupervisedObjective, SupervisedSettings, labels_of


@dataclass
class TaggingSettings(SupervisedSettings):
    """Settings of `tagging`.

    Attributes:
        key: of the cuts' labels.
        separator: between the tags of a cut.
        dropout: of the encoder's frames.
    """

    key: str = "labels"
    separator: str = ","
    dropout: ranges.Part = 0.1


class TaggingObjective(SupervisedObjective):
    """Binary cross-entropy of every tag; the validation gives mAP, the mean over tags of the average precision."""

    Settings = TaggingSettings
    unit, judged, least_labels = "nats", ("map", "clips"), 1

    def __init__(self, context: Context):
        super().__init__(context)
        count, settings = self.vocabulary.size, self.settings
        self.head = UtteranceHeadSpec(lambda encoder: TaggingHead(encoder, count, settings.layers, settings.dropout))

    @classmethod
    def reads(cls, settings, name: str, data_dir: Path, domains: tuple[str, ...]) -> SupervisionStreamConfig:
        """See `Objective`."""
        return labels_of(settings, name, data_dir, domains, "tags")

    def judge(self, scores: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """mAP over the tags that some clip has, with the number of clips."""
        if not scores:
            return {}
        logits_NC, targets_NC = (torch.cat(parts).numpy() for parts in zip(*scores))
        found = macro_average_precision(logits_NC, targets_NC)
        return {**({} if found is None else {"map": found}), "clips": float(len(logits_NC))}

    def decode(self, head: TaggingHead, encoded: Encoded) -> list[dict[str, float]]:
        """For each utterance the probability of every tag by name, the most likely first."""
        return [self.by_name(row) for row in head.logits(encoded).sigmoid().cpu()]
