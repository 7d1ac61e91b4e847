"""The collapse watch: tokens and directions in use, in numbers and in words."""

import json
from pathlib import Path

import pytest
import torch

from spear.models.heads import IGNORE
from spear.train.collapse import probe_batch
from spear.train.directions import effective_rank
from spear.train.objectives.usage import token_usage


def test_usage_of_tokens():
    even = torch.arange(16).repeat(8)[:, None]
    constant = torch.full((128, 1), 5)
    constant[:64] = IGNORE
    first, second = token_usage(torch.cat([even, constant], dim=1), 16)
    assert first.perplexity == pytest.approx(16) and first.top_share == pytest.approx(1 / 16)
    assert (second.perplexity, second.top_token, second.top_share) == (pytest.approx(1), 5, 1.0)


def test_effective_rank_counts_directions():
    torch.manual_seed(0)
    line = torch.randn(500, 1) @ torch.randn(1, 12)
    assert effective_rank(line + 3) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.randn(20_000, 12)) == pytest.approx(12, rel=0.01)
    two = torch.cat([torch.randn(20_000, 2), torch.zeros(20_000, 10)], dim=1)
    assert effective_rank(two) == pytest.approx(2, rel=0.01)


def test_the_probe_is_spread_over_the_data_however_small_a_batch_is(make_trainer):
    train = make_trainer().data.train
    for max_seconds, most in ((1.5, 6), (1000.0, 16)):
        batch = probe_batch(train, max_seconds)
        assert {train.cuts[0].id, train.cuts[len(train.cuts) - 1].id} <= set(batch.ids) and len(batch.ids) <= most
        assert batch.padded_seconds <= 4 * max_seconds


def probe_rows(trainer) -> list[dict]:
    rows = map(json.loads, (Path(trainer.config.exp_dir) / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "probe/effective_rank" in row]


def test_a_run_logs_both_and_does_not_cry_wolf(make_trainer, caplog):
    caplog.set_level("INFO", logger="spear")
    trainer = make_trainer()
    trainer.run()
    rows = probe_rows(trainer)
    assert [row["step"] for row in rows] == [2, 4]
    said = [record.getMessage() for record in caplog.records]
    assert any("rank of the states" in line and "codes where its targets use" in line for line in said)
    assert not any("(right )" in line for line in said)
    assert all(1 < row["probe/perplexity/speech/target"] <= 16 for row in rows)
    assert all(1 <= row["probe/effective_rank"] <= 32 for row in rows)
    assert "collapse watch" not in caplog.text


def test_constant_targets_are_reported_in_words(make_trainer, caplog):
    trainer = make_trainer()
    objective = trainer.objectives["speech"]
    real = objective.targets
    objective.targets = lambda batch, lens_B: real(batch, lens_B).clamp(max=3).masked_fill(real(batch, lens_B) >= 0, 3)
    trainer.run()
    [text] = [record.getMessage() for record in caplog.records if "collapse watch" in record.getMessage()]
    assert "stream 'speech', codebook 0: the targets are token 3 100 % of the time" in text


def test_a_model_that_predicts_one_token_is_reported_in_words(make_trainer, caplog):
    trainer = make_trainer(num_steps=2)
    trainer.collapse.patience_steps = 0
    with torch.no_grad():
        trainer.model.heads["speech"].linear2_bias[1, 7] = 1e4
    trainer.run()
    assert "codebook 1 predicts one token (7) 100 % of the time; the most frequent target has" in caplog.text
