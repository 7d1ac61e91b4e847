"""The benchmarks of training and loading, on the smallest settings that run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spear import SpearConfig
from spear.bench import data as bench_data
from spear.bench import train as bench_train
from spear.errors import ConfigError


def test_a_case_counts_its_work_and_the_share_of_the_peak_follows(monkeypatch):
    monkeypatch.setitem(bench_train._PEAK_SIZE, "cpu", 256)
    small = {"encoder_dim": "32", "encoder_unmasked_dim": "24", "feedforward_dim": "48", "num_heads": "2"}
    real = SpearConfig.base
    monkeypatch.setattr(SpearConfig, "base", lambda **changes: real(**small, **changes))
    found = bench_train.measure(bench_train.Case(batch="1x1", repeats=1, threads=1, precision="fp32"))
    assert found["audio_seconds_per_second"] == pytest.approx(1 / found["seconds"])
    share = found["matmul_gflop"] / found["seconds"] / found["peak_gflops"]
    assert found["share_of_peak"] == pytest.approx(share, rel=1e-6) and found["matmul_gflop"] > 0.1


def test_a_transformer_is_measured_too_and_sizes_that_it_lacks_are_named(monkeypatch):
    monkeypatch.setitem(bench_train._PEAK_SIZE, "cpu", 256)
    case = bench_train.Case("step", "mini", "fp32", "1x1", repeats=1, threads=1, encoder="transformer")
    # Two operations for each weight of linear layers forward, twice that backward, on 49 frames: 2.9 million weights in
    # the encoder and 1.6 million in two heads, which leave some frames out. Convolutions and attention add a sixth.
    layers, heads = 6 * 2.9e6 * 49 / 1e9, 6 * 2 * 16 * 256 * 192 * 49 / 1e9
    assert layers + heads / 2 < bench_train.measure(case)["matmul_gflop"] < 1.2 * (layers + heads)
    with pytest.raises(ConfigError, match="size 'xlarge' of encoder transformer(?s:.*)mini, base"):
        bench_train.measure(bench_train.Case(size="xlarge", precision="fp32", encoder="transformer"))


def test_a_case_that_fails_says_why_and_the_others_go_on():
    row = bench_train._run(bench_train.Case(what="nonsense", batch="1x1", repeats=1))
    assert "the case 'nonsense'" in row["error"] and "peer" in row["error"]
    assert "nonsense" in bench_train._table([{"case": "nonsense", "precision": "fp32", "batch": "1x1", **row}])


def test_memory_is_stated_as_a_share_of_the_peers_on_the_same_batch():
    values = dict.fromkeys("seconds cpu_seconds audio_seconds_per_second peak_gflops".split(), 1.0)
    values |= {"share_of_peak": 0.1, "share_of_peak_cpu": 0.1, "precision": "fp32", "batch": "1x1"}
    rows = [{"case": case, "step_peak_bytes": size, **values} for case, size in (("step", 3e9), ("peer", 4e9))]
    assert "| 3 | 0.75 |" in bench_train._table(rows) and "| 3 | - |" in bench_train._table(rows[:1])


def test_loading_is_measured_beside_lhotse(data_dir, tmp_path):
    manifest = tmp_path / "data" / "manifests" / "cuts.jsonl"
    manifest.parent.mkdir(parents=True)
    rows = [json.loads(line) for line in (data_dir / "manifests" / "cuts.jsonl").read_text().splitlines()]
    for row in rows:
        words = {"id": row["id"], "recording_id": row["id"], "start": 0, "duration": row["duration"], "text": "one"}
        row["supervisions"] = [{**words, "channel": 0}]
        os.link(data_dir / f"{row['id']}.wav", tmp_path / "data" / f"{row['id']}.wav")
    manifest.write_text("\n".join(map(json.dumps, rows)) + "\n")
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "spear.bin.main", "bench", "data", "--cuts", str(manifest), "--max-seconds", "6"]
    command += ["--workers", "0", "--trainer-audio-seconds-per-second", "100", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path("/"))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(output.read_text())
    assert [row["loader"].split()[0] for row in result["rows"]] == ["spear", "lhotse"]
    assert all(row["cuts_per_second"] > 0 for row in result["rows"]) and 0 <= result["wait_share"] < 1


def test_no_manifest_is_said_in_three_parts():
    with pytest.raises(ConfigError, match="(?s)no --cuts.*stage 1"):
        bench_data.main([])
