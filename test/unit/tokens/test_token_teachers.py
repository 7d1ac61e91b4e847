"""Extraction with a small WavLM and a small Dasheng: kills, ranks, bytes of audio, and disk against the estimate."""

import multiprocessing
import os
import re
import signal
from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch
from token_fakes import Cut, make_cuts, write_cuts

from spear.audio import probe
from spear.bin import embed, extract_tokens
from spear.quantize import Quantizer, save_quantizer
from spear.shards import ShardStore
from spear.teachers import load_teacher

pytest.importorskip("transformers")
CODEBOOKS = {"speech": 16, "audio": 8}  # those of the paper


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Cuts, two teachers and their quantizers (random weights)."""
    place = tmp_path_factory.mktemp("place")
    recordings = miniatures.sources("speech", 2) + miniatures.sources("event", 2)
    cuts = make_cuts(place / "corpus", 8 if recordings else 40)
    for path in recordings:
        seconds = probe(path).duration_seconds
        cuts.append(
            Cut(path.stem, path, seconds, round(seconds * 16000), "audio" if "esc10" in str(path) else "speech")
        )
    write_cuts(place / "cuts.jsonl", cuts)
    teachers = {"speech": f"wavlm:{miniatures.wavlm(place / 'wavlm')}@1"}
    teachers["audio"] = f"dasheng:{miniatures.dasheng(place / 'dasheng_small.pt')}@-1"
    for name, spec in teachers.items():
        teacher = load_teacher(spec)
        torch.manual_seed(0)
        quantizer = Quantizer(teacher.dim, CODEBOOKS[name])
        save_quantizer(place / name, quantizer, None, None, teacher.fingerprint(), {})
    return place, cuts, teachers


def words(place, output, *more):
    """Arguments of `spear extract-tokens` for both streams."""
    folder, _, teachers = place
    streams = [word for name, spec in teachers.items() for word in ("--stream", f"{name}={spec},{folder / name}")]
    limits = ["--unit-seconds", "8", "--max-duration", "20", "--num-workers", "1", "--device", "cpu"]
    return ["--cuts", str(folder / "cuts.jsonl"), *streams, *limits, "--output", str(output), *more]


def run_rank(arguments, rank):
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    assert extract_tokens.main(arguments) == 0


def run_until_killed(arguments, fatal_event):
    """Ends by SIGKILL when a batch is about to be encoded or a file about to be renamed into place."""
    torch.set_num_threads(1)
    left = fatal_event

    def fatal(function):
        def wrapper(*given, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **options)

        return wrapper

    Quantizer.encode, os.replace = fatal(Quantizer.encode), fatal(os.replace)
    extract_tokens.main(arguments)


def start(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


@pytest.mark.slow
def test_kills_and_ranks_leave_the_same_bytes(place, tmp_path):
    calm, killed, ranks = (tmp_path / name for name in ("calm", "killed", "ranks"))
    assert extract_tokens.main(words(place, calm)) == 0
    generator, ends = np.random.default_rng(0), []
    for _ in range(10):
        process = start(run_until_killed, words(place, killed), int(generator.integers(1, 9)))
        process.join()
        ends.append(process.exitcode)
    assert ends[:3] == [-signal.SIGKILL] * 3 and set(ends) <= {-signal.SIGKILL, 0}
    assert extract_tokens.main(words(place, killed)) == 0
    both = [start(run_rank, words(place, ranks), rank) for rank in (0, 1)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    expected = miniatures.snapshot(calm)
    assert len([name for name in expected if name.endswith(".npy")]) > 4
    assert miniatures.snapshot(killed) == expected and miniatures.snapshot(ranks) == expected


def test_a_second_of_audio_is_800_and_200_bytes(place, tmp_path):
    assert extract_tokens.main(words(place, tmp_path)) == 0
    for name, rate in (("speech", 800), ("audio", 200)):
        store, seconds = ShardStore(tmp_path / name), sum(cut.duration_seconds for cut in place[1])
        assert store.num_rows * store.width <= rate * seconds
        # Frames at the end that are not full are lost: at most two of each cut.
        assert store.num_rows * store.width >= rate * seconds - 2 * CODEBOOKS[name] * len(place[1])
        files = sum(path.stat().st_size for path in (tmp_path / name).glob("*.npy"))
        assert files == store.num_rows * store.width + 128 * len(list((tmp_path / name).glob("*.npy")))


def size(folder: Path) -> int:
    """Bytes on disk below a folder, unfinished files included."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("stage", [3, 5])
def test_the_disk_never_holds_more_than_was_printed(place, tmp_path, stage, monkeypatch, capfd):
    folder, _, teachers = place
    peak, replace = [0], os.replace

    def seen(*given):
        peak.append(size(tmp_path / "out"))
        replace(*given)
        peak.append(size(tmp_path / "out"))

    monkeypatch.setattr(os, "replace", seen)
    if stage == 5:
        assert extract_tokens.main(words(place, tmp_path / "out")) == 0
    else:
        cuts = ["--cuts", str(folder / "cuts.jsonl"), "--output", str(tmp_path / "out"), "--max-frames", "2000"]
        assert embed.main([*cuts, "--teacher", teachers["speech"]]) == 0
    printed = re.search(r"to do: at most ([\d.]+) (k|M)B", capfd.readouterr().err)
    promised = float(printed[1]) * {"k": 1e3, "M": 1e6}[printed[2]]
    cards = sum(4096 for _ in (tmp_path / "out").rglob("card.json")) + 4096 * (stage == 5)  # and quarantine.jsonl
    assert len(peak) > 4 and 0.3 * promised < max(peak) <= 1.005 * promised + cards
