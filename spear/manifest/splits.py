"""Dividing the recordings of every task into train, dev and test, and keeping dev and test out of pre-training."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from spear.manifest.scan import Entry
from spear.manifest.tasks import TaskSpec, group_of, is_selected, target_of
from spear.manifest.words import split_of

SPLITS = ("train", "dev", "test")


@dataclass
class ResolvedTask:
    """A task on the recordings that are there: split by recording id, and remarks about what was left out."""

    spec: TaskSpec
    splits: dict[str, str] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    def counts(self) -> dict[str, int]:
        """Recordings by split."""
        count = Counter(self.splits.values())
        return {name: count[name] for name in SPLITS}

    def classes(self) -> list[str]:
        """Sorted classes; empty for sequences."""
        if self.spec.head != "classify":
            return []
        return sorted({self.targets[item] for item in self.splits})


def foreign_splits(specs: list[TaskSpec], entries: list[Entry]) -> dict[str, str]:
    """Recordings of a task whose split, in its column, is none that we know, with the reason.

    They might be anybody's test data, so they can neither take part nor be trained on.
    """
    reasons = {}
    for spec in specs:
        for entry in entries if spec.split.by == "column" else ():
            if is_selected(entry, spec.select) and target_of(entry, spec.target) is not None:
                group = group_of(entry, spec.split)
                if group is not None and not split_of(group):
                    reasons[entry.id] = f"split '{group}' of task {spec.name} is none of train, dev (valid) and test"
    return reasons


def resolve_task(spec: TaskSpec, entries: list[Entry]) -> ResolvedTask:
    """Divides the recordings of a task. `skipped` says why when there are too few."""
    task = ResolvedTask(spec)
    groups: dict[str, str] = {}
    for entry in entries:
        target = target_of(entry, spec.target) if is_selected(entry, spec.select) else None
        group = group_of(entry, spec.split) if target is not None else None
        if group is not None:
            groups[entry.id], task.targets[entry.id] = group, target
    if not groups:
        task.skipped = "no recording fits its selection"
        return task
    task.splits = _divide(spec, groups, task.targets)
    _ensure_dev(task)
    {"classify": _drop_small_classes, "slots": _drop_unseen_slots}.get(spec.head, _check_counts)(task)
    if not task.skipped:
        empty = [name for name, count in task.counts().items() if count == 0]
        task.skipped = f"no recording for {' and '.join(empty)}" if empty else ""
    return task


def held_out(tasks: list[ResolvedTask], entries: list[Entry], refused: Set[str] = frozenset()) -> set[str]:
    """Ids that pre-training must not see: dev or test of some task, what was refused, and mixtures of these."""
    ids = set(refused)
    ids |= {item for task in tasks if not task.skipped for item, split in task.splits.items() if split != "train"}
    for entry in entries:
        if not ids.isdisjoint(entry.labels.get("sources", "").split("+")):
            ids.add(entry.id)
    return ids


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _divide(spec: TaskSpec, groups: dict[str, str], targets: dict[str, Any]) -> dict[str, str]:
    split = spec.split
    if split.by == "column":
        named = {item: split_of(group) for item, group in groups.items()}
        # Where there is a test set but no dev set beside it, "eval" is what training is watched on.
        evaluated = {item for item, group in groups.items() if group.strip().lower().startswith("eval")}
        others = {name for item, name in named.items() if item not in evaluated}
        if "test" in others and "dev" not in others:
            named |= dict.fromkeys(evaluated, "dev")
        return {item: name for item, name in named.items() if name}
    if split.by == "random":
        return _divide_at_random(spec, list(groups), targets)
    if split.test:
        of_group = {**dict.fromkeys(split.dev, "dev"), **dict.fromkeys(split.test, "test")}
    else:
        order = sorted(set(groups.values()), key=lambda group: _hash(spec.name, group))
        num_test = max(1, round(split.test_fraction * len(order)))
        num_dev = max(1, round(split.dev_fraction * len(order))) if split.dev_fraction and not split.dev else 0
        of_group = {**dict.fromkeys(order[:num_test], "test")}
        of_group |= dict.fromkeys(split.dev or order[num_test : num_test + num_dev], "dev")
    return {item: of_group.get(group, "train") for item, group in groups.items()}


def _divide_at_random(spec: TaskSpec, ids: list[str], targets: dict[str, Any]) -> dict[str, str]:
    """By hash; for classes, the test fraction holds within each (one recording is always left for training)."""
    strata: dict[Any, list[str]] = defaultdict(list)
    for item in ids:
        strata[targets[item] if spec.head == "classify" else ""].append(item)
    splits = dict.fromkeys(ids, "train")
    for members in strata.values():
        members.sort(key=lambda item: _hash(spec.name, item))
        wanted = max(round(spec.split.test_fraction * len(members)), spec.min_test)
        splits.update(dict.fromkeys(members[: min(wanted, len(members) - 1)], "test"))
    return splits


def _ensure_dev(task: ResolvedTask) -> None:
    """Takes dev recordings from the training set by hash, where the split itself made none."""
    fraction = task.spec.split.dev_fraction or 0.1
    training = [item for item, split in task.splits.items() if split == "train"]
    if "dev" in task.splits.values() or len(training) < 2:
        return
    kind = task.spec.head == "classify"
    left = Counter(task.targets[item] if kind else "" for item in training)
    least = task.spec.min_train if kind else 1
    wanted = max(1, round(fraction * len(training)))
    for item in sorted(training, key=lambda item: _hash("dev", task.spec.name, item)):
        key = task.targets[item] if kind else ""
        if wanted and left[key] > least:
            task.splits[item] = "dev"
            left[key] -= 1
            wanted -= 1


def _drop_small_classes(task: ResolvedTask) -> None:
    counts: dict[Any, Counter] = defaultdict(Counter)
    for item, split in task.splits.items():
        counts[task.targets[item]][split] += 1
    small = {
        name: f"{name} ({count['train']} train, {count['test']} test)"
        for name, count in counts.items()
        if count["train"] < task.spec.min_train or count["test"] < task.spec.min_test
    }
    if len(counts) - len(small) < 2:
        task.skipped = (
            f"fewer than two classes have {task.spec.min_train} training and {task.spec.min_test} test recordings"
        )
    elif small:
        named = ", ".join(small[name] for name in sorted(small)[:8]) + (", ..." if len(small) > 8 else "")
        task.notes.append(f"{task.spec.name}: {len(small)} classes left out, too few recordings: {named}")
        task.splits = {item: split for item, split in task.splits.items() if task.targets[item] not in small}


def _drop_unseen_slots(task: ResolvedTask) -> None:
    """A slot value that training does not have cannot be predicted."""
    trained = [task.targets[item] for item, split in task.splits.items() if split == "train"]
    if not trained:
        task.skipped = "no training recording"
        return
    known = [set(values) for values in zip(*trained)]
    unseen = [
        item for item in task.splits if not all(value in values for value, values in zip(task.targets[item], known))
    ]
    for item in unseen:
        del task.splits[item]
    if unseen:
        task.notes.append(f"{task.spec.name}: {len(unseen)} recordings left out, with slot values unseen in training")


def _check_counts(task: ResolvedTask) -> None:
    counts = task.counts()
    if counts["train"] < max(task.spec.min_train, 10) or counts["test"] < task.spec.min_test:
        task.skipped = f"only {counts['train']} training and {counts['test']} test recordings"
