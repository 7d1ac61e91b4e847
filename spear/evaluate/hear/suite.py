"""The suite: which tasks a folder has, their rows, their folds, and what they are scored by."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spear.errors import ConfigError, DataError
from spear.evaluate.cache import FeatureStore
from spear.evaluate.hear.events import EventProblem
from spear.evaluate.hear.layout import METADATA, METRICS, Layout, read_layout, read_rows
from spear.evaluate.hear.problem import HearProblem
from spear.evaluate.metrics import HIGHER_IS_BETTER
from spear.evaluate.problems import Splits
from spear.evaluate.protocol import PerceptronSettings
from spear.evaluate.suite import Refuse, Suite
from spear.evaluate.table import Row, Table
from spear.evaluate.task import Task, in_turn

_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,199}")


class HearTask(Task):
    """A task as its folder states it; `target` is a list of class numbers, or of [label, start, end] in seconds."""

    settings_key = "hear"

    def __init__(self, layout: Layout):
        self.layout, self.metadata = layout, layout.metadata
        self.name, self.title = layout.folder.name, layout.metadata.task_name.replace("_", " ")
        named = dict.fromkeys(METRICS[name] for name in layout.metadata.evaluation)
        self.metrics = tuple(name for name in named if name in HIGHER_IS_BETTER)
        self.needs_frames = self.needs_centres = layout.metadata.embedding_type == "event"

    @property
    def identity(self) -> list[Any]:
        """See `Task`."""
        metadata = self.metadata
        asked = [metadata.embedding_type, metadata.prediction_type, metadata.is_folded, self.metrics]
        own = [metadata.evaluation_params, metadata.use_scoring_for_early_stopping, metadata.task_name]
        return [*super().identity, *asked, *own, self.layout.labels]

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """Every fold is tested once, selected on the next one and trained on the others."""
        if not self.metadata.is_folded:
            return super().folds(table)
        rows: dict[str, list[Row]] = {name: [] for name in self.layout.splits}
        for row in table.rows:
            rows[row.extra["fold"]].append(row)
        return in_turn(rows)

    def doubts(self, table: Table) -> list[str]:
        """See `Task`; a partial copy is told, and so are labels of test that training lacks."""
        return table.absent() + super().doubts(table)

    @property
    def judged_by(self) -> str:
        """See `Task`: every label of the vocabulary counts, as events do, whether it is in training or not."""
        return "accuracy" if self.metadata.prediction_type == "multiclass" else "event_f1"

    def judged(self, target: list) -> tuple[tuple[str, ...], str]:
        """See `Task`."""
        return tuple(part[0] if self.needs_frames else self.layout.labels[part] for part in target), ""

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: PerceptronSettings) -> HearProblem:
        """See `Task`."""
        kind = EventProblem if self.needs_frames else HearProblem
        return kind(splits, store, settings, self.metadata, self.layout.labels)


class HearTasks(Suite):
    """The tasks in `DATA_DIR/tasks`; a name is that of a folder, of a task in any version, or `all`.

    Args:
        data_dir, protocol: see `Suite`.
        states: which hidden states are an embedding; part of where the run files are.
        grid: `published`, or `all` sixteen points.

    Raises:
        ConfigError: other words for those.
    """

    name = own_protocol = "hear"
    manifests = "tasks"

    def __init__(self, data_dir: str | Path, protocol: str = "", states: str = "last", grid: str = "published"):
        super().__init__(data_dir, protocol)
        self.changes = {"states": states, "grid": grid}
        PerceptronSettings((1.0,), **self.changes)

    @property
    def folder(self) -> str:
        """See `Suite`."""
        changed = [value for value in self.changes.values() if value not in ("last", "published")]
        return "-".join([super().folder, *changed])

    @property
    def place(self) -> dict[str, Any]:
        """See `Suite`."""
        return super().place | self.changes

    def find(self, names: Sequence[str], refuse: Refuse | None = None) -> list[Task]:
        """See `Suite`.

        Raises:
            DataError: `all`, and there is none.
        """
        folders = sorted(path.parent for path in (self.data_dir / self.manifests).glob(f"*/{METADATA}"))
        known = {path.name: path for path in folders if _NAME.fullmatch(path.name)}
        chosen: dict[str, Path] = {}
        for name in names:
            found = {n: p for n, p in known.items() if name in ("all", n) or n.startswith(f"{name}-")}
            if not found and name == "all":
                raise DataError(
                    f"no task in {self.data_dir / self.manifests}", f"TASK/{METADATA}", "unpack HEAR's archives there"
                )
            if not found:
                raise ConfigError(f"task '{name}'", f"all, or some of {', '.join(known)}", "correct --tasks")
            chosen |= found
        tasks = []
        for name, path in chosen.items():
            try:
                tasks.append(_task(path))
            except DataError as error:
                refused = ConfigError(error.found, error.expected, error.fix)
                if refuse is None:
                    raise refused from error
                refuse(name, refused)
        return tasks

    def table(self, task: Task, max_items: int | None = None, gain_db: float = 0.0) -> Table:
        """See `Suite`."""
        return self.usable(task, *read_rows(task.layout), max_items, gain_db)


def _task(path: Path) -> HearTask:
    task = HearTask(read_layout(path))
    if not task.metrics:
        raise DataError(f"{path / METADATA}, field evaluation: no known metric", f"some of {', '.join(METRICS)}", "")
    return task
