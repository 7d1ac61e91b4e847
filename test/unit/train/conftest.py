"""A trainer of a tiny model on a few generated recordings, in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SIZES

from spear import dist
from spear.audio import save_audio
from spear.config import from_dict
from spear.seeds import numpy_rng
from spear.train.config import TrainConfig
from spear.train.loop import Trainer

SETTINGS = {
    "num_steps": 4,
    "model": SIZES,
    "streams": {"speech": {"objective": "random_projection", "num_codebooks": 2, "codebook_size": 16}},
    "sources": [{"name": "noise", "cuts": "manifests/cuts.jsonl", "domain": "speech"}],
    "plan": {"max_seconds": 8},
    "valid_fraction": 0.2,
    "num_workers": 0,
    "log_every_steps": 1,
    "valid_every_steps": 2,
    "checkpoint_every_steps": 2,
    "average_every_steps": 1,
    "average_last_steps": 2,
    "tensorboard": False,
}


@pytest.fixture
def tiny_settings() -> dict:
    """Settings of a run of a tiny model, without its directories."""
    return dict(SETTINGS)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """30 noises of 0.5 to 2 s and their manifest."""
    folder = tmp_path_factory.mktemp("train") / "data"
    rows, rng = [], numpy_rng(0, "train test")
    (folder / "manifests").mkdir(parents=True)
    for number in range(30):
        samples = 0.05 * rng.normal(size=rng.integers(8000, 32000)).cumsum().clip(-9, 9)
        save_audio(folder / f"noise{number}.wav", samples.astype(np.float32), 16000)
        seconds = len(samples) / 16000
        recording = {"id": f"noise{number}", "sampling_rate": 16000, "num_samples": len(samples), "duration": seconds}
        recording["sources"] = [{"type": "file", "channels": [0], "source": f"noise{number}.wav"}]
        cut = {"id": f"noise{number}", "start": 0, "duration": seconds, "channel": 0, "type": "MonoCut"}
        rows.append(json.dumps({**cut, "supervisions": [], "recording": recording}))
    (folder / "manifests" / "cuts.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def make_trainer(data_dir, tmp_path):
    """Returns a function that makes a trainer; its settings may be changed by name."""

    def make_trainer(**changes) -> Trainer:
        settings = {**SETTINGS, "data_dir": str(data_dir), "exp_dir": str(tmp_path / "exp"), **changes}
        return Trainer(from_dict(TrainConfig, settings), dist.World(0, 1, torch.device("cpu")))

    return make_trainer
