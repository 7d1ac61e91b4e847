"""Suites: tasks that are scored together, where their rows come from, and the protocol that is theirs.

`mini` are the tasks that a recipe states (`DATA_DIR/manifests/tasks.yaml`, which stage 1 writes with the splits into
the cuts), `superb` those of SUPERB (`DATA_DIR/superb/<TASK>.jsonl`, see `table`), `hear` those of HEAR 2021
(`DATA_DIR/tasks`), `esc50` the folds of ESC-50, `arch` and `arch_legacy` the twelve corpora of ARCH, clean and as
published, `tags` AudioSet-20k and FSD50K (`DATA_DIR/corpora`). One more suite is a class in `SUITES`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from spear import config, records
from spear.errors import ConfigError, DataError
from spear.evaluate.arch.suite import ArchTasks, LegacyArchTasks
from spear.evaluate.esc50 import Esc50Tasks
from spear.evaluate.hear.suite import HearTasks
from spear.evaluate.metrics import HIGHER_IS_BETTER
from spear.evaluate.own import OwnLabels
from spear.evaluate.suite import Refuse, Suite
from spear.evaluate.table import SPLITS, Row, Table, present_tasks, read_table, settled
from spear.evaluate.tagged import TagTasks
from spear.evaluate.task import Task
from spear.evaluate.tasks import TASKS, regression
from spear.evaluate.tasks.generic import LabelTask, SequenceTask
from spear.evaluate.tasks.retrieval import RetrievalTask
from spear.evaluate.tasks.tags import TagTask
from spear.evaluate.units import normalise_text
from spear.manifest import Item, manifest_files, read_items
from spear.manifest.tasks import HEADS

_LABELLED = {"classify": LabelTask, "slots": LabelTask, "tags": TagTask, "retrieve": RetrievalTask}
"""Tasks of labels by head; each has its own metric."""

_TARGET = r"^(speaker|text|phones|label:\w+(\s*,\s*label:\w+)*)$"


# SUPERB --------------------------------------------------------------------------------------------------------------


class SuperbTasks(Suite):
    """The ten tasks of SUPERB (`all`) and those of SUPERB-SG (`sg`) that the data have."""

    name = own_protocol = manifests = "superb"

    def find(self, names: Sequence[str], refuse: Refuse | None = None) -> list[Task]:
        """See `Suite`; names have either case.

        Raises:
            DataError: `all` or `sg`, and the folder has none of them.
        """
        by_name = {name.lower(): task for name, task in TASKS.items()}
        chosen: dict[str, Task] = {}
        for name in names:
            if name in ("all", "sg"):
                present = present_tasks(self.data_dir, [task.name for task in TASKS.values() if task.board == name])
                if not present:
                    raise DataError(f"no manifest in {self.data_dir / 'superb'}", "<TASK>.jsonl", "run prepare.sh")
                chosen |= {task: TASKS[task] for task in present}
            elif name.lower() in by_name:
                chosen[by_name[name.lower()].name] = by_name[name.lower()]
            else:
                raise ConfigError(f"task '{name}'", f"all, sg, or some of {', '.join(TASKS)}", "correct --tasks")
        return list(chosen.values())

    def table(self, task: Task, max_items: int | None = None, gain_db: float = 0.0) -> Table:
        """See `Suite`."""
        table = _read_superb(str(self.data_dir), task.name, max_items, gain_db)
        return Table(list(table.rows), list(table.skipped), list(table.trials))


@functools.lru_cache(maxsize=16)
def _read_superb(data_dir: str, task: str, max_items: int | None, gain_db: float) -> Table:
    return read_table(data_dir, task, TASKS[task].refuse, max_items, gain_db)


# Tasks of a recipe ---------------------------------------------------------------------------------------------------


@dataclass
class _Entry:
    """A task as stage 1 writes it; the name is that of a folder."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,200}\Z")]
    head: Literal[HEADS]
    target: Annotated[str, msgspec.Meta(pattern=_TARGET)]
    metric: Literal[tuple(HIGHER_IS_BETTER)]
    title: str | None = None
    superb: str | None = ""
    ablation: bool | None = False
    optional: bool | None = False


