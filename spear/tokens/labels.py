"""Label files of HuBERT and its successors: `NAME.km`, a line of whole numbers for each recording of `NAME.tsv`.

The first line of the .tsv is the folder, the others are `path<tab>samples` of its recordings, in the order of the .km.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from spear import fs
from spear.errors import DataError
from spear.manifest.foreign import CutArray
from spear.manifest.item import SAMPLE_RATE_HZ
from spear.teachers.align import expected_frames
from spear.tokens.extract import MAX_FRAME_DIFFERENCE
from spear.tokens.units import Item


def read_labels(labels: Path, recordings: Path, cuts: Sequence[Item], teacher: dict) -> Iterator[CutArray]:
    """The labels of the cuts of those recordings; a cut that is a part of its recording gets its part of them.

    Args:
        labels: the .km file.
        recordings: the .tsv file.
        cuts: found by the path of their recordings, whatever the folder and the format of the files are.
        teacher: `frame_rate_hz` and `frame_rule` of the labels.

    Raises:
        DataError: one file has more lines than the other, a line of the .tsv is no path and number, or no cut's
            recording is in it.
    """
    rows, lines = list(_recordings(recordings)), sum(1 for _ in fs.iter_lines(labels))
    if len(rows) != lines:
        raise DataError(
            f"{lines} lines in {labels} for {len(rows)} recordings in {recordings}",
            "a line of labels for each line of the list but the first",
            "give the two files that belong together: nothing else says whose labels a line holds",
        )
    by_name: dict[str, list[Item]] = {}
    for cut in cuts:
        by_name.setdefault(cut.path.stem, []).append(cut)
    found = [_of_recording(name, by_name.get(name.stem, [])) for name, _ in rows]
    if not any(found):
        raise DataError(
            f"no recording of {len(cuts)} cuts in {recordings}", "recordings of these names", "give the list of labels"
        )
    digest = fs.sha256_file(labels)
    # The cuts of a recording follow one another: its line is read once for all of them.
    read = functools.lru_cache(maxsize=1)(functools.partial(_numbers, teacher=teacher))
    return (
        _cut_labels(cut, functools.partial(read, text, samples), samples, teacher, (digest, number, cut.start_seconds))
        for (number, text), (_, samples), chosen in zip(fs.iter_lines(labels), rows, found)
        for cut in chosen
    )


def _recordings(path: Path) -> Iterator[tuple[PurePosixPath, int]]:
    for number, line in itertools.islice(fs.iter_lines(path), 1, None):
        name, _, samples = line.partition("\t")
        if not name or not samples.strip().isascii() or not samples.strip().isdigit():
            raise DataError(
                f"line {number} of {path}: {line[:200]!r}", "a path, a tab and a number of samples", "correct it"
            )
        yield PurePosixPath(name), int(samples)


def _of_recording(name: PurePosixPath, cuts: list[Item]) -> list[Item]:
    """The cuts whose recording has the most of a path in common with it, counted from the end."""
    if len({cut.path for cut in cuts}) < 2:
        return cuts
    wanted = name.with_suffix("").parts[::-1]
    common = {cut.path: _common(cut.path.with_suffix("").parts[::-1], wanted) for cut in cuts}
    best = max(common.values())
    chosen = {path for path, count in common.items() if count == best}
    return [cut for cut in cuts if cut.path in chosen] if len(chosen) == 1 else []


def _common(parts: Sequence[str], others: Sequence[str]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(parts, others)))


def _numbers(text: str, samples: int, teacher: dict) -> np.ndarray:
    """A line of labels, (frames, 1)."""
    words, expected = text.split(), expected_frames(samples, teacher)
    if abs(len(words) - expected) > MAX_FRAME_DIFFERENCE:
        raise DataError(f"{len(words)} labels", f"{expected} for {samples} samples", "give the labels' frame rate")
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise DataError("what is no whole number", "labels such as 0 17 499", "correct the line")
    return np.asarray(words, dtype=np.int64)[:, None]


def _cut_labels(cut: Item, numbers: Callable[[], np.ndarray], samples: int, teacher: dict, place: tuple) -> CutArray:
    problem = ""
    if cut.speed != 1:
        problem = f"played {cut.speed:g} times as fast as what was labelled"

    def load() -> np.ndarray:
        rate = float(teacher["frame_rate_hz"])
        first = round(cut.start_seconds * rate)
        is_whole = samples - cut.num_samples < SAMPLE_RATE_HZ / rate
        return numbers()[first : None if is_whole else first + expected_frames(cut.num_samples, teacher)]

    return CutArray(cut.id, cut.num_samples, load, problem, place=place)
