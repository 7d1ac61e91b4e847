"""`spear bench streaming`: a row for each encoder and chunk, of random weights and of a checkpoint."""

import pytest
import torch
from tiny import SIZES

from spear import SpearConfig, SpearModel, save_model
from spear.bench.streaming import main
from spear.errors import ConfigError


def test_a_row_for_each_chunk_of_a_checkpoint(tmp_path, capsys):
    torch.manual_seed(0)
    folder = save_model(SpearModel(SpearConfig(**SIZES, causal=True)), tmp_path / "tiny")
    words = ["--checkpoint", str(folder), "--chunks-ms", "160,320", "--left-context-ms", "320", "--seconds", "1.5"]
    assert main([*words, "--output", str(tmp_path / "table.md")]) == 0
    text = (tmp_path / "table.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if str(folder) in line and line.startswith("|")]
    assert [row[1] for row in rows] == ["160", "320"] and text in capsys.readouterr().out
    for row, algorithmic_ms in zip(rows, (297.5, 457.5)):
        latency_ms = float(row[5].replace(",", ""))
        assert float(row[2]) > 0 and latency_ms - float(row[3].replace(",", "")) == pytest.approx(algorithmic_ms, abs=1)


def test_what_ends_no_chunk_and_what_is_no_size_are_refused():
    with pytest.raises(ConfigError, match="no chunk"):
        main(["--sizes", "mini", "--chunks-ms", "1280", "--seconds", "0.5"])
    with pytest.raises(ConfigError, match="size"):
        main(["--sizes", "huge"])
