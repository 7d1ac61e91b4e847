"""Objectives that read stores, a teacher or transcripts: killed, resumed, on two ranks and sharded, the same losses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_resume import wait_for_step
from tiny import SIZES

from spear import SpearConfig, SpearModel, save_model, seal
from spear.seeds import numpy_rng
from spear.shards import ShardWriter
from spear.teachers import load_teacher
from spear.teachers.align import expected_frames
from spear.tokens.exchange import imported_card
from spear.tokens.features import FORMAT
from spear.train import checkpoint

pytestmark = pytest.mark.slow
CLASSES = 600
LABELED = {"teacher": "labels", "weights_sha256": "unknown", "layer": 0, "frame_rate_hz": 100.0, "dim": 1}
LABELED |= {"sample_rate_hz": 16000, "frame_rule": "kaldi-100hz"}


@pytest.fixture(scope="module")
def objectives(data_dir) -> str:
    """A configuration of three streams on top of the others' one, and what they read."""
    cuts = {}
    for path in sorted((data_dir / "manifests").glob("cuts_*_train.jsonl")):
        for line in path.read_text().splitlines():
            cut = json.loads(line)
            cuts[cut["id"]] = round(cut["duration"] * 16000)
    rng = numpy_rng(0, "objectives test")
    card = imported_card("labels", LABELED, {"content_sha256": "x", "num_codebooks": 1, "codebook_size": CLASSES})
    with ShardWriter(data_dir / "labels", "part", card.dtype, 1) as writer:
        for cut, samples in cuts.items():
            writer.add(cut, rng.integers(0, CLASSES, (expected_frames(samples, LABELED), 1)).astype(np.uint16))
    card.save(data_dir / "labels")
    torch.manual_seed(0)
    save_model(SpearModel(SpearConfig(**SIZES)), data_dir / "teacher")
    for layer in (0, -1):
        spec = f"spear:{data_dir / 'teacher'}@{layer},frame_rate_hz=25"
        teacher = load_teacher(spec).fingerprint()
        directory = data_dir / f"frames{layer}"
        with ShardWriter(directory, "part", np.float16, 32) as writer:
            for cut, samples in cuts.items():
                writer.add(cut, rng.normal(0, 1, (expected_frames(samples, teacher), 32)).astype(np.float16))
        seal.write_json(directory / "card.json", {"format": FORMAT, "teacher": teacher, "max_frames": 10**6, "seed": 1})
    everywhere = {"domain_weights": {"speech": 1.0, "audio": 0.5}}
    spoken = {"domain_weights": {"speech": 1.0, "audio": 0.0}}
    streams = {
        "best_rq": None,
        "speech": None,
        "labels": {"objective": "labels", "labels": "labels", **everywhere},
        "stored": {"objective": "features", "features": ["frames0", "frames-1"], **everywhere},
        "live": {"objective": "features", "teachers": [f"spear:{data_dir / 'teacher'}"], "loss": "l2", **everywhere},
        "ctc": {"objective": "ctc", **spoken},
        "transducer": {"objective": "transducer", "prediction_dim": 16, "joiner_dim": 16, **spoken},
    }
    path = data_dir / "objectives.yaml"
    path.write_text(yaml.safe_dump({"streams": streams, "model": SIZES, "plan": {"max_seconds": 8}}))
    return str(path)


@pytest.fixture(scope="module")
def whole(train, objectives, tmp_path_factory):
    """Metrics and directory of a run that nobody disturbed."""
    exp_dir = tmp_path_factory.mktemp("objectives") / "exp"
    return train(exp_dir, "--config", objectives, "--num-steps", "4", "--tensorboard", "true"), exp_dir


def losses(rows: list[dict]) -> list[float]:
    return [row[key] for row in rows for key in sorted(row) if key.startswith("loss/")]


def test_a_killed_run_goes_on_bit_for_bit(start, train, objectives, whole, tmp_path):
    exp_dir = tmp_path / "exp"
    process = start(exp_dir, "--config", objectives, "--num-steps", "4")
    wait_for_step(exp_dir, 2, process)
    process.kill()
    process.wait()
    assert train(exp_dir, "--config", objectives, "--num-steps", "4") == whole[0]


def test_all_streams_are_learnt_logged_and_on_the_checkpoint(whole):
    rows, exp_dir = whole
    for stream in ("labels", "stored", "live", "ctc", "transducer"):
        assert sum(f"loss/{stream}/unmasked" in row for row in rows) == 4
    assert any("probe/perplexity/labels/predicted" in row for row in rows)
    assert any("probe/rank/live/predicted" in row for row in rows)
    cards = checkpoint.newest(exp_dir)[1]["cards"]
    assert cards["labels"]["quantizer"]["codebook_size"] == CLASSES
    assert [teacher["layer"] for teacher in cards["stored"]["teachers"]] == [0, -1]
    text = Path(f"{exp_dir}.log").read_text()
    assert "stream stored: " in text and "of stored frames" in text and "stream live: on the fly" in text


def test_health_estimate_and_tensorboard_know_them(start, objectives, whole):
    exp_dir = whole[1]
    for mode in ("--health", "--estimate"):
        assert start(exp_dir, "--config", objectives, "--num-steps", "4", mode).wait(timeout=300) == 0
    text = Path(f"{exp_dir}.log").read_text()
    assert "modules at step 4" in text and "a checkpoint" in text
    assert all(f"  targets  stream {name}: " in text for name in ("stored", "live"))
    [events] = (exp_dir / "tensorboard").iterdir()
    assert b"cosine/live/unmasked" in events.read_bytes()


def test_two_ranks_are_one_that_accumulates_and_sharding_changes_nothing(train, objectives, tmp_path):
    more = ("--config", objectives, "--num-steps", "2")
    one = train(tmp_path / "one", *more, "--accumulation", "2")
    two = train(tmp_path / "two", *more, processes=2)
    sharded = train(tmp_path / "sharded", *more, "--parallel", "fsdp", processes=2)
    assert len(losses(one)) >= 6
    assert losses(one) == pytest.approx(losses(two), rel=1e-5)
    assert losses(sharded) == pytest.approx(losses(two), rel=1e-5)
