"""One label for each frame: k-means clusters as HuBERT predicts them, or any other stream of whole numbers."""

from dataclasses import dataclass
from pathlib import Path

from spear.data.streams import StreamConfig
from spear.train.objectives.base import Settings
from spear.train.objectives.tokens import TokenObjective


@dataclass
class LabelSettings(Settings):
    """Settings of `labels`; how many classes there are (up to 65,536), their card says.

    Attributes:
        labels: directory of the label store below the data directory; None means `tokens/<stream name>`.
    """

    labels: str | None = None

    def stores(self, name: str) -> tuple[str, ...]:
        """See `Settings`."""
        return (self.labels or f"tokens/{name}",)


class LabelObjective(TokenObjective):
    """Labels from a store (`spear kmeans-labels`, `import-labels`), aligned as tokens are; one softmax.

    What is mixed into a cut is noise to it: the labels stay those of the cut.
    """

    Settings = LabelSettings

    @classmethod
    def reads(cls, settings, name: str, data_dir: Path, domains: tuple[str, ...]) -> StreamConfig:
        """See `Objective`."""
        [store] = settings.stores(name)
        return StreamConfig(name=name, path=str(data_dir / store), domains=domains)
