"""A student that hears in chunks is trained, validated and resumed like any other."""

from pathlib import Path

from tiny import SIZES


def test_a_causal_run_resumes_bit_for_bit(make_trainer, tmp_path):
    model = SIZES | {"causal": True, "chunk_size": "8,16,-1", "left_context_frames": "16,-1"}
    settings = {"model": model, "average_last_steps": 0, "rehearsal_batches": 0}
    whole = make_trainer(exp_dir=str(tmp_path / "whole"), num_steps=4, **settings).run()
    make_trainer(exp_dir=str(tmp_path / "parts"), num_steps=2, **settings).run()
    parts = make_trainer(exp_dir=str(tmp_path / "parts"), num_steps=4, **settings).run()
    found, expected = (Path(final, "model.safetensors").read_bytes() for final in (parts, whole))
    assert found == expected
