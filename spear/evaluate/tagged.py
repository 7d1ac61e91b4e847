"""Linear probes on tags: AudioSet's balanced part (AudioSet-20k) and FSD50K, by mean average precision.

Others fine-tune on these, or report HEAR's predictor; a frozen probe is a number of its own. AudioSet has no part for
selection: a tenth of training is drawn for it. Nobody has all of AudioSet: how many clips were scored stands in the
run file and beside the score.
"""

from collections.abc import Iterator
from pathlib import Path

from spear.evaluate.arch.layouts import fsd50k
from spear.evaluate.listed import Clip, Corpus, ListedTasks, drawn
from spear.evaluate.problems import Splits
from spear.evaluate.table import Table
from spear.evaluate.tasks.tags import TagTask
from spear.manifest.corpora.tables import audioset
from spear.manifest.scan import Scan

_PARTS = {"balanced_train": "train", "eval": "test"}
_DEV_SHARE = 0.1


def _balanced(folder: Path, found: Scan) -> Iterator[Clip]:
    scan = audioset(folder, "event")
    found.refused += scan.refused
    for entry in scan.entries:
        if entry.columns["part"] in _PARTS:
            tags = [tag for tag in entry.labels["labels"].split(",") if tag]
            yield Clip(entry.path, tags, _PARTS[entry.columns["part"]])


CORPORA = (
    Corpus("audioset_balanced", "AudioSet-20k", "balanced_train_segments.csv", _balanced, 10.0),
    Corpus("fsd50k", "FSD50K", "FSD50K.ground_truth/dev.csv", fsd50k),
)


class TagProbe(TagTask):
    """One corpus."""

    def __init__(self, corpus: Corpus):
        super().__init__(corpus.name, corpus.title)

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """See `Task`; where there is no dev part it is drawn from train."""
        (splits,) = super().folds(table).values()
        if not splits["dev"]:
            splits["train"], splits["dev"] = drawn(splits["train"], _DEV_SHARE, together=True)
        return {"": splits}

    def doubts(self, table: Table) -> list[str]:
        """See `Task`."""
        return [*table.absent(), *super().doubts(table)]


class TagTasks(ListedTasks):
    """The suite."""

    name = own_protocol = "tags"
    corpora, make = CORPORA, TagProbe
