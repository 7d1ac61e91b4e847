"""An objective of another package: one file and an entry point, and everything else works with it."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from spear.train.objectives import OBJECTIVES

TOY = '''
"""Predicts how loud each frame is, in nepers."""

from dataclasses import dataclass

import torch
from torch import nn

from spear import records
from spear.models.heads import HeadOutput, by_mask
from spear.train.objectives import Objective, Probe, Settings


@dataclass
class LoudnessSettings(Settings):
    """Settings.

    Attributes:
        scale: factor on the loss.
    """

    scale: records.Positive = 1.0


class LoudnessHead(nn.Module):
    def __init__(self, dim, scale):
        super().__init__()
        self.linear, self.scale = nn.Linear(dim, 1), scale

    def build(self, encoder, initial_scale):
        return LoudnessHead(encoder.output_dim, self.scale)

    def predict(self, encoded, targets_BT, weights_B):
        inside_BT = torch.arange(targets_BT.shape[1], device=weights_B.device) < encoded.lens_B[:, None]
        difference_BT = (self.linear(encoded.hidden_BTD.float()).squeeze(2) - targets_BT).abs() * inside_BT
        loss = self.scale * (difference_BT * weights_B[:, None] * encoded.frame_weights_BT).sum()
        sums_MK = torch.stack((difference_BT, inside_BT.float(), difference_BT**2), dim=2)[inside_BT].detach()
        return HeadOutput(loss, by_mask(sums_MK, encoded.masked_BT[inside_BT].float()[:, None]))


class LoudnessObjective(Objective):
    Settings = LoudnessSettings
    unit, measures = "nepers", ("squared",)

    def __init__(self, context):
        super().__init__(context)
        self.head = LoudnessHead(1, context.settings.scale)
        self.rows = round(100 / context.frame_rate_hz)

    def targets(self, batch, student_lens_B):
        frames = int(student_lens_B.max())
        return batch.features_BTF.mean(2).unfold(1, self.rows, self.rows)[:, :frames].mean(2)

    def probe(self, head, encoded, targets, weights_B, early):
        return Probe({f"bias/{self.name}": float(head.linear.bias)}, warnings=("as loud as ever",))

    def card(self):
        return {"teacher": "none"}

    def costs(self, audio_hours):
        return [f"{self.name} costs nothing"]
'''


@pytest.fixture
def environment(tmp_path) -> dict:
    """An environment in which a package with the toy objective is installed."""
    site = tmp_path / "site"
    (site / "toy-1.0.dist-info").mkdir(parents=True)
    (site / "toy_objective.py").write_text(TOY)
    (site / "toy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    lines = [f"[{OBJECTIVES.group}]", "loudness = toy_objective:LoudnessObjective", "broken = toy_objective:Nothing"]
    (site / "toy-1.0.dist-info" / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), os.environ.get("PYTHONPATH", "")))}


def spear(environment: dict, *words) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "spear.bin.main", "train", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_toy_objective_takes_one_file_outside_the_package(environment, tiny_settings, data_dir, tmp_path):
    streams = {"loud": {"objective": "loudness", "scale": 0.5, "domain_weights": {"speech": 1.0}}}
    settings = {**tiny_settings, "num_steps": 2, "streams": streams, "data_dir": str(data_dir)}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**settings, "exp_dir": str(tmp_path / "exp")}))
    done = spear(environment, "--config", tmp_path / "train.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    assert all(any(key in row for row in rows) for key in ("loss/loud/masked", "squared/loud/unmasked"))
    assert any("valid/loss/loud/masked" in row for row in rows) and any("probe/bias/loud" in row for row in rows)
    for said in ("nepers (squared", "as loud as ever", "loud costs nothing"):
        assert said in done.stderr, said
    [newest] = sorted((tmp_path / "exp" / "checkpoints").iterdir())[-1:]
    assert json.loads((newest / "checkpoint.json").read_text())["cards"] == {"loud": {"teacher": "none"}}
    assert yaml.safe_load((tmp_path / "exp" / "config.yaml").read_text())["streams"]["loud"]["scale"] == 0.5


def test_its_settings_are_checked_and_one_that_cannot_be_imported_is_named(environment):
    done = spear(environment, "--streams.a.objective", "loudness", "--streams.a.scale", "-1")
    assert done.returncode == 1 and "streams.a.scale: -1" in done.stderr and "above 0" in done.stderr
    done = spear(environment, "--streams.a.objective", "broken")
    assert done.returncode == 1 and "one of" in done.stderr and "loudness" in done.stderr
    assert "objective 'broken', whose package fails" in done.stderr
