"""Row shards: round trip, identical bytes, damage, limits on open files, pickling."""

import os
import pickle

import numpy as np
import pytest

from spear.errors import DataError
from spear.shards import ShardStore, ShardWriter, is_complete, verify_shards


def _write(directory, shards=3, items=20, width=4, dtype=np.uint8):
    arrays = {}
    generator = np.random.default_rng(0)
    for number in range(shards):
        with ShardWriter(directory, f"unit-{number:05d}", dtype, width) as writer:
            for item in range(items):
                name = f"été/{number}-{item}"
                arrays[name] = generator.integers(0, 200, (int(generator.integers(0, 30)), width)).astype(dtype)
                writer.add(name, arrays[name])
    return arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_reads_back_what_was_written(tmp_path, dtype):
    arrays = _write(tmp_path, dtype=dtype)
    store = ShardStore(tmp_path)
    assert store.ids == list(arrays) and len(store) == 60
    for name, array in arrays.items():
        assert name in store and store.rows(name) == len(array)
        np.testing.assert_array_equal(store.read(name), array)
        assert store.read(name).dtype == dtype
    assert "nobody" not in store
    assert store.num_rows == sum(map(len, arrays.values()))
    whole = np.concatenate([store.memory_map(shard) for shard in store.shards])
    np.testing.assert_array_equal(whole, np.concatenate(list(arrays.values())))
    assert store.verify() == []
    np.testing.assert_array_equal(np.load(tmp_path / "unit-00000.npy").shape[1], 4)


def test_same_unit_gives_same_bytes(tmp_path):
    _write(tmp_path / "a")
    _write(tmp_path / "b")
    _write(tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_flipped_byte_names_shard_and_ids(tmp_path):
    _write(tmp_path)
    path = tmp_path / "unit-00001.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    problems = verify_shards(tmp_path)
    assert len(problems) == 1 and "unit-00001" in problems[0] and "été/1-" in problems[0]
    store, refused = ShardStore(tmp_path), []
    for name in store.ids:  # whoever only reads, such as training, is told too
        try:
            store.read(name)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) == 1 and "unit-00001.npy is damaged at 'été/1-" in refused[0]


def test_truncated_foreign_and_mismatched_are_refused_by_name(tmp_path):
    _write(tmp_path / "cut")
    path = tmp_path / "cut" / "unit-00002.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="unit-00002.npy"):
        ShardStore(tmp_path / "cut")
    assert "unit-00002" in verify_shards(tmp_path / "cut")[0]
    assert not is_complete(tmp_path / "cut", "unit-00002") and is_complete(tmp_path / "cut", "unit-00001")

    _write(tmp_path / "foreign")
    (tmp_path / "foreign" / "other.json").write_text("{}")
    with pytest.raises(DataError, match="other.json"):
        ShardStore(tmp_path / "foreign")

    _write(tmp_path / "mixed")
    with ShardWriter(tmp_path / "mixed", "wide", np.uint8, 5) as writer:
        writer.add("x", np.zeros((2, 5), np.uint8))
    with pytest.raises(DataError, match="wide"):
        ShardStore(tmp_path / "mixed")

    _write(tmp_path / "swapped")
    os.replace(tmp_path / "swapped" / "unit-00000.npy", tmp_path / "swapped" / "unit-00001.npy")
    with pytest.raises(DataError, match="unit-0000"):
        ShardStore(tmp_path / "swapped")
    with pytest.raises(DataError, match="absent"):
        ShardStore(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        ShardStore(tmp_path / "empty")


def test_duplicates_and_wrong_shapes_are_refused(tmp_path):
    writer = ShardWriter(tmp_path, "a", np.uint8, 2)
    with pytest.raises(DataError, match="shape"):
        writer.add("x", np.zeros((3, 3), np.uint8))
    writer.add("x", np.zeros((3, 2), np.uint8))
    writer.add("x", np.zeros((3, 2), np.uint8))
    with pytest.raises(DataError, match="'x' twice"):
        writer.close()
    assert list(tmp_path.iterdir()) == []
    for prefix in "ab":
        with ShardWriter(tmp_path, prefix, np.uint8, 2) as writer:
            writer.add("x", np.zeros((3, 2), np.uint8))
    with pytest.raises(DataError, match="'x' twice"):
        ShardStore(tmp_path)
    assert "also in another shard: x" in verify_shards(tmp_path)[0]


def test_failure_leaves_no_shard_and_stale_files_are_removed(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "a", np.uint8, 2) as writer:
        writer.add("x", np.zeros((3, 2), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".a.npy.killed.tmp.npy").write_bytes(b"half")
    with ShardWriter(tmp_path, "a", np.uint8, 2) as writer:
        writer.add("x", np.zeros((3, 2), np.uint8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npy"]


def test_open_files_are_bounded_and_store_pickles(tmp_path):
    arrays = _write(tmp_path, shards=12, items=2)
    store = ShardStore(tmp_path, max_open_files=3)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for name, array in arrays.items():
        np.testing.assert_array_equal(store.read(name), array)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    again = pickle.loads(pickle.dumps(store))
    for name, array in arrays.items():
        np.testing.assert_array_equal(again.read(name), array)


def test_file_cut_after_opening_is_an_error_not_a_crash(tmp_path):
    arrays = _write(tmp_path, shards=1)
    store = ShardStore(tmp_path)
    name = next(name for name in reversed(arrays) if len(arrays[name]))
    os.truncate(tmp_path / "unit-00000.npy", 200)
    with pytest.raises(DataError, match="unit-00000.npy"):
        store.read(name)


def test_card_is_meta_not_a_shard(tmp_path):
    _write(tmp_path)
    (tmp_path / "card.json").write_text('{"stream": "speech"}')
    assert ShardStore(tmp_path).meta == {"stream": "speech"}
