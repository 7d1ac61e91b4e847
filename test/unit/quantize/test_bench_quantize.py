"""`spear bench quantize`: one table of ours, with the settings of training passed on."""

import pytest
import torch

from spear.bench import quantize
from spear.bench._coders import Job, build


def rows(text: str) -> list[dict]:
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [dict(zip(lines[0], cells)) for cells in lines[2:]]


def test_a_quick_run_tells_error_speed_and_use_of_the_codes(tmp_path):
    path = tmp_path / "table.md"
    words = ["--quick", "true", "--sets", "mixture", "--methods", "ours", "--bfloat16", "true", "--threads", "1"]
    quantize.main([*words, "--train.rounds", "1", "--train.logits-epochs", "1", "--output", str(path)])
    found = {row["encoder"]: row for row in rows(path.read_text())}
    error = {name: float(row["relative error"]) for name, row in found.items()}
    assert 1 > error["1 passes, beam 1"] > error["1 passes, beam 8"] >= error["2 passes, beam 8"]
    assert abs(error["1 passes, beam 8, bfloat16"] / error["1 passes, beam 8"] - 1) < 0.02
    assert all(0 < float(row["entropy loss"]) < 0.5 for row in found.values())
    assert all(1 <= float(row["largest share x N"]) < 8 for row in found.values())
    assert all(0 <= float(row["nats apart"]) < 3 for row in found.values())


def test_the_peer_learns_the_same_when_its_search_takes_few_frames_at_once():
    pytest.importorskip("multi_quantization")
    x_MD = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))

    def trained(chunk: int) -> dict[str, torch.Tensor]:
        settings = {"iterations": 2, "chunk": chunk, "refinements": ()}
        return build(Job("peer", "multi_quantization", 4, settings), x_MD)[1]

    whole, chunked = trained(0), trained(50)
    for name in ("centers", "to_logits.weight"):  # its state also holds a random name
        assert torch.allclose(whole[name], chunked[name], rtol=1e-5, atol=1e-7), name
