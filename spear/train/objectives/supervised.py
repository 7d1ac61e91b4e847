"""What objectives on transcripts and labels have in common: a vocabulary, and targets from a stream of supervisions."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from spear.data.collate import Batch
from spear.data.supervisions import SupervisionStreamConfig
from spear.errors import ConfigError
from spear.models.layers import check_layers
from spear.train.objectives.base import Context, Objective, Settings


@dataclass
class SupervisedSettings(Settings):
    """What the settings of all these objectives have.

    Attributes:
        vocabulary: a file below the data directory instead of the vocabulary of the training cuts: what an earlier run
            wrote; of transcripts also a sentencepiece model, of labels also a text file with a name on each line.
        layers: what the head reads: the `last` layer, or `weighted`: a learned weighted sum of all states.
    """

    vocabulary: str = ""
    layers: str = "last"

    def __post_init__(self):
        super().__post_init__()
        check_layers(self.layers, "streams.*.layers")


class SupervisedObjective(Objective):
    """Base of `ctc`, `transducer`, `tagging`, `classification` and `verification`.

    Nothing is masked: `spec_augment` and `mixing` are what makes the input harder.

    Attributes:
        vocabulary: what the numbers of the labels mean.

    Raises:
        ConfigError: fewer labels than there is something to choose from.
    """

    masks_input = False
    least_labels = 2

    def __init__(self, context: Context):
        super().__init__(context)
        self._stream, self.vocabulary = context.stream, context.stream.vocabulary
        if self.vocabulary.size < self.least_labels:
            raise ConfigError(
                f"stream '{self.name}' with {self.vocabulary.size} label(s): {', '.join(self.vocabulary.units)}",
                f"at least {self.least_labels} in the training cuts",
                "check the manifest and the key of the stream",
            )

    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """(B, 1, 1) classes or (B, 1, C) tags, -100 where nothing is known."""
        return batch.targets[self.name]

    def card(self) -> dict:
        """The vocabulary."""
        return {"vocabulary": self.vocabulary.card()}

    def save(self, directory: Path) -> None:
        """See `Objective`."""
        self._stream.save(directory)

    def by_name(self, probabilities: Tensor) -> dict[str, float]:
        """Names of labels with their probabilities, (C,), the most likely first."""
        order = probabilities.argsort(descending=True, stable=True).tolist()
        values = probabilities.tolist()
        return {self.vocabulary.units[number]: values[number] for number in order}


def labels_of(
    settings: SupervisedSettings, name: str, data_dir: Path, domains: tuple[str, ...], kind: str
) -> SupervisionStreamConfig:
    """The stream of labels that an objective's settings ask for.

    Args:
        settings: with `key` and `separator` where its kind has them.
        name: of the stream.
        data_dir: that a vocabulary's path is relative to.
        domains: of the cuts.
        kind: `class`, `tags` or `speaker`.
    """
    return SupervisionStreamConfig(
        name,
        "",
        domains,
        kind=kind,
        key=getattr(settings, "key", ""),
        separator=getattr(settings, "separator", ";"),
        vocabulary=str(data_dir / settings.vocabulary) if settings.vocabulary else "",
    )