class RecipeTasks(Suite):
    """The tasks of `manifests/tasks.yaml`; `all` leaves those of ablations out, `every` does not.

    Optional ones are in neither: they are scored when they are named. An entry is a linear head on labels (`classify`,
    `slots`, of which all must be right, and `tags`), numbers (`regress`) or sequences (`ctc`), or a search without a
    head (`retrieve`), or, with `superb: NAME`, that task of SUPERB itself, with its rules.
    """

    name = own_protocol = "mini"
    manifests = "manifests"

    def find(self, names: Sequence[str], refuse: Refuse | None = None) -> list[Task]:
        """See `Suite`."""
        refused: dict[str, ConfigError] = {}
        tasks = self._read(None if refuse is None else refused.setdefault)
        for name in refused if {"all", "every"} & set(names) else set(refused) & set(names):
            refuse(name, refused[name])
        chosen: dict[str, Task] = {}
        for name in names:
            groups = {"every": [t for t in tasks if not t.is_optional]}
            groups["all"] = [t for t in groups["every"] if not t.is_ablation]
            found = groups.get(name) or [t for t in tasks if t.name == name]
            if not found and name not in ("all", "every", *refused):
                known = ", ".join(t.name for t in tasks) or "no task at all"
                raise ConfigError(f"task '{name}'", f"one that this corpus has: {known}", "correct --tasks")
            chosen.update({t.name: t for t in found})
        return list(chosen.values())

    def _read(self, refuse: Refuse | None) -> list[Task]:
        path = self.data_dir / "manifests" / "tasks.yaml"
        if not path.exists():
            raise DataError(f"no file {path}", "the tasks of the corpus", "run ./prepare.sh --stage 1 --stop-stage 1")
        fix = "correct the task in the recipe's conf and run stage 1 again"
        entries = config.load_yaml(path).get("tasks") or []
        if not isinstance(entries, list):
            raise ConfigError(f"{path}, field tasks: no list", "a list of tasks", fix)
        tasks: dict[str, Task] = {}
        for number, values in enumerate(entries, 1):
            name = str(values.get("name", number))[:200] if isinstance(values, dict) else str(number)
            try:
                entry = records.convert(values, _Entry, f"task {name} in {path}", fix)
                if entry.name in tasks:
                    raise DataError(f"task {name} in {path}, field name: for the second time", "unique names", fix)
                tasks[entry.name] = _task(entry, f"task {name} in {path}", fix)
            except DataError as error:
                refused = ConfigError(error.found, error.expected, error.fix)
                if refuse is None:
                    raise refused from error
                refuse(name, refused)
        return list(tasks.values())

    def table(self, task: Task, max_items: int | None = None, gain_db: float = 0.0) -> Table:
        """See `Suite`.

        Raises:
            DataError: a split is empty; says which.
        """
        rows, skipped = [], []
        for item in read_all_items(self.data_dir):
            split = item.task_splits.get(task.name)
            if split not in SPLITS:
                continue
            target = item_target(item, task.target)
            reason = f"no {task.target}" if target is None else task.refuse(target)
            if reason:
                skipped.append({"id": item.id, "split": split, "reason": reason})
                continue
            rows.append(Row(item.id, split, item, target, ""))
        for name in SPLITS:
            if not any(row.split == name for row in rows):
                raise DataError(
                    f"task {task.name} has no {name} item",
                    "items in train, dev and test",
                    "prepare more data, or change the task's split in the recipe's conf and run stage 1 again",
                )
        return Table(settled(rows, self.data_dir / self.manifests, max_items, gain_db), skipped)


def _task(entry: _Entry, where: str, fix: str) -> Task:
    metrics: tuple[str, ...] = (entry.metric,)
    if entry.superb:
        known = TASKS.get(entry.superb)
        if known is None or not known.trained_splits or known.metrics[0] != entry.metric:
            usual = ", ".join(name for name, task in TASKS.items() if task.metrics[0] == entry.metric)
            raise DataError(f"{where}, field superb: {entry.superb}", f"a task of this metric: {usual}", fix)
        task = type(known)()
        task.name, task.title, task.settings_key = entry.name, entry.title or known.title, known.name
    elif entry.head == "ctc":
        task = SequenceTask(entry.name, entry.title or entry.name, entry.metric, entry.target == "phones")
    elif entry.head == "regress":
        metrics = regression.METRICS
        task = regression.NumberTask(entry.name, entry.title or entry.name, entry.metric)
    else:
        task = _LABELLED[entry.head](entry.name, entry.title or entry.name)
        metrics = task.metrics[:1]
    if entry.metric not in metrics:
        raise DataError(f"{where}, field metric: {entry.metric}", f"for {entry.head}: {' or '.join(metrics)}", fix)
    task.target, task.is_ablation, task.is_optional = entry.target, bool(entry.ablation), bool(entry.optional)
    return task


@functools.lru_cache(maxsize=1)
def _items(paths: tuple[Path, ...], changed_ns: tuple[int, ...]) -> tuple[Item, ...]:
    items = {item.id: item for path in paths for item in read_items(path)}
    return tuple(items[key] for key in sorted(items))


def read_all_items(data_dir: str | Path) -> tuple[Item, ...]:
    """Every item of `data_dir/manifests/cuts_*.jsonl`, once, sorted by id.

    Raises:
        DataError: there is no such file.
    """
    paths = tuple(manifest_files(Path(data_dir) / "manifests"))
    if not paths:
        raise DataError(f"no cuts in {Path(data_dir) / 'manifests'}", "cuts_*.jsonl", "run ./prepare.sh --stage 1")
    return _items(paths, tuple(path.stat().st_mtime_ns for path in paths))


def item_target(item: Item, target: str) -> str | list[str] | dict[str, str] | None:
    """The target of an item, None when it has none (an empty string or list counts as none).

    Args:
        target: `label:KEY`, `speaker`, `text`, `phones`, or several `label:KEY` joined by commas, which give {KEY:
            label}.
    """
    if target == "speaker":
        return item.speaker or None
    if target == "text":
        return normalise_text(item.text or "") or None
    if target == "phones":
        return list(item.phones or ()) or None
    keys = [part.strip().removeprefix("label:") for part in target.split(",")]
    values = {key: item.labels.get(key) for key in keys}
    if any(value in (None, "") for value in values.values()):
        return None
    return values[keys[0]] if len(keys) == 1 else values


SUITES: dict[str, type[Suite]] = {
    suite.name: suite
    for suite in (RecipeTasks, SuperbTasks, HearTasks, Esc50Tasks, ArchTasks, LegacyArchTasks, TagTasks, OwnLabels)
}


def open_suite(place: dict[str, Any]) -> Suite:
    """The suite of a `Suite.place`."""
    return SUITES[place["suite"]](**{key: value for key, value in place.items() if key != "suite"})


def suites_of(names: str, data_dir: str | Path, protocol: str = "", **options: dict[str, Any]) -> list[Suite]:
    """The suites of a list joined by commas.

    Args:
        options: of suites that have some, by their names.

    Raises:
        ConfigError: no such suite, or no such protocol.
    """
    wanted = list(dict.fromkeys(names.split(",")))
    known = [name for name in SUITES if name != OwnLabels.name]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"suite '{unknown[0]}'", " or ".join(known), "correct --suite")
    return [SUITES[name](data_dir, protocol, **options.get(name, {})) for name in wanted]
