"""Tagging, classification and verification with an encoder that thaws: killed, resumed, on two ranks."""

import json

import pytest
import yaml
from test_resume import wait_for_step
from tiny import SIZES

pytestmark = pytest.mark.slow
EVERYWHERE = {"domain_weights": {"speech": 1.0, "audio": 1.0}}


@pytest.fixture(scope="module")
def settings(data_dir) -> str:
    """A configuration of three streams on top of the others' one, and the manifest that they read."""
    lines = []
    for path in sorted((data_dir / "manifests").glob("cuts_*_train.jsonl")):
        lines += path.read_text().splitlines()
    for number, line in enumerate(lines):
        cut = json.loads(line)
        said = {"id": cut["id"], "recording_id": cut["id"], "start": 0, "duration": cut["duration"], "channel": 0}
        cut["supervisions"] = [{**said, "speaker": f"speaker{number % 4}"}]
        cut["custom"] |= {"labels": {"labels": ["a", "a,b", "b,c"][number % 3], "class": str(number % 2)}}
        lines[number] = json.dumps(cut)
    (data_dir / "manifests" / "labelled.jsonl").write_text("\n".join(lines) + "\n")
    streams = {
        "best_rq": None,
        "speech": None,
        "tags": {"objective": "tagging", **EVERYWHERE},
        "kind": {"objective": "classification", "layers": "weighted", "pooling": "attentive", **EVERYWHERE},
        "who": {"objective": "verification", "channels": 16, "embedding_dim": 8, **EVERYWHERE},
    }
    changes = {
        "streams": streams,
        "model": SIZES,
        "sources": [{"name": "labelled", "cuts": "manifests/labelled.jsonl"}],
        "plan": {"max_seconds": 8},
        "mixing": {"reverb_probability": 0.5, "impulse_responses": ["manifests/noise.jsonl"]},
        "spec_augment": {"probability": 0.9, "time_warp_frames": 20},
        "sampling": {"stream": "tags"},
        "average_by": "valid/map/tags",
        "average_best": 2,
        "freeze_encoder_steps": 1,
        "optimizer": {"lr_scales": {"encoder": 0.5, "encoder_embed": 0.5}, "first_batch_count": 1e5},
    }
    path = data_dir / "fine_tuning.yaml"
    path.write_text(yaml.safe_dump(changes))
    return str(path)


def losses(rows: list[dict]) -> list[float]:
    return [row[key] for row in rows for key in sorted(row) if key.startswith("loss/")]


@pytest.fixture(scope="module")
def whole(train, settings, tmp_path_factory) -> list[dict]:
    """Metrics of a run of one process that nobody disturbed."""
    exp_dir = tmp_path_factory.mktemp("fine_tuning") / "exp"
    return train(exp_dir, "--config", settings, "--num-steps", "4", "--accumulation", "2")


def test_a_killed_run_goes_on_bit_for_bit(start, train, settings, whole, tmp_path):
    assert {"valid/map/tags", "valid/eer/who", "valid/accuracy/kind/unmasked"} <= set().union(*whole)
    more = ("--config", settings, "--num-steps", "4", "--accumulation", "2")
    process = start(tmp_path / "exp", *more)
    wait_for_step(tmp_path / "exp", 2, process)
    process.kill()
    process.wait()
    assert train(tmp_path / "exp", *more) == whole


def test_two_ranks_are_one_that_accumulates(train, settings, whole, tmp_path):
    two = train(tmp_path / "exp", "--config", settings, "--num-steps", "4", processes=2)
    assert len(losses(two)) == 12
    assert losses(two) == pytest.approx(losses(whole), rel=1e-5)
