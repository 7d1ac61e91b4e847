"""Damaged files of every kind that spear reads: an error in three parts or a result, never a traceback or a hang.

test/run.sh --select mutations                            # 60 seconds, other damage every day
SPEAR_MUTATIONS=20000 python -m pytest test/mutations     # so many of every kind
SPEAR_BIT_FLIPS=2000 python -m pytest test/mutations -k flip -s    # prints what became of them
"""

import contextlib
import logging
import os
import resource
import signal
import time
import traceback
from collections import Counter

import pytest
from artefacts import ARTEFACTS, fresh
from mutate import flip, mutate

from spear.errors import SpearError

LIMIT_SECONDS = 10
LIMIT_BYTES = 1_500_000_000
NUM_MUTATIONS = int(os.environ.get("SPEAR_MUTATIONS", "0"))
NUM_FLIPS = int(os.environ.get("SPEAR_BIT_FLIPS", "300"))
SECONDS = float(os.environ.get("SPEAR_MUTATION_SECONDS", "60")) / len(ARTEFACTS)
SEED = os.environ.get("SPEAR_MUTATION_SEED", "1")


class Hang(BaseException):
    """Reading took too long."""


@contextlib.contextmanager
def limited():
    """Ends what takes longer than the limit."""

    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(kind: str, folder) -> str:
    """Empty when reading ended as it may; otherwise what went wrong."""
    try:
        with limited():
            ARTEFACTS[kind].read(folder)
    except SpearError as error:
        return "" if error.found and error.expected and error.fix else f"{type(error).__name__} with an empty part"
    except Hang:
        return "hangs"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:100]} ({where.filename.rpartition('/')[2]}:{where.lineno})"
    return ""


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_damage_is_an_error_in_three_parts_or_a_result(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "a"
    files = fresh(kind, folder)
    contents = {path: path.read_bytes() for path in files}
    ARTEFACTS[kind].read(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong: Counter = Counter()
    examples, number, end = {}, 0, time.monotonic() + SECONDS
    while number < NUM_MUTATIONS or (not NUM_MUTATIONS and time.monotonic() < end):
        path = files[number % len(files)]
        path.write_bytes(mutate(contents[path], (SEED, kind, number)))
        if problem := outcome(kind, folder):
            wrong[problem] += 1
            examples.setdefault(problem, (path.name, number, path.read_bytes()[:300]))
        for each, content in contents.items():
            if not each.exists() or each.stat().st_size != len(content) or each == path:
                each.parent.mkdir(parents=True, exist_ok=True)
                each.write_bytes(content)
        number += 1
    listed = "\n".join(f"{count} x {problem}: {examples[problem]}" for problem, count in wrong.most_common(20))
    assert not wrong, f"of {number} mutations of {kind} (seed {SEED}):\n{listed}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < LIMIT_BYTES, f"{kind}: {grown / 1e9:.1f} GB more in memory"


@pytest.fixture(autouse=True)
def quiet():
    """Thousands of warnings, each of them right, would hide what went wrong."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


SEALED = [kind for kind, artefact in ARTEFACTS.items() if artefact.sealed]


def test_flipped_bits_of_what_is_sealed_are_noticed_or_without_effect(tmp_path, capsys):
    table, silent = {}, []
    for kind in SEALED:
        folder = tmp_path / "a"
        files = fresh(kind, folder)
        contents = {path: path.read_bytes() for path in files}
        whole, counts = ARTEFACTS[kind].read(folder), Counter()
        for number in range(NUM_FLIPS // len(SEALED)):
            path = files[number % len(files)]
            changed, place = flip(contents[path], (SEED, kind, number))
            path.write_bytes(changed)
            try:
                found = ARTEFACTS[kind].read(folder)
                state = "harmless" if found == whole else "detected" if found is None else "silent"
            except SpearError:
                state = "detected"
            counts[state] += 1
            if state == "silent":
                silent.append((kind, path.name, place, number))
            path.write_bytes(contents[path])
        table[kind] = counts
    with capsys.disabled():
        print(f"\n{'other bits of':<24}{'detected':>10}{'harmless':>10}{'silent':>8}")
        for kind, counts in table.items():
            print(f"{kind:<24}{counts['detected']:>10}{counts['harmless']:>10}{counts['silent']:>8}")
    assert not silent
