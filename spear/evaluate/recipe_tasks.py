"""Decode tasks: which items, which targets, which split, read from the resolved `data/manifests/tasks.yaml`.

Stage 1 decides the splits and writes them into the cuts (`Item.task_splits`), so that pre-training can leave dev and
test items out; here they are only read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from spear import config, fs, records
from spear.errors import ConfigError, DataError
from spear.evaluate.metrics import DECODE_METRICS
from spear.evaluate.units import normalise_text
from spear.manifest import Item, manifest_files, read_items

SPLITS = ("train", "dev", "test")
HEADS = ("classify", "slots", "ctc")
Target = str | tuple[str, ...]
_TARGET = r"^(speaker|text|phones|label:\w+(\s*,\s*label:\w+)*)$"


@dataclass
class _Entry:
    """A task as stage 1 writes it; the name is that of a folder."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,200}\Z")]
    head: Literal[HEADS]
    target: Annotated[str, msgspec.Meta(pattern=_TARGET)]
    metric: Literal[DECODE_METRICS]
    title: str | None = None
    ablation: bool | None = False


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: file-name friendly.
        head: `classify` (one label), `slots` (several labels, all must be right), `ctc` (a sequence).
        target: `label:KEY`, `speaker`, `text`, `phones`, or several `label:KEY` joined by commas.
        metric: a key of `metrics.DECODE_METRICS`.
        is_ablation: left out of `--task all` unless asked for.
    """

    name: str
    title: str
    head: str
    target: str
    metric: str
    is_ablation: bool = False

    @property
    def needs_frames(self) -> bool:
        """Whether time means of the hidden states do not suffice."""
        return self.head == "ctc"


@dataclass(frozen=True)
class Example:
    """An item with its target: a label, a tuple of labels (slots) or of phones, or a normalised text."""

    item: Item
    target: Target


@dataclass
class Examples:
    """The examples of a task by split, and the items left out with the reason."""

    splits: dict[str, list[Example]] = field(default_factory=lambda: {name: [] for name in SPLITS})
    skipped: list[dict] = field(default_factory=list)

    def all(self) -> list[Example]:
        """Train, dev and test together."""
        return [example for name in SPLITS for example in self.splits[name]]

    def content_hash(self) -> str:
        """Depends on ids, splits and targets."""
        rows = {name: [[e.item.id, e.target] for e in self.splits[name]] for name in SPLITS}
        return fs.sha256_json(rows)


Refuse = Callable[[str, ConfigError], None]


def read_tasks(data_dir: str | Path, refuse: Refuse | None = None) -> list[Task]:
    """The tasks of a prepared data folder.

    Args:
        refuse: is told the name and the error of each task that cannot be read; None: the first one is raised.

    Raises:
        DataError: `manifests/tasks.yaml` is missing.
        ConfigError: it is no list of tasks, or a task lacks a key or has an unknown head or metric.
    """
    path = Path(data_dir) / "manifests" / "tasks.yaml"
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
            tasks[entry.name] = Task(
                entry.name, entry.title or entry.name, entry.head, entry.target, entry.metric, bool(entry.ablation)
            )
        except DataError as error:
            refused = ConfigError(error.found, error.expected, error.fix)
            if refuse is None:
                raise refused from error
            refuse(name, refused)
    return list(tasks.values())


def find_tasks(data_dir: str | Path, names: Sequence[str], refuse: Refuse | None = None) -> list[Task]:
    """Tasks by name; `all` stands for all but those of the ablation, which may be none.

    Args:
        refuse: see `read_tasks`; is told of those alone that are asked for.

    Raises:
        ConfigError: no such task in this corpus; names those that are.
    """
    refused: dict[str, ConfigError] = {}
    tasks = read_tasks(data_dir, None if refuse is None else refused.setdefault)
    for name in refused if "all" in names else set(refused) & set(names):
        refuse(name, refused[name])
    chosen: dict[str, Task] = {}
    for name in names:
        found = [t for t in tasks if (name == "all" and not t.is_ablation) or t.name == name]
        if not found and name != "all" and name not in refused:
            known = ", ".join(t.name for t in tasks) or "no task at all"
            raise ConfigError(f"task '{name}'", f"one that this corpus has: {known}", "correct --task")
        chosen.update({t.name: t for t in found})
    return list(chosen.values())


def read_all_items(data_dir: str | Path) -> list[Item]:
    """Every item of `data_dir/manifests/cuts_*.jsonl`, once, sorted by id.

    Raises:
        DataError: there is no such file.
    """
    paths = manifest_files(Path(data_dir) / "manifests")
    if not paths:
        raise DataError(f"no cuts in {Path(data_dir) / 'manifests'}", "cuts_*.jsonl", "run ./prepare.sh --stage 1")
    items = {item.id: item for path in paths for item in read_items(path)}
    return [items[key] for key in sorted(items)]


def item_target(item: Item, target: str) -> Target | None:
    """The target of an item, None when it has none (an empty string or list counts as none)."""
    if target == "speaker":
        return item.speaker or None
    if target == "text":
        return normalise_text(item.text or "") or None
    if target == "phones":
        return tuple(item.phones or ()) or None
    values = [item.labels.get(part.strip().removeprefix("label:")) for part in target.split(",")]
    if any(value in (None, "") for value in values):
        return None
    return values[0] if len(values) == 1 else tuple(values)


def make_examples(task: Task, items: Sequence[Item], max_items: int | None = None) -> Examples:
    """The examples of a task.

    Args:
        max_items: at most this many of each split, chosen by a hash of the id (declared in the run file).

    Raises:
        DataError: a split is empty; says which.
    """
    examples = Examples()
    for item in items:
        split = item.task_splits.get(task.name)
        if split not in SPLITS:
            continue
        target = item_target(item, task.target)
        if target is None:
            examples.skipped.append({"id": item.id, "split": split, "reason": f"no {task.target}"})
            continue
        examples.splits[split].append(Example(item, target))
    for name, chosen in examples.splits.items():
        if not chosen:
            raise DataError(
                f"task {task.name} has no {name} item",
                "items in train, dev and test",
                "prepare more data, or change the task's split in the recipe's conf and run stage 1 again",
            )
        if max_items and len(chosen) > max_items:
            kept = sorted(chosen, key=lambda e: fs.sha256_bytes(e.item.id.encode()))[:max_items]
            examples.splits[name] = sorted(kept, key=lambda e: e.item.id)
    return examples
