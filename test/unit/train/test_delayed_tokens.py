"""Tokens that a student says late, as one does that cannot hear ahead."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from spear import config
from spear.errors import ConfigError
from spear.train.config import TrainConfig
from spear.train.objectives.base import Context
from spear.train.objectives.labels import LabelObjective, LabelSettings
from spear.train.objectives.tokens import TokenObjective, TokenSettings

CONF = Path(__file__).resolve().parents[3] / "egs/mini/spear/conf"


def targets(objective, settings, rate_hz, student_rate_hz=50.0):
    """Of two utterances, 10 and 7 frames of 50 Hz, whose token at a frame is the frame's number."""
    stream = SimpleNamespace(frame_rate_hz=rate_hz, num_codebooks=1, codebook_size=256, card=None)
    made = objective(Context("speech", settings, student_rate_hz, stream=stream))
    rows = [round(count * rate_hz / 50) for count in (10, 7)]
    tokens = torch.full((2, rows[0], 1), -100)
    for utterance, count in enumerate(rows):
        tokens[utterance, :count, 0] = torch.arange(count)
    batch = SimpleNamespace(targets={"speech": tokens}, feature_lens_B=torch.tensor([20, 14]))
    lens_B = torch.tensor([10, 7]) * round(student_rate_hz) // 50
    return made.targets(batch, lens_B), lens_B.tolist()


@pytest.mark.parametrize("objective, make", [(TokenObjective, TokenSettings), (LabelObjective, LabelSettings)])
@pytest.mark.parametrize("rate_hz, student_rate_hz", [(50.0, 50.0), (25.0, 50.0), (100.0, 50.0), (50.0, 25.0)])
def test_a_target_comes_so_many_frames_late_and_never_from_padding(objective, make, rate_hz, student_rate_hz):
    prompt, lens = targets(objective, make(), rate_hz, student_rate_hz)
    for delay in (1, 3):
        late, _ = targets(objective, make(delay_frames=delay), rate_hz, student_rate_hz)
        assert late.shape == prompt.shape
        for found, expected, length in zip(late, prompt, lens):
            assert torch.equal(found[delay:length], expected[: max(0, length - delay)])
            assert (found[:delay] == -100).all() and (found[length:] == -100).all()


def test_a_delay_longer_than_an_utterance_leaves_it_without_targets():
    late, _ = targets(TokenObjective, TokenSettings(delay_frames=8), 50.0)
    assert (late[1] == -100).all() and (late[0, 8:, 0] == torch.arange(2)).all()
    late, _ = targets(TokenObjective, TokenSettings(delay_frames=30), 50.0)
    assert late.shape == (2, 10, 1) and (late == -100).all()


def test_the_conf_of_a_causal_student_is_read_and_delays_out_of_range_are_refused():
    words = ["--config", str(CONF / "student.yaml"), "--config", str(CONF / "ablation/causal.yaml")]
    found = config.parse(TrainConfig, words)
    assert found.model.settings.chunk_sizes and found.streams["audio"].settings.delay_frames == 4
    assert found.streams["speech"].settings.mix_tokens  # what it does not say stays
    assert set(yaml.safe_load((CONF / "ablation/causal.yaml").read_text())) == {"model", "streams"}
    for delay in (-1, 101):
        with pytest.raises(ConfigError, match="delay_frames"):
            config.parse(TrainConfig, [*words, f"--streams.speech.delay_frames={delay}"])
