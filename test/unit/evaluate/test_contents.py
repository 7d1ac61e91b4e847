"""Features and scores belong to what audio files contain, not to their sizes, times and places."""

import json
import os
import shutil

import numpy as np
import pytest
from corpus import make_corpus

from spear import fs
from spear.audio import save_audio
from spear.evaluate import contents
from spear.evaluate.cache import FeatureCache, item_key
from spear.evaluate.contents import Contents, forget
from spear.evaluate.suites import read_all_items
from spear.evaluate.table import read_table


@pytest.fixture
def read(monkeypatch):
    """Files that are read, while times of change are precise."""
    names, digest = [], fs.sha256_file
    monkeypatch.setattr(contents, "_RECENT_NS", -1)
    monkeypatch.setattr(fs, "sha256_file", lambda path: names.append(os.path.basename(path)) or digest(path))
    return names


def make_table(folder, seeds=(0, 1, 2)):
    rows = []
    for seed, split in zip(seeds, ("train", "dev", "test")):
        wave = np.random.default_rng(seed).uniform(-0.5, 0.5, 4000).astype(np.float32)
        save_audio(folder / f"{split}.wav", wave, 16000)
        rows.append({"id": split, "path": f"{split}.wav", "split": split, "target": "a", "duration": 0.25})
    (folder / "superb").mkdir(exist_ok=True)
    (folder / "superb" / "KS.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda: {row.id: row.key for row in read_table(folder, "KS", lambda target: None).rows}


def test_other_audio_of_equal_size_and_time_is_another_entry(tmp_path):
    keys = make_table(tmp_path)
    before, path = keys(), tmp_path / "train.wav"
    found = path.stat()
    wave = np.random.default_rng(9).uniform(-0.5, 0.5, 4000).astype(np.float32)
    save_audio(path, wave, 16000)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (found.st_size, found.st_mtime_ns)
    after = keys()
    assert after["train"] != before["train"] and after["dev"] == before["dev"]


def test_a_corpus_that_was_moved_keeps_its_features(tmp_path, encoder, monkeypatch):
    items = read_all_items(make_corpus(tmp_path / "old", per_split=(3, 1, 1)))
    FeatureCache(tmp_path / "cache", encoder).ensure(items)
    shutil.copytree(tmp_path / "old", tmp_path / "new", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "old")
    moved = read_all_items(tmp_path / "new")
    assert all("new" in str(item.path) for item in moved)
    monkeypatch.setattr(encoder, "extract", None)
    FeatureCache(tmp_path / "cache", encoder).ensure(moved)


def test_files_are_read_once_and_again_when_they_change_or_when_asked(tmp_path, read):
    keys = make_table(tmp_path)
    first = keys()
    assert sorted(read) == ["dev.wav", "test.wav", "train.wav"]
    assert keys() == first and len(read) == 3
    os.utime(tmp_path / "dev.wav", ns=(0, 0))
    assert keys() == first and read[3:] == ["dev.wav"]
    forget(tmp_path / "superb")
    assert keys() == first and len(read) == 7


def test_only_rows_that_are_used_are_read(tmp_path, read):
    make_table(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "superb" / "KS.jsonl").read_text().splitlines()]
    more = [dict(row, id=f"{row['id']}-{n}") for row in rows for n in range(3)]
    for row in more:
        shutil.copyfile(tmp_path / row["path"], tmp_path / f"{row['id']}.wav")
        row["path"] = f"{row['id']}.wav"
    (tmp_path / "superb" / "KS.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    assert len(read_table(tmp_path, "KS", lambda target: None, max_items=1).rows) == len(read) == 3


def test_a_file_that_changed_a_moment_ago_is_not_taken_for_known(tmp_path):
    make_table(tmp_path)()
    assert not (tmp_path / "superb" / contents.FILE_NAME).exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 3}', '{"a": [[1, 2, 3], "x"]}'])
def test_a_damaged_list_of_contents_is_made_again(tmp_path, read, damage):
    keys = make_table(tmp_path)
    first = keys()
    (tmp_path / "superb" / contents.FILE_NAME).write_text(damage)
    assert keys() == first and keys() == first and len(read) == 6


def test_a_directory_that_cannot_be_written_costs_only_time(tmp_path, read):
    keys = make_table(tmp_path)
    (tmp_path / "superb").chmod(0o500)
    try:
        assert keys() == keys()
    finally:
        (tmp_path / "superb").chmod(0o700)


def test_what_is_no_file_has_no_content(tmp_path, data_dir):
    os.mkfifo(tmp_path / "pipe")
    found = Contents()
    paths = [tmp_path / "pipe", tmp_path, tmp_path / "nowhere", tmp_path / "a\0b"]
    assert {found.digest(path) for path in paths} == {"absent"}
    assert item_key(read_all_items(data_dir)[0]) == item_key(read_all_items(data_dir)[0])
