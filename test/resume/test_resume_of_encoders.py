"""Another encoder than the Zipformer: exact resumes, and ranks that agree."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
TRANSFORMER = ("--model.encoder", "transformer", "--model.dim", "16", "--model.num-layers", "2")
TRANSFORMER += ("--model.num-heads", "2", "--model.feed-forward-dim", "32", "--model.subsampling-channels", "4,4,8")
CONVOLUTIONAL = ("--model.positions", "convolutional", "--model.position-kernel", "7", "--model.position-groups", "4")


def losses(rows: list[dict]) -> list[float]:
    """All losses, in order."""
    return [row[key] for row in rows for key in sorted(row) if "loss/" in key]


@pytest.fixture(scope="module")
def two_ranks(train, tmp_path_factory):
    """Metrics of two ranks."""
    return train(tmp_path_factory.mktemp("two_ranks") / "exp", *TRANSFORMER, "--num-steps", "3", processes=2)


@pytest.mark.parametrize("positions", [(), CONVOLUTIONAL], ids=["rotary", "convolutional"])
def test_kill_9_and_resume_gives_what_an_undisturbed_run_gives(start, train, tmp_path, positions):
    options = (*TRANSFORMER, *positions, "--num-steps", "5")
    expected = train(tmp_path / "whole", *options)
    assert start(tmp_path / "killed", *options, fault=("kill", 0, 3)).wait(timeout=120) != 0
    assert not (tmp_path / "killed" / "final").exists()
    assert train(tmp_path / "killed", *options) == expected
    found, whole = (load_file(tmp_path / run / "final/model.safetensors") for run in ("killed", "whole"))
    assert found.keys() == whole.keys() and all((found[name] == whole[name]).all() for name in whole)


def test_two_ranks_and_accumulation_see_the_same_data(train, two_ranks, tmp_path):
    one = train(tmp_path / "one", *TRANSFORMER, "--num-steps", "3", "--accumulation", "2")
    compared = [
        [row[key] for row in rows for key in sorted(row) if key.startswith("loss/")] for rows in (one, two_ranks)
    ]
    assert len(compared[0]) == 12 and compared[0] == pytest.approx(compared[1], rel=1e-5)


def test_sharded_losses_are_those_of_ddp(train, two_ranks, tmp_path):
    rows = train(tmp_path / "exp", *TRANSFORMER, "--num-steps", "3", "--parallel", "fsdp", processes=2)
    assert losses(rows) == pytest.approx(losses(two_ranks), rel=1e-5)
    assert "that share the layers" in Path(f"{tmp_path / 'exp'}.log").read_text()
