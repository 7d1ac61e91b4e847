"""Checkpoint directories: whole or passed over, and no more of them than was asked for."""

import pytest
import torch

from spear.errors import CheckpointError
from spear.train import checkpoint


def save(exp_dir, step, value=0.0):
    tensors = {"model": {"weight": torch.full((4, 4), value).t()}, "optimizer": {"state/weight/delta": torch.ones(3)}}
    return checkpoint.save(checkpoint.directory_of(exp_dir, step), tensors, {"step": step})


def test_what_is_saved_is_read_back(tmp_path):
    directory = save(tmp_path, 7, 2.5)
    assert checkpoint.verify(directory)["step"] == 7
    assert (checkpoint.read_tensors(directory, "model")["weight"] == 2.5).all()
    save(tmp_path, 7, 3.5)  # the same step again replaces it
    assert (checkpoint.read_tensors(directory, "model")["weight"] == 3.5).all()
    assert [path.name for path in directory.parent.iterdir()] == ["step-00000007"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_the_newest_whole_checkpoint_is_found(tmp_path, caplog, name, damage):
    save(tmp_path, 10)
    path = save(tmp_path, 20) / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-5])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    directory, meta = checkpoint.newest(tmp_path)
    assert meta["step"] == 10 and directory == checkpoint.directory_of(tmp_path, 10)
    assert "step-00000020" in caplog.text


def test_a_damaged_file_is_named_with_the_repair(tmp_path):
    directory = save(tmp_path, 1)
    (directory / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)model\.safetensors is truncated.*delete .*step-00000001"):
        checkpoint.verify(directory)


def test_a_writer_that_was_killed_leaves_nothing_that_counts(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    save(tmp_path, 3)
    (tmp_path / "checkpoints/.step-00000004.tmp").mkdir()
    (tmp_path / "checkpoints/.step-00000004.tmp/model.safetensors").write_bytes(b"half")
    assert checkpoint.steps(tmp_path) == [3]
    save(tmp_path, 4)
    assert checkpoint.newest(tmp_path)[1]["step"] == 4
    assert not (tmp_path / "checkpoints/.step-00000004.tmp").exists()


@pytest.mark.parametrize("keep, always, left", [(2, set(), [4, 5]), (2, {1}, [1, 4, 5]), (9, set(), [1, 2, 3, 4, 5])])
def test_prune_keeps_the_newest_and_those_that_are_needed(tmp_path, keep, always, left):
    for step in range(1, 6):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep, always)
    assert checkpoint.steps(tmp_path) == left


def test_the_nearest_whole_checkpoint_serves_for_averaging(tmp_path, caplog):
    assert checkpoint.nearest(tmp_path, 5, 10) is None
    for step in (2, 5, 9, 10):
        save(tmp_path, step)
    caplog.clear()
    assert checkpoint.nearest(tmp_path, 5, 10)[1]["step"] == 5 and not caplog.records
    assert checkpoint.nearest(tmp_path, 8, 10)[1]["step"] == 9 and "no checkpoint of step 8" in caplog.text
    (checkpoint.directory_of(tmp_path, 5) / "checkpoint.json").unlink()
    assert checkpoint.nearest(tmp_path, 5, 10)[1]["step"] == 2
