"""The cost benchmark adds up, and counts what the protocol counts."""

import dataclasses

import pytest
import torch

from spear import fs
from spear.bench import _grid
from spear.bench._published import FRAME_CORPORA, frame_problem
from spear.bench.evaluate import CORPORA, BenchConfig, hours, main
from spear.bin.bench import main as bench
from spear.errors import ConfigError, DataError
from spear.evaluate.banks import LinearBank
from spear.evaluate.estimate import measure
from spear.evaluate.protocol import settings_of

SMALL = {"rnn_dim": 8, "hidden_dim": 8, "pooled_dim": 8, "embedding_dim": 8, "batch_size": 3, "accumulate": 2}


def test_the_arithmetic_of_the_cost_benchmark(tmp_path, capsys):
    words = ["--size", "tiny", "--steps", "1", "--repeats", "1", "--encoder-seconds", "2", "--learning-rates", "2"]
    assert main([*words, "--tasks", "none", "--output", str(tmp_path / "cost.json")]) == 0
    found = fs.read_json(tmp_path / "cost.json")
    rows = {row["task"]: row for row in found["rows"]}
    assert set(rows) == set(CORPORA)
    # KS: 200,000 steps of 32 one-second words, 40 passes over dev, one over test; for both learning rates.
    assert rows["KS"]["stepwise_audio_seconds"] == 2 * (200_000 * 32 + 40 * 6_798 + 3_081)
    assert rows["SID"]["cached_utterances"] == 3 * 138_361 + 6_904 + 8_251
    for row in rows.values():
        assert row["ours_cpu_seconds"] == pytest.approx(row["features_cpu_seconds"] + row["heads_cpu_seconds"])
    total = sum(row["stepwise_cpu_seconds"] for row in rows.values())
    assert found["ratio"] == pytest.approx(total / sum(row["ours_cpu_seconds"] for row in rows.values()))
    assert "times less" in capsys.readouterr().out and found["environment"]["hardware"]


def test_hours_of_a_task_are_published_steps_times_measured_ones(tmp_path, capsys):
    words = ["--size", "tiny", "--steps", "1", "--repeats", "1", "--item-seconds", "0.3", "--saving", "false"]
    assert main([*words, "--tasks", "ER,PR", "--output", str(tmp_path / "hours.json")]) == 0
    er, pr = fs.read_json(tmp_path / "hours.json")["hours"]
    # ER: 5 folds, 30 evaluations of dev on the way and one after it. PR: 100 and one.
    assert er["steps"] == 5 * 30_000 and pr["steps"] == 100_000
    for row, folds, items in ((er, 5, 31 * 885 + 1_106), (pr, 1, 101 * 2_703 + 2_620)):
        seconds = row["steps"] * row["step_seconds"] + folds * items * row["evaluation_seconds_per_item"]
        assert row["hours"] == pytest.approx(seconds / 3600) and row["hours"] > 0
    printed = capsys.readouterr().out
    assert "| ER | 5 | 150,000 |" in printed and "1 threads, float32" in printed and "times less" not in printed


@pytest.mark.parametrize("task", ["ER", "PR"])
def test_heads_on_time_means_and_on_frames_are_timed_in_the_precision_that_is_asked_for(task, monkeypatch):
    seen, outputs = set(), LinearBank.outputs

    def watched(self, *arguments):
        seen.add(torch.get_float32_matmul_precision())
        return outputs(self, *arguments)

    monkeypatch.setattr(LinearBank, "outputs", watched)
    for precision, products in (("float32", "highest"), ("tf32", "high")):
        hours(task, 2, 6, BenchConfig(precision=precision, repeats=1, steps=1, item_seconds=0.3))
        assert seen == {products}
        seen.clear()


@pytest.mark.parametrize("task", FRAME_CORPORA)
def test_every_task_on_frames_has_a_problem_with_the_published_number_of_outputs(task, tmp_path):
    settings = dataclasses.replace(settings_of("superb", task), learning_rates=(1e-3,), **SMALL)
    problem = frame_problem(task, settings, 2, 6, 50.0, 1.0, tmp_path)
    assert len(next(iter(problem.train_batches(0)))) == 3
    count = {"ASV": "num_speakers", "PR": "num_outputs", "ASR": "num_outputs", "SF": "num_outputs"}.get(task)
    if count:
        assert problem.details[count] == FRAME_CORPORA[task].outputs
    cost = measure(problem, settings, batches=1)
    assert min(cost.batch_seconds, cost.update_seconds, cost.item_seconds) > 0


def test_unknown_tasks_and_the_old_name_are_refused():
    with pytest.raises(ConfigError, match="task 'KWS'"):
        main(["--tasks", "KWS"])
    with pytest.raises(ConfigError, match="use 'spear bench evaluate'"):
        bench(["superb"])


def test_points_of_a_grid_side_by_side_come_to_the_scores_of_one_after_another(tmp_path, capsys):
    words = ["--size", "tiny", "--tasks", "none", "--saving", "false", "--grid", "small"]
    assert main([*words, "--output", str(tmp_path / "grid.json")]) == 0
    (row,) = fs.read_json(tmp_path / "grid.json")["grid"]
    assert (row["points"], row["steps"]) == (8, 30) and row["largest_difference"] <= 1e-4
    assert row["ratio"] == pytest.approx(row["one_after_another_seconds"] / row["side_by_side_seconds"])
    assert "| small | 8 | 30 |" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="task 'ESC'"):
        main([*words[:-1], "ESC"])


def test_a_grid_whose_scores_differ_is_refused(monkeypatch):
    trained = _grid._trained

    def other(task, settings):
        grid, seconds = trained(task, settings)
        grid.heads[0]["test_loss"] += 0.001 * len(settings.points)
        return grid, seconds

    monkeypatch.setattr(_grid, "_trained", other)
    monkeypatch.setitem(_grid.TASKS, "small", dataclasses.replace(_grid.TASKS["small"], epochs=3))
    with pytest.raises(DataError, match="side by side differs by 0.00"):
        _grid.compare("small")
