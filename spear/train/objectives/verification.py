"""Who speaks: embeddings that are near for one speaker and far for two."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear import ranges, records
from spear.data.supervisions import SupervisionStreamConfig
from spear.errors import ConfigError
from spear.evaluate.metrics import equal_error_rate
from spear.models.heads import Encoded
from spear.models.speaker_head import SpeakerHead
from spear.models.utterance_heads import UtteranceHeadSpec
from spear.train.objectives.base import Context
from spear.train.objectives.supervised import SupervisedObjective, SupervisedSettings, labels_of

# Held-out cuts whose pairs are the trials of the validation; of more, as many at equal distances.
MOST_TRIED = 2000


@dataclass
class VerificationSettings(SupervisedSettings):
    """Settings of `verification`.

    Attributes:
        channels: of the ECAPA-TDNN, a multiple of 8.
        embedding_dim: of what it gives.
        margin: of the angle to the right speaker, in radians.
        scale: of the cosines in the softmax.
    """

    layers: str = "weighted"
    channels: records.PositiveCount = 512
    embedding_dim: records.PositiveCount = 192
    margin: ranges.Share = 0.2
    scale: records.Positive = 30.0

    def __post_init__(self):
        super().__post_init__()
        if self.channels % 8:
            raise ConfigError(f"streams.*.channels: {self.channels}", "a multiple of 8", "correct streams.*.channels")


class VerificationObjective(SupervisedObjective):
    """Angular margin softmax over the training speakers; the validation gives the equal error rate over all pairs."""

    Settings = VerificationSettings
    unit, measures, judged, falling = "nats", ("accuracy",), ("eer", "trials"), ("eer",)

    def __init__(self, context: Context):
        super().__init__(context)
        count, settings = self.vocabulary.size, self.settings
        sizes = settings.channels, settings.embedding_dim, settings.margin, settings.scale
        self.head = UtteranceHeadSpec(lambda encoder: SpeakerHead(encoder, count, settings.layers, *sizes))

    @classmethod
    def reads(cls, settings, name: str, data_dir: Path, domains: tuple[str, ...]) -> SupervisionStreamConfig:
        """See `Objective`."""
        return labels_of(settings, name, data_dir, domains, "speaker")

    def judge(self, scores: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """The equal error rate of the cosines of all pairs of held-out cuts, if some are of one speaker and some not.

        Where speakers who are not trained on give pairs of both kinds, theirs alone count.
        """
        if not scores:
            return {}
        embedding_NE, speaker_N = (torch.cat(parts) for parts in zip(*scores))
        strange_N = speaker_N >= self.vocabulary.size
        if 1 < len(speaker_N[strange_N].unique()) < strange_N.sum():
            embedding_NE, speaker_N = embedding_NE[strange_N], speaker_N[strange_N]
        kept = np.unique(np.linspace(0, len(speaker_N) - 1, min(len(speaker_N), MOST_TRIED)).round().astype(np.int64))
        embedding_NE, speaker_N = embedding_NE[kept], speaker_N[kept]
        first, second = np.triu_indices(len(kept), 1)
        cosines = (embedding_NE @ embedding_NE.T).numpy()[first, second]
        same = (speaker_N[:, None] == speaker_N).numpy()[first, second]
        if same.all() or not same.any():
            return {"trials": float(len(same))}
        return {"eer": equal_error_rate(cosines, same), "trials": float(len(same))}

    def decode(self, head: SpeakerHead, encoded: Encoded) -> list[Tensor]:
        """For each utterance its embedding, (embedding_dim,) of length 1; the cosine of two says how alike they are."""
        return list(head.embed(encoded).cpu())
