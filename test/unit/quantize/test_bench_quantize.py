"""`spear bench quantize`: one table of ours, with the settings of training passed on."""

from spear.bench import quantize


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
