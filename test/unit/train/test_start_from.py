"""`init_from`: the encoder of another run, or of any checkpoint, as the start of training."""

import re
import shutil

import pytest
import torch

import spear
from spear.errors import CheckpointError
from spear.models.loading import save_model
from spear.train import checkpoint


@pytest.fixture
def teacher(make_trainer, tmp_path):
    """A run of four steps."""
    exp_dir = tmp_path / "teacher"
    make_trainer(exp_dir=str(exp_dir), seed=7).run()
    return exp_dir


def encoder_of(path) -> dict[str, torch.Tensor]:
    return spear.load_model(path).state_dict()


def losses(exp_dir) -> list[str]:
    """Lines of the metrics without what depends on the clock, and without the run's name."""
    lines = (exp_dir / "metrics.jsonl").read_text().splitlines()
    return [re.sub(r'"run_id": "\w+", ', "", line).split('"seconds"')[0] for line in lines]


def test_the_encoder_is_that_of_the_checkpoint_and_the_heads_are_not(make_trainer, teacher, tmp_path):
    final = make_trainer(exp_dir=str(tmp_path / "student"), init_from=str(teacher), num_steps=0).run()
    found, expected = encoder_of(final), encoder_of(teacher)
    assert all(torch.equal(found[name], expected[name]) for name in expected) and len(found) == len(expected)
    tensors = [checkpoint.read_tensors(directory, "model") for directory in (final, teacher / "final")]
    name = next(name for name in tensors[0] if name.startswith("heads.") and name.endswith("weight"))
    assert not torch.equal(tensors[0][name], tensors[1][name])


def test_an_encoder_with_downsampled_output_fits_one_without_and_the_other_way_round(make_trainer, teacher, tmp_path):
    slow = {**make_trainer().config.model.settings.to_dict(), "output_downsampling_factor": 2}
    first = make_trainer(exp_dir=str(tmp_path / "slow"), init_from=str(teacher), num_steps=0, model=slow).run()
    second = make_trainer(exp_dir=str(tmp_path / "fast"), init_from=str(first), num_steps=0).run()
    found, expected = encoder_of(second), encoder_of(teacher)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_folder_with_an_encoder_alone_will_do(make_trainer, teacher, tmp_path):
    save_model(spear.load_model(teacher), tmp_path / "released")
    final = make_trainer(exp_dir=str(tmp_path / "student"), init_from=str(tmp_path / "released"), num_steps=0).run()
    assert torch.equal(encoder_of(final)["encoder_embed.out.weight"], encoder_of(teacher)["encoder_embed.out.weight"])


def test_other_sizes_are_refused_by_name(make_trainer, teacher, tmp_path):
    wide = {**make_trainer().config.model.settings.to_dict(), "encoder_dim": "48"}
    with pytest.raises(CheckpointError) as caught:
        make_trainer(exp_dir=str(tmp_path / "student"), init_from=str(teacher), model=wide).run()
    assert "32" in caught.value.found and "48" in caught.value.expected and "init_from" in caught.value.fix
    assert not (tmp_path / "student" / "final").exists()


def test_a_checkpoint_that_is_not_there_is_refused(make_trainer, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        make_trainer(init_from=str(tmp_path / "nowhere")).run()


def test_a_resumed_run_needs_it_no_more_and_goes_on_as_if_undisturbed(make_trainer, teacher, tmp_path):
    settings = {"init_from": str(teacher)}
    make_trainer(exp_dir=str(tmp_path / "whole"), **settings).run()
    make_trainer(exp_dir=str(tmp_path / "parts"), **settings, num_steps=2).run()
    shutil.rmtree(teacher)
    shutil.rmtree(tmp_path / "parts" / "final")
    make_trainer(exp_dir=str(tmp_path / "parts"), **settings).run()
    assert losses(tmp_path / "parts")[-2:] == losses(tmp_path / "whole")[-2:]
    found, expected = (
        checkpoint.read_tensors(checkpoint.directory_of(tmp_path / run, 4), "model") for run in ("parts", "whole")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
