"""`spear train-quantizer` on shards of embeddings."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from spear.bin import train_quantizer as command
from spear.errors import CardError, ConfigError, DataError
from spear.fs import read_json, write_json
from spear.quantize import load_quantizer
from spear.shards import ShardStore, ShardWriter

TEACHER = {"teacher": "spear", "layer": -1, "dim": 24, "frame_rate_hz": 50.0}
SMALL = ["--codebook-size", "16", "--train.rounds", "3", "--train.logits-epochs", "1", "--num-codebooks", "2"]


@pytest.fixture
def embeddings(tmp_path, frames):
    directory = tmp_path / "embeddings"
    for shard, part in enumerate(frames.half().numpy().reshape(2, 3000, 24)):
        with ShardWriter(directory, f"part{shard}", np.float16, 24) as writer:
            for number, item in enumerate(np.array_split(part, 7)):
                writer.add(f"item-{shard}-{number}", item)
    write_json(directory / "card.json", {"teacher": TEACHER})
    return directory


def run(embeddings, output, *more):
    return command.main(["--embeddings", str(embeddings), "--output", str(output), *SMALL, *more])


def test_trains_says_so_and_keeps_what_is_there(embeddings, tmp_path, capsys, frames):
    output = tmp_path / "quantizer"
    assert run(embeddings, output, "--dry-run", "true") == 0
    assert "would train 2 codebooks of 16 on 6000 of 6000 frames" in capsys.readouterr().out and not output.exists()
    assert run(embeddings, output) == 0
    said = capsys.readouterr().out
    assert "about" in said and "relative error" in said
    assert {path.name for path in output.iterdir()} == {"quantizer.safetensors", "card.json", "report.html"}
    quantizer = load_quantizer(output)
    quantizer.check(dim=24, teacher=TEACHER)
    assert quantizer.card["metrics"]["bits_per_second"] == 400
    page = (output / "report.html").read_text()
    assert quantizer.card["content_sha256"] in page and "400 bits per second" in page and "<svg" in page
    assert "http" not in page.split("</metadata>")[1].replace("http://www.w3.org", "")  # nothing is fetched
    assert quantizer.card["normalise"] and quantizer.encode(frames[:5].half()).shape == (5, 2)

    times = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert run(embeddings, output) == 0
    assert "already" in capsys.readouterr().out
    assert times == {path.name: path.stat().st_mtime_ns for path in output.iterdir()}


def test_other_settings_or_embeddings_are_refused_unless_told(embeddings, tmp_path):
    output = tmp_path / "quantizer"
    run(embeddings, output)
    with pytest.raises(CardError, match="seed = 42.*\n.*seed = 7"):
        run(embeddings, output, "--seed", "7")
    assert run(embeddings, output, "--seed", "7", "--overwrite", "true") == 0
    with ShardWriter(embeddings, "part2", np.float16, 24) as writer:
        writer.add("one more", np.ones((5, 24), dtype=np.float16))
    with pytest.raises(CardError, match="embeddings_sha256"):
        run(embeddings, output, "--seed", "7")


def test_max_frames_draws_evenly(embeddings):
    store = ShardStore(embeddings)
    rows = command.sample_rows(store, 600, seed=1)
    assert rows.shape == (600, 24) and np.array_equal(rows, command.sample_rows(store, 600, seed=1))
    everything = {row.tobytes(): index for index, row in enumerate(command.sample_rows(store, 10**9, seed=1))}
    places = np.array([everything[row.tobytes()] for row in rows])
    assert len(everything) == 6000 and len(set(places)) == 600 and 200 < (places < 3000).sum() < 400


def test_continues_after_a_kill(embeddings, tmp_path, monkeypatch):
    output, whole = tmp_path / "quantizer", tmp_path / "whole"
    run(embeddings, whole)
    real = command.fit

    def killed(*arguments, **named):
        def kill(state):
            raise KeyboardInterrupt

        return real(*arguments, **named, progress=kill)

    monkeypatch.setattr(command, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(embeddings, output)
    assert (output / ".training.safetensors").exists() and not (output / "card.json").exists()
    monkeypatch.setattr(command, "fit", real)
    run(embeddings, output)
    first, second = (read_json(each / "card.json")["content_sha256"] for each in (output, whole))
    assert first == second and not (output / ".training.safetensors").exists()


def test_mistakes(embeddings, tmp_path, capsys):
    with pytest.raises(ConfigError, match="embeddings"):
        command.main(["--output", str(tmp_path)])
    with pytest.raises(ConfigError, match="power of two"):
        run(embeddings, tmp_path / "q", "--num-codebooks", "3")
    with pytest.raises(DataError):
        run(tmp_path / "absent", tmp_path / "q")
    assert run(tmp_path / "absent", tmp_path / "q", "--dry-run", "true") == 0
    assert "no estimate yet" in capsys.readouterr().out


def test_embeddings_with_nan_are_refused(tmp_path, frames):
    broken = frames[:600].half().numpy()
    broken[17, 3] = np.nan
    with ShardWriter(tmp_path / "e", "part0", np.float16, 24) as writer:
        writer.add("item", broken)
    with pytest.raises(DataError, match="1 of 600 rows"):
        run(tmp_path / "e", tmp_path / "q")
    assert torch.isfinite(frames).all()


def test_a_process_that_is_killed_loses_at_most_a_codebook(embeddings, tmp_path):
    settings = [*SMALL, "--num-codebooks", "16", "--train.start-iterations", "40", "--embeddings", str(embeddings)]
    words = [sys.executable, "-m", "spear.bin.main", "train-quantizer", *settings, "--output"]
    victim = subprocess.Popen([*words, str(tmp_path / "killed")], stderr=subprocess.PIPE, text=True)
    last = 0
    for line in victim.stderr:
        if "] codebook " in line:
            last = int(line.split("] codebook ")[1].split()[0])
        if last == 4:
            victim.send_signal(signal.SIGKILL)
            break
    assert victim.wait(60) == -signal.SIGKILL and last == 4
    victim.stderr.close()
    assert not (tmp_path / "killed" / "card.json").exists()
    done = [
        subprocess.run([*words, str(tmp_path / name)], capture_output=True, text=True, timeout=300)
        for name in ("killed", "whole")
    ]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert int(done[0].stderr.split("continuing from round 0, codebook ")[1].split()[0]) >= last
    cards = [read_json(tmp_path / name / "card.json") for name in ("killed", "whole")]
    assert cards[0]["content_sha256"] == cards[1]["content_sha256"]
