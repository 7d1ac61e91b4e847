"""A directory belongs to one run: nothing of another is read, averaged or deleted, and odd files are no traceback."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from spear import seal
from spear.errors import CheckpointError
from spear.train import checkpoint, runs


def rewrite(directory, **changes):
    """Changes values of a checkpoint's description, as another run would have written them; None takes one away."""
    values = seal.read_json(directory / "checkpoint.json") | changes
    seal.write_json(directory / "checkpoint.json", {key: value for key, value in values.items() if value is not None})


def test_all_that_a_run_writes_carries_its_id_and_it_stays_the_same(make_trainer, tmp_path):
    trainer = make_trainer(num_steps=2)
    final = trainer.run()
    exp_dir = tmp_path / "exp"
    run = runs.find(exp_dir)
    assert len(run.run_id) == 16 and trainer.identity == run
    for directory in (final, checkpoint.directory_of(exp_dir, 2)):
        assert seal.read_json(directory / "checkpoint.json")["run_id"] == run.run_id
    make_trainer(num_steps=4).run()
    assert runs.find(exp_dir) == run
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    assert {row["run_id"] for row in rows} == {run.run_id} and max(row["step"] for row in rows) == 4


def test_checkpoints_of_another_run_are_refused_and_nothing_is_touched(make_trainer, tmp_path):
    make_trainer(num_steps=2).run()
    exp_dir = tmp_path / "exp"
    other = checkpoint.directory_of(exp_dir, 3)
    shutil.copytree(checkpoint.directory_of(exp_dir, 2), other)
    rewrite(other, run_id="f" * 16, step=3)
    before = {path: path.read_bytes() for path in exp_dir.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"(?s)1 checkpoints of another run \(ffffffff\).*step-00000003.*exp_dir"):
        make_trainer().run()
    assert {path: path.read_bytes() for path in exp_dir.rglob("*") if path.is_file()} == before


def test_what_appears_meanwhile_from_another_run_is_neither_averaged_nor_pruned(make_trainer, tmp_path):
    """A second run's checkpoint at the step where the average begins went into the first run's final model."""
    make_trainer(num_steps=4).run()
    alone = load_file(tmp_path / "exp/final/model.safetensors")
    shutil.rmtree(tmp_path / "exp")
    trainer, exp_dir = make_trainer(num_steps=4, keep_checkpoints=1), tmp_path / "exp"
    save = trainer._save_if_due

    def save_and_intrude():
        save()
        if trainer.step == 3:
            trainer.saver._writer.wait()
            other = checkpoint.directory_of(exp_dir, 1)
            shutil.copytree(checkpoint.directory_of(exp_dir, 2), other)
            shutil.copytree(other, exp_dir / "checkpoints/step-00000002.bak")
            rewrite(other, run_id="f" * 16, step=1)

    trainer._save_if_due = save_and_intrude
    trainer.run()
    assert all(
        torch.equal(value, alone[name]) for name, value in load_file(exp_dir / "final/model.safetensors").items()
    )
    assert checkpoint.steps(exp_dir) == [1, 2, 4]  # 1 is not ours to delete; 2 begins the average
    assert checkpoint.steps(exp_dir, runs.find(exp_dir)) == [2, 4]
    assert checkpoint.newest(exp_dir, runs.Run("f" * 16))[1]["step"] == 1


def test_a_directory_of_an_older_version_is_taken_over_with_a_note(make_trainer, tmp_path, caplog):
    make_trainer(num_steps=4).run()
    exp_dir = tmp_path / "exp"
    (exp_dir / runs.NAME).unlink()
    for step in (2, 4):
        rewrite(checkpoint.directory_of(exp_dir, step), run_id=None)
    caplog.set_level("INFO")
    trainer = make_trainer(num_steps=4)
    trainer.run()
    assert trainer.step == 4 and "written by an older version: its 2 checkpoints are taken over" in caplog.text
    assert sorted(runs.find(exp_dir).adopted) == ["step-00000002", "step-00000004"]
    # One that is put there later, without an id, is not the run's.
    shutil.copytree(checkpoint.directory_of(exp_dir, 2), checkpoint.directory_of(exp_dir, 3))
    with pytest.raises(CheckpointError, match="another run"):
        make_trainer(num_steps=4).run()


@pytest.mark.parametrize("damage", ["missing", "altered", "empty"])
def test_a_lost_name_is_found_in_the_checkpoints(make_trainer, tmp_path, damage):
    make_trainer(num_steps=2).run()
    path = tmp_path / "exp" / runs.NAME
    run_id, text = runs.find(tmp_path / "exp").run_id, path.read_text()
    path.unlink() if damage == "missing" else path.write_text(text.replace("2", "3") if damage == "altered" else "")
    make_trainer(num_steps=3).run()
    assert runs.find(tmp_path / "exp").run_id == run_id


def test_without_checkpoints_other_settings_are_another_run(make_trainer, tmp_path):
    make_trainer(num_steps=2).run()
    first = runs.find(tmp_path / "exp").run_id
    shutil.rmtree(tmp_path / "exp/checkpoints")
    make_trainer(num_steps=2, log_every_steps=2).run()
    assert runs.find(tmp_path / "exp").run_id == first  # it began anew, with the same settings
    shutil.rmtree(tmp_path / "exp/checkpoints")
    make_trainer(num_steps=2, seed=7).run()
    assert runs.find(tmp_path / "exp").run_id != first


@pytest.mark.parametrize(
    "rows", [b"\xff\xfe", b"\xff{}\n", b"[]\n3\nnull\n", b'{"step": "4"}\n', b'{"step": 1, "text": "\xff"}\n', b"\x00"]
)
def test_odd_rows_in_metrics_are_dropped(make_trainer, tmp_path, rows):
    make_trainer(num_steps=2).run()
    path = tmp_path / "exp/metrics.jsonl"
    path.write_bytes(path.read_bytes() + rows)
    make_trainer(num_steps=3).run()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()][-1] == 3


@pytest.mark.parametrize("text", ["", "[]", '{"max_seconds": "much"}', '{"max_seconds": -1}', '{"max_seconds": 3.0}'])
def test_limits_of_nobody_are_measured_again_and_those_of_the_run_are_kept(make_trainer, tmp_path, text):
    path = tmp_path / "exp/auto_limits.json"
    path.parent.mkdir()
    path.write_text(text)
    trainer = make_trainer(num_steps=2, plan={"max_seconds": "auto"}, memory_limit_gb=64)
    trainer._rehearser = lambda: type(
        "Fake", (), {"world": trainer.world, "limit_bytes": 1.0, "fitting_seconds": lambda self: 9.0}
    )()
    trainer.config.rehearsal_batches = 0
    trainer.run()
    assert trainer.config.plan.max_seconds == 9.0
    path.write_text(text)
    again = make_trainer(num_steps=3, plan={"max_seconds": "auto"})
    again.run()
    assert again.config.plan.max_seconds == 9.0 and again.step == 3


def test_a_checkpoint_that_lacks_what_it_should_hold_is_an_error_in_three_parts(make_trainer, tmp_path):
    make_trainer(num_steps=2).run()
    rewrite(checkpoint.directory_of(tmp_path / "exp", 2), schedule=None)
    with pytest.raises(CheckpointError, match=r"(?s)step-00000002 does not hold the state.*schedule.*delete"):
        make_trainer().run()
