"""What can be fine-tuned, and the settings of the trainer that suit little data."""

from dataclasses import dataclass

from spear.errors import ConfigError
from spear.manifest.scan import Entry


@dataclass(frozen=True)
class Task:
    """One kind of fine-tuning.

    Attributes:
        name: of the objective.
        target: the column that is read unless another one is named.
        metric: of `spear.evaluate.metrics`.
        is_text: the target is a transcript.
        several: a recording may have several labels.
        open_set: test labels need not be known to training (speakers).
        layers: what the head reads.
        judged_by: the number of the validation by which checkpoints are averaged.
    """

    name: str
    target: str
    metric: str
    is_text: bool = False
    several: bool = False
    open_set: bool = False
    layers: str = "last"
    judged_by: str = "loss/{}/unmasked"

    def group_of(self, target: str) -> str:
        """The column that is never divided, unless another one is named; empty for the recording itself."""
        return target if self.open_set else ""

    def label(self, entry: Entry, target: str, value: str) -> None:
        """Puts the target where streams of supervisions look for it."""
        if self.is_text:
            entry.text = value
        elif self.open_set:
            entry.speaker = value
        else:
            entry.labels = {target: value}

    def check_cut(self, target: str) -> None:
        """Refuses a column of lhotse's cuts in which streams would not find what they look for.

        Raises:
            ConfigError: texts and speakers have one place only.
        """
        place = "text" if self.is_text else "speaker" if self.open_set else target
        if target != place:
            raise ConfigError(f"--target {target} of cuts, for {self.name}", f"--target {place}", "correct --target")


TASKS = {
    task.name: task
    for task in (
        Task("ctc", "text", "wer", is_text=True),
        Task("transducer", "text", "wer", is_text=True),
        Task("tagging", "tags", "map", several=True, layers="weighted", judged_by="map/{}"),
        Task("classification", "class", "accuracy", layers="weighted"),
        Task("verification", "speaker", "eer", open_set=True, layers="weighted", judged_by="eer/{}"),
    )
}
