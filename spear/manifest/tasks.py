"""Task files: which recordings belong to a task, what the target is, and how they are split.

A task file is YAML with one list `tasks`; the fields are those of `TaskSpec`. All splits are functions of ids and
names (hashes), so two labs with the same data get the same splits, and more data does not reshuffle what was there.
"""

import re
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spear import config
from spear.errors import ConfigError
from spear.manifest.scan import Entry

HEADS = ("classify", "slots", "ctc", "tags", "regress", "retrieve")
METRICS = ("accuracy", "per", "wer", "cer", "map", "pearson", "r2", "mae", "map_at_r")
_MAX_TASKS, _REGEX_SECONDS = 1000, 1.0


@dataclass
class Select:
    """Which recordings take part: all conditions that are given must hold.

    Attributes:
        kind: speech, event or music.
        has_label: label keys that must be there.
        label: allowed values by label key.
        path_prefix: beginnings of the path in the corpus folder.
        id_regex: must be found in the id.
        single_speaker: leaves out recordings of several speakers.
        max_seconds: leaves out longer recordings.
    """

    kind: list[str] = field(default_factory=list)
    has_label: list[str] = field(default_factory=list)
    label: dict[str, list[str]] = field(default_factory=dict)
    path_prefix: list[str] = field(default_factory=list)
    id_regex: str = ""
    single_speaker: bool = False
    max_seconds: float | None = None


@dataclass
class Split:
    """How recordings are divided.

    Attributes:
        by: column (the manifest says train, dev or test, in the column or label `key`), random (within each class),
            speaker, label:KEY, id_regex (the first group of `pattern`), or values (groups by `key`: speaker, label:KEY,
            or a column). All but the first two keep a group together.
        key: see `by`.
        pattern: see `by`.
        test: groups for the test set; without it, `test_fraction` of the groups are chosen by hash.
        dev: groups for the dev set; without it, `dev_fraction`: of the groups, or of the training recordings when
            `test` is given.
        test_fraction: of groups (of recordings, for random).
        dev_fraction: likewise.
    """

    by: str = "column"
    key: str = ""
    pattern: str = ""
    test: list[str] = field(default_factory=list)
    dev: list[str] = field(default_factory=list)
    test_fraction: float = 0.25
    dev_fraction: float = 0.1


@dataclass
class TaskSpec:
    """One downstream task.

    Attributes:
        name: fit for a file name.
        head: classify (one label), slots (several labels, all must be right), ctc (a sequence), tags (any number of
            labels), regress (a number) or retrieve (the nearest recordings; nothing is trained).
        target: label:KEY, speaker, text, phones; for slots and tags several label:KEY joined by commas.
        metric: accuracy, per, wer or cer; map (tags), pearson, r2 or mae (regress), map_at_r (retrieve).
        title: for tables.
        select: which recordings.
        split: how they are divided.
        min_train: least training recordings of a class; for all heads but classify and slots, of the task.
        min_test: likewise for test.
        ablation: left out of ordinary decoding.
        optional: likewise, and of ablations as well: scored when it is named.
        superb: the name of the SUPERB task that it is, such as KS: its rules and head are used, and its score is one
            with that of the suite `superb`.
    """

    name: str
    head: str
    target: str
    metric: str
    title: str = ""
    select: Select = field(default_factory=Select)
    split: Split = field(default_factory=Split)
    min_train: int = 2
    min_test: int = 2
    ablation: bool = False
    optional: bool = False
    superb: str = ""


def read_task_specs(path: str | Path) -> list[TaskSpec]:
    """Reads a task file.

    Raises:
        ConfigError: unknown key, head, metric or way to split; a name twice. Names the file and the task.
    """
    values = config.load_yaml(path)
    if set(values) != {"tasks"} or not isinstance(values["tasks"], list):
        keys = ", ".join(map(str, list(values)[:8]))[:200]
        raise ConfigError(f"{path} with the keys {keys}", "one list, `tasks`", "see egs/mini/spear/conf")
    if len(values["tasks"]) > _MAX_TASKS:
        raise ConfigError(
            f"{len(values['tasks'])} tasks in {path}", f"at most {_MAX_TASKS}", "divide them among corpora"
        )
    specs = []
    for number, task in enumerate(values["tasks"], 1):
        origin = f"{path}, task {str(task.get('name', number))[:100] if isinstance(task, dict) else number}"
        specs.append(config.from_dict(TaskSpec, _lists(task), origin))
        _check(specs[-1], origin)
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise ConfigError(f"two tasks named {name} in {path}", "unique names", "rename one")
    return specs


