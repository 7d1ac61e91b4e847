"""The cost benchmark adds up, and counts what the protocol counts."""

import pytest

from spear import fs
from spear.bench.superb import CORPORA, main


def test_the_arithmetic_of_the_cost_benchmark(tmp_path, capsys):
    words = ["--size", "tiny", "--steps", "1", "--repeats", "1", "--encoder-seconds", "2", "--learning-rates", "2"]
    assert main([*words, "--output", str(tmp_path / "cost.json")]) == 0
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
