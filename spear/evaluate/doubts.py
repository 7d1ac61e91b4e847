"""Scores that mean little: what makes them so is found in the data and said beside them, in every table.

A recording that is in training and in test, a single class, labels that training never had (or had in another case),
texts without words, a run that was cut short, steps that were none: a head gets a number all the same, and nobody looks
into the run file to see why it is high or low.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spear import fs
from spear.evaluate.cache import file_size
from spear.evaluate.matching import EVENTS
from spear.evaluate.protocol import PROTOCOLS
from spear.manifest import Item

MARK = "(!)"
"""Behind a score that lines below the table say something about."""

_LEAST_SHARE = 0.01  # of the symbols of test that training lacks (rare characters are no reason), or of steps
_BLOCK_BYTES = 4096
_NUMBERS = ("pearson", "r2", "mae")


@dataclass(frozen=True)
class Judged:
    """What matters of an example.

    Attributes:
        item: its recording.
        labels: its classes, or the symbols of its sequence.
        text: its transcript, where words are counted.
    """

    item: Item
    labels: tuple[str, ...] = ()
    text: str = ""


def find_doubts(splits: Mapping[str, Sequence[Judged]], metric: str) -> list[str]:
    """What a reader of the score must know, a sentence each; usually nothing.

    Args:
        splits: the examples of train, dev and test.
        metric: what is scored, a key of `metrics.HIGHER_IS_BETTER`.
    """
    train, test = splits.get("train") or (), splits.get("test") or ()
    doubts = []
    same = shared_recordings([*train, *(splits.get("dev") or ())], test)
    if same:
        doubts.append(
            f"{len(same)} of {len(test)} test recordings are in training or dev as well, such as {_some(same, 2)}: the "
            "score is also one of memory"
        )
    if train and metric in ("accuracy", *_NUMBERS):
        doubts += _of_one_label(train, test)
    if train and metric == "accuracy":
        doubts += _of_classes(train, test)
    elif train and metric in ("map", *EVENTS):
        # Heads of tags have the classes of training alone; an event that is not found is an error.
        doubts += _of_tags(train, test, "do not count" if metric == "map" else "cannot be found")
    elif train and metric in ("per", "wer", "cer"):
        doubts += _of_symbols(train, test)
    texts = [example.text for example in test if example.text]
    if metric == "wer" and texts and not any(" " in text for text in texts) and max(map(len, texts)) > 3:
        doubts.append("no test text has more than one word: the word error rate counts whole texts; see cer")
    return doubts


def _of_one_label(train: Sequence[Judged], test: Sequence[Judged]) -> list[str]:
    for name, examples in (("training", train), ("test", test)):
        kinds = {example.labels for example in examples}
        if len(kinds) == 1:
            label = "/".join(*kinds)
            return [f"every {name} item has the label '{label}': one answer is always right"]
    return []


def _of_tags(train: Sequence[Judged], test: Sequence[Judged], and_so: str) -> list[str]:
    known = {label for example in train for label in example.labels}
    unseen = Counter(label for example in test for label in example.labels if label not in known)
    if not unseen:
        return []
    return [
        f"{len(unseen)} labels of test were never in training, such as {_some(unseen)}, and {and_so}"
        f"{_other_case(unseen, known)}"
    ]


def _of_classes(train: Sequence[Judged], test: Sequence[Judged]) -> list[str]:
    doubts = []
    known = [set(labels) for labels in zip(*(example.labels for example in train))]
    unseen = Counter(label for example in test for names, label in zip(known, example.labels) if label not in names)
    if unseen:
        lost = sum(any(label not in names for names, label in zip(known, e.labels)) for e in test)
        doubts.append(
            f"{lost} of {len(test)} test items have labels that training never had, such as {_some(unseen)}, and "
            f"cannot be right{_other_case(unseen, set().union(*known))}"
        )
    return doubts


def _of_symbols(train: Sequence[Judged], test: Sequence[Judged]) -> list[str]:
    known = {symbol for example in train for symbol in example.labels}
    counts = Counter(symbol for example in test for symbol in example.labels)
    unseen = Counter({symbol: count for symbol, count in counts.items() if symbol not in known})
    if unseen.total() < _LEAST_SHARE * counts.total() or not unseen:
        return []
    share = 100 * unseen.total() / counts.total()
    return [
        f"{share:.0f} % of the symbols of test were never in training, such as {_some(unseen)}, and cannot be "
        f"recognised{_other_case(unseen, known)}"
    ]


def _other_case(unseen: Iterable[str], known: set[str]) -> str:
    by_folded = {name.casefold().strip(): name for name in sorted(known)}
    pairs = [(label, by_folded[label.casefold().strip()]) for label in unseen if label.casefold().strip() in by_folded]
    return f" (training writes '{pairs[0][1]}' where test has '{pairs[0][0]}')" if pairs else ""


def _some(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    return ", ".join(f"'{name}'" for name in names[:count]) + (" and more" if len(names) > count else "")


def shared_recordings(first: Sequence[Judged], second: Sequence[Judged]) -> list[str]:
    """Ids of the examples of `second` whose audio is in `first` too: the same stretch of a file, or of an equal file.

    Files are equal when their sizes and their first, middle and last 4 KiB are; only those of a size that occurs on
    both sides are read. The same sound in another format or at another level is not found.
    """
    sizes = [{path: file_size(path) for path in {example.item.path for example in side}} for side in (first, second)]
    on_both = set(sizes[0].values()) & set(sizes[1].values()) - {-1}

    def file_of(path: Path, known: dict[Path, int]) -> Any:
        return _content(str(path), known[path]) if known[path] in on_both else str(path)

    stretches = defaultdict(list)
    for example in first:
        stretches[file_of(example.item.path, sizes[0])].append(_span(example.item))
    return [
        example.item.id
        for example in second
        if any(
            start < end and begin < stop
            for begin, end in [_span(example.item)]
            for start, stop in stretches.get(file_of(example.item.path, sizes[1]), ())
        )
    ]


def _span(item: Item) -> tuple[float, float]:
    """Where an example is in its recording, in seconds; one of unknown length is all of it."""
    begin = item.start_seconds
    return begin, begin + item.duration_seconds if item.duration_seconds > 0 else float("inf")


@functools.lru_cache(maxsize=1 << 18)
def _content(path: str, size: int) -> str:
    try:
        with open(path, "rb") as handle:
            parts = [handle.read(_BLOCK_BYTES)]
            for place in (size // 2, size - _BLOCK_BYTES):
                handle.seek(max(0, place))
                parts.append(handle.read(_BLOCK_BYTES))
    except OSError:
        return path
    return f"{size} {fs.sha256_bytes(b''.join(parts))}"


def cut_short(run: dict) -> list[str]:
    """Why a run under the published protocol gives no number of it, a sentence each: fewer steps, or fewer items."""
    declared = PROTOCOLS["superb"].get(run["task"]) if run.get("protocol") == "superb" else None
    if declared is None:
        return []
    steps = run.get("settings", {}).get("max_steps", declared.max_steps)
    reasons = []
    if steps < declared.max_steps:
        reasons.append(f"heads were trained for {steps:,} of {declared.max_steps:,} steps")
    if run.get("max_items"):
        reasons.append(f"at most {run['max_items']:,} items of each split were used")
    return [f"{reason}: no number of the published protocol" for reason in reasons]


def _skipped_steps(run: dict) -> list[str]:
    key = "point" if "point" in run else "learning_rate"  # several points of a grid may have one rate
    chosen = [head for head in run.get("grid") or () if head.get(key) == run.get(key)]
    most = max((head.get("skipped_steps") or 0 for head in chosen), default=0)
    if not run.get("steps") or most < _LEAST_SHARE * run["steps"]:
        return []
    return [f"{most:,} of {run['steps']:,} steps of the chosen heads were left out: their gradients were not finite"]


def doubts_of(run: dict) -> list[str]:
    """What a reader of a run's score must know: of its data, how far it was trained, and whether it could be."""
    return [*(run.get("doubts") or ()), *cut_short(run), *_skipped_steps(run)]


def doubt_lines(runs: Sequence[dict]) -> list[str]:
    """The sentences of all runs, each once with the tasks that it is about, behind the mark of the table."""
    found: dict[tuple[str, str], None] = {}
    for run in runs:
        for doubt in doubts_of(run):
            found[run["task"], doubt] = None
    return [f"{MARK} {task}: {doubt}." for task, doubt in found]
