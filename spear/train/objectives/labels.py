"""One label for each frame: k-means clusters as HuBERT predicts them, or any other stream of whole numbers."""

from dataclasses import dataclass
from typing import ClassVar

from spear.train.objectives.base import Settings
from spear.train.objectives.tokens import DelayFrames, TokenObjective


@dataclass
class LabelSettings(Settings):
    """Settings of `labels`; how many classes there are (up to 65,536), their card says.

    Attributes:
        delay_frames: see `TokenSettings`.
        labels: directory of the label store below the data directory; None means `tokens/<stream name>`.
    """

    mix_tokens: ClassVar[bool] = False
    delay_frames: DelayFrames = 0
    labels: str | None = None

    def stores(self, name: str) -> tuple[str, ...]:
        """See `Settings`."""
        return (self.labels or f"tokens/{name}",)


class LabelObjective(TokenObjective):
    """Labels from a store (`spear kmeans-labels`, `import-labels`), aligned as tokens are; one softmax.

    What is mixed into a cut is noise to it: the labels stay those of the cut.
    """

    Settings = LabelSettings