def _lists(task: Any) -> Any:
    """Allows `kind: speech` for `kind: [speech]`, and numbers for the strings that labels are."""

    def texts(value: Any) -> list[str]:
        entries = value if isinstance(value, list) else [value]
        # Anything else than a single value is left to the check of types.
        return [str(entry) if isinstance(entry, str | int | float) else entry for entry in entries]

    task = dict(task) if isinstance(task, dict) else {"name": str(task)[:100]}
    for part, keys in (("select", ("kind", "has_label", "path_prefix")), ("split", ("test", "dev"))):
        if isinstance(task.get(part), dict):
            task[part] = {key: texts(value) if key in keys else value for key, value in task[part].items()}
    select = task.get("select")
    label = select.get("label") if isinstance(select, dict) else None
    if isinstance(label, dict):
        task["select"]["label"] = {str(key): texts(value) for key, value in label.items()}
    return task


def _check(spec: TaskSpec, origin: str) -> None:
    problem = ""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", spec.name):
        problem = f"name '{spec.name}' (letters, digits, _ and - only)"
    elif spec.head not in HEADS:
        problem = f"head '{spec.head}' ({', '.join(HEADS)})"
    elif spec.metric not in METRICS:
        problem = f"metric '{spec.metric}' ({', '.join(METRICS)})"
    elif not re.fullmatch(r"speaker|text|phones|label:\w+(\s*,\s*label:\w+)*", spec.target):
        problem = f"target '{spec.target}' (speaker, text, phones or label:KEY)"
    elif not re.fullmatch(r"column|random|speaker|id_regex|values|label:\w+", spec.split.by):
        problem = f"split by '{spec.split.by}' (column, random, speaker, label:KEY, id_regex or values)"
    elif spec.split.by == "values" and not spec.split.key:
        problem = "split by values without a key"
    elif spec.split.by == "id_regex" and _num_groups(spec.split.pattern, origin) != 1:
        problem = f"pattern '{spec.split.pattern}' (one group in parentheses)"
    elif not (0 <= spec.split.test_fraction < 1 and 0 <= spec.split.dev_fraction < 1):
        problem = "fractions outside [0, 1)"
    _num_groups(spec.select.id_regex, origin)
    if problem:
        raise ConfigError(f"{origin}: {problem}", "a valid task", "correct the task file")


def _num_groups(pattern: str, origin: str) -> int:
    try:
        return re.compile(pattern).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"{origin}: pattern {pattern[:100]!r} ({str(error)[:100]})", "a regular expression", "correct the task file"
        ) from error


def search(pattern: str, text: str) -> re.Match | None:
    """`re.search` that gives up after a second: some patterns, such as (a+)+$, take longer than anybody's life.

    Outside the main thread, where no signal can interrupt, there is no limit.

    Raises:
        ConfigError: it took too long; names the pattern.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return re.search(pattern, text)

    def give_up(number, frame):
        raise ConfigError(
            f"the pattern {pattern[:100]!r} on the id '{text}' takes more than {_REGEX_SECONDS:g} s",
            "a pattern without repetition inside repetition, such as (a+)+",
            "write it more simply",
        )

    handler = signal.signal(signal.SIGALRM, give_up)
    others = signal.setitimer(signal.ITIMER_REAL, _REGEX_SECONDS)
    try:
        return re.search(pattern, text)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, handler)


def is_selected(entry: Entry, select: Select) -> bool:
    """Whether a recording fulfils all conditions."""
    duration = entry.duration_seconds or 0.0
    return (
        (not select.kind or entry.kind in select.kind)
        and all(entry.labels.get(key) for key in select.has_label)
        and all(entry.labels.get(key) in values for key, values in select.label.items())
        and (not select.path_prefix or entry.path.startswith(tuple(select.path_prefix)))
        and (not select.id_regex or search(select.id_regex, entry.id) is not None)
        and not (select.single_speaker and "+" in (entry.speaker or ""))
        and (select.max_seconds is None or duration <= select.max_seconds)
    )


def target_of(entry: Entry, target: str) -> str | tuple[str, ...] | None:
    """The target of a recording: a class, a tuple of slot values, text or phones; None when it has none."""
    if target == "speaker":
        return entry.speaker
    if target == "text":
        return entry.text
    if target == "phones":
        return tuple(entry.phones) if entry.phones else None
    values = [entry.labels.get(part.strip().removeprefix("label:")) for part in target.split(",")]
    if not all(values):
        return None
    return values[0] if len(values) == 1 else tuple(values)


def group_of(entry: Entry, split: Split) -> str | None:
    """What a recording is divided by; None when it has no such thing and cannot take part."""
    key = split.by if split.by != "values" else split.key
    if split.by == "random":
        return entry.id
    if split.by == "column":
        key = split.key or "split"
    if split.by == "id_regex":
        match = search(split.pattern, entry.id)
        return match.group(1) if match else None
    if key == "speaker":
        return entry.speaker
    if key.startswith("label:"):
        return entry.labels.get(key.removeprefix("label:"))
    return entry.columns.get(key)
