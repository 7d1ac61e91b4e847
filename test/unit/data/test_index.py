"""The index of a large manifest: what it saves, and when it is made anew."""

import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from spear.data import PlanLimits, PretrainDataset, SourceConfig, load_sources
from spear.errors import DataError

COUNT = 10_000


def line(number: int, seconds: float = 2.0) -> str:
    """A cut with a long transcript: ten thousand of them make a manifest that is worth an index."""
    item_id = f"cut-{number:06d}"
    source = {"type": "file", "channels": [0], "source": f"raw/part{number % 7}/{item_id}.flac"}
    custom = {"kind": "speech" if number % 3 else "event"}
    cut = {"id": item_id, "start": 0.5, "duration": seconds + number % 5, "recording": {"sources": [source]}}
    return json.dumps(cut | {"custom": custom, "supervisions": [{"text": "words " * 60}]}) + "\n"


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifests" / "cuts.jsonl"
    path.parent.mkdir()
    path.write_text("".join(map(line, range(COUNT))))
    return path


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def cuts_of(path) -> list:
    table = load_sources([SourceConfig("all", str(path))]).cuts
    return [table[number] for number in range(len(table))]


def test_cuts_of_the_index_are_those_of_the_manifest(manifest, caplog):
    parsed = cuts_of(manifest)
    [index] = manifest.parent.glob(".*.index")
    before = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    assert cuts_of(manifest) == parsed and len(parsed) == COUNT
    assert parsed[4].id == "cut-000004" and parsed[4].domain == "speech" and parsed[3].domain == "audio"
    assert parsed[4].path == manifest.parent.parent / "raw" / "part4" / "cut-000004.flac"
    assert (parsed[4].start_seconds, parsed[4].duration_seconds) == (0.5, 6.0)
    assert before == {path.name: path.stat().st_mtime_ns for path in index.iterdir()}  # it was read, not written
    names = sorted(path.name for path in manifest.parent.iterdir())
    assert not warnings_of(caplog) and names == [index.name, f"{index.name}.lock", manifest.name]


PARSES = """
import sys
from spear.data import SourceConfig, index, load_sources

parse = index._parse
index._parse = lambda path: print("parsed") or parse(path)
print("ready", flush=True)
sys.stdin.readline()
print(len(load_sources([SourceConfig("all", sys.argv[1])]).cuts))
"""


def test_of_all_ranks_that_start_at_once_one_parses(manifest):
    command = [sys.executable, "-c", PARSES, str(manifest)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert all(rank.stdout.readline() == "ready\n" for rank in ranks)
    for rank in ranks:
        rank.stdin.write("go\n")
        rank.stdin.flush()
    texts = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert sorted(texts) == [f"{COUNT}\n"] * 2 + [f"parsed\n{COUNT}\n"]


def test_lines_are_not_parsed_again(manifest):
    """A manifest whose middle has become garbage behind the index's back, with size, time and ends as they were."""
    expected, state = cuts_of(manifest), manifest.stat()
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1000] = b"x" * 1000
    manifest.write_bytes(data)
    os.utime(manifest, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert cuts_of(manifest) == expected
    os.utime(manifest)
    with pytest.raises(DataError, match=r"line \d+ of .*cuts.jsonl is not valid JSON"):
        cuts_of(manifest)


def test_an_index_that_is_out_of_date_moved_or_damaged_is_made_again(manifest, tmp_path, caplog):
    old = cuts_of(manifest)
    with open(manifest, "a") as handle:
        handle.write(line(COUNT))
    assert len(cuts_of(manifest)) == len(old) + 1
    shutil.move(manifest.parent, tmp_path / "other" / "manifests")
    moved = tmp_path / "other" / "manifests" / "cuts.jsonl"
    assert cuts_of(moved)[0].path == tmp_path / "other" / "raw" / "part0" / "cut-000000.flac"
    assert not warnings_of(caplog)
    [index] = moved.parent.glob(".*.index")
    (index / "duration.npy").write_bytes(b"")
    assert len(cuts_of(moved)) == COUNT + 1 and "cannot be used" in caplog.text


def test_the_plan_of_the_index_is_that_of_the_manifest(manifest, tmp_path):
    small = tmp_path / "small" / "cuts.jsonl"
    small.parent.mkdir()
    with open(manifest) as whole:
        lines = [next(whole).replace("words ", "") for _ in range(3000)]
    small.write_text("".join(lines))
    plans = []
    for path in (manifest, small):
        sources = load_sources(
            [SourceConfig("all", str(path))],
            items=None,
            chosen={"all": np.arange(COUNT)[: 3000 if path == small else None] < 3000},
        )
        plans.append(PretrainDataset(sources, seed=3, limits=PlanLimits(max_seconds=60.0)).plan(1))
    assert plans[0].hash == plans[1].hash and not list(small.parent.glob(".*"))
