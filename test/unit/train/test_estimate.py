"""Estimates of a run: disk to the byte, and the rest in the right order of magnitude."""

from pathlib import Path

from spear import fs
from spear.train.estimate import _size, estimate


def test_disk_is_what_the_run_leaves_and_nothing_is_written_before(make_trainer):
    trainer = make_trainer(num_steps=30, checkpoint_every_steps=5, keep_checkpoints=2, valid_every_steps=10)
    exp_dir = Path(trainer.config.exp_dir)
    found = estimate(trainer.config, trainer.world)
    assert not exp_dir.exists()
    trainer.run()
    # One more than is kept: the one that is written while the oldest is still there.
    left = _size(exp_dir / "checkpoints") + _size(exp_dir / "final")
    assert left < found.disk_bytes < 1.5 * left + found.checkpoint_bytes
    assert 0 < found.seconds_per_step < found.seconds and found.peak_bytes > 50e6
    assert found.audio_hours > 0
    flops, audio_seconds = trainer.rehearsal.flops, 3600 * found.audio_hours
    assert flops.model > 1e6 > flops.targets / 10 > 0  # random projections, and their nearest codes
    assert found.flops == flops.done(audio_seconds)
    assert "FLOP for the model, " in found.table(exp_dir) and "FLOP for its targets" in found.table(exp_dir)
    rows = [row for row in fs.read_jsonl(exp_dir / "metrics.jsonl") if "lr" in row]
    assert rows[-1]["audio_hours"] == trainer.seen_seconds / 3600
    assert rows[-1]["model_flops"] == flops.model * trainer.seen_seconds
    assert rows[-1]["target_flops"] == flops.targets * trainer.seen_seconds
    assert "a checkpoint" in found.table(exp_dir) and "s a step" in found.table(exp_dir)
