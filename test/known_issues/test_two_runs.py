"""Two runs in one directory: the second is refused and touches nothing; what a killed one leaves needs no hand.

Nothing refused a second run: of one training came `config.yaml`, of the other the weights, and the average was of both.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import SIZES

from spear import SpearConfig, SpearModel, locks, save_model
from spear.audio import save_audio
from spear.bin.main import main
from spear.seeds import numpy_rng

_HOLDER = """
import sys, time
from spear import locks
with locks.hold(sys.argv[1], "spear test"):
    print("held", flush=True)
    time.sleep(600)
"""
TASKS = """
tasks:
  - {name: number, head: classify, target: 'label:number', metric: accuracy,
     split: {by: id_regex, pattern: '-(\\d+)', test: [4, 5], dev: [2, 3]}}
"""


def hold(directory: Path) -> subprocess.Popen:
    """A process that holds a directory until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def tree(folder: Path) -> dict:
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != locks.NAME}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Recordings, tasks and a teacher."""
    data = tmp_path_factory.mktemp("two")
    rng = numpy_rng(0, "two runs")
    rows = ["id\tpath\tduration\tkind\tspeaker\ttext\tlabel"]
    for number in range(12):
        path = data / "raw" / f"cut-{number}.wav"
        save_audio(path, rng.uniform(-0.5, 0.5, 12000).astype(np.float32), 16000)
        rows.append(f"cut-{number}\t{path.name}\t\tspeech\t\t\tnumber={number % 2}")
    (data / "raw" / "manifest.tsv").write_text("\n".join(rows) + "\n")
    (data / "tasks.yaml").write_text(TASKS)
    (data / "superb").mkdir()
    keys = [{"id": f"cut-{n}", "path": f"raw/cut-{n}.wav", "target": str(n % 2)} for n in range(12)]
    splits = [{**row, "split": ("train", "dev", "test")[n % 6 // 2]} for n, row in enumerate(keys)]
    (data / "superb" / "KS.jsonl").write_text("".join(json.dumps(row) + "\n" for row in splits))
    torch.manual_seed(0)
    save_model(SpearModel(SpearConfig(**SIZES)), data / "teacher")
    return data


def commands(data: Path) -> list[tuple[list[str], Path]]:
    """The writing commands in the order of a recipe, each with the directory that is its own."""
    cuts, teacher = str(data / "manifests" / "cuts_speech_train.jsonl"), f"spear:{data / 'teacher'}@-1"
    manifests = f"--raw {data / 'raw'} --output {data / 'manifests'} --tasks {data / 'tasks.yaml'} --num-jobs 1"
    embed = f"--cuts {cuts} --teacher {teacher} --output {data / 'embeddings'} --device cpu"
    quantizer = f"--embeddings {data / 'embeddings'} --output {data / 'quantizer'} --num-codebooks 2 --codebook-size 8"
    extract = f"--cuts {cuts} --stream speech={teacher},{data / 'quantizer'} --output {data / 'tokens'} --device cpu"
    export = f"--cuts {cuts} --tokens {data / 'tokens'} --output {data / 'export'} --format numpy"
    imported = f"--cuts {data / 'export' / 'cuts_speech_train.jsonl'} --field speech_codebook_indexes"
    imported += f" --teacher {teacher} --quantizer {data / 'quantizer'} --output {data / 'imported' / 'speech'}"
    score = f"--upstream fbank --data-dir {data} --exp-dir {data / 'exp'} --num-jobs 1 --max-steps 2"
    score += " --learning-rates 1e-2"
    return [
        (["manifests", *manifests.split()], data / "manifests" / ".done"),
        (["fbank", "--manifests", str(data / "manifests"), "--output", str(data / "fbank"), "--num-jobs", "1"],
         data / "fbank"),
        (["embed", *embed.split()], data / "embeddings"),
        (["train-quantizer", *quantizer.split(), "--train.rounds", "1"], data / "quantizer"),
        (["extract-tokens", *extract.split()], data / "tokens" / "speech"),
        (["export-tokens", *export.split()], data / "export"),
        (["import-tokens", *imported.split()], data / "imported" / "speech"),
        (["evaluate", *score.split()], data / "exp" / "evaluate"),
    ]  # fmt: skip


def test_every_writing_command_is_refused_beside_another_and_goes_on_after_a_kill(place, capsys):
    for argv, directory in commands(place):
        other = hold(directory)
        before = tree(place)
        assert main(argv) == 1, argv[0]
        message = capsys.readouterr().err
        assert f"is being written by spear test, process {other.pid} on " in message, message
        assert "expected: one writing command" in message and "directory of its own" in message
        assert tree(place) == before, argv[0]
        other.send_signal(signal.SIGKILL)  # what remains of it is its lock
        assert (directory / locks.NAME).exists()
        assert main(argv) == 0, (argv[0], capsys.readouterr().err)
        other.wait()
        assert not (directory / locks.NAME).exists()


def settings(folder: Path, data: Path, **changes) -> Path:
    """A configuration of a run that would take hours."""
    values = {
        "num_steps": 100_000,
        "data_dir": str(data),
        "model": SIZES,
        "streams": {"speech": {"objective": "random_projection", "num_codebooks": 2, "codebook_size": 16}},
        "sources": [{"name": "noise", "cuts": "manifests/cuts_speech_train.jsonl", "domain": "speech"}],
        "plan": {"max_seconds": 4},
        "valid_fraction": 0.0,
        "num_workers": 0,
        "log_every_steps": 1,
        "checkpoint_every_steps": 2,
        "average_last_steps": 0,
        "tensorboard": False,
        **changes,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(config: Path, exp_dir: Path, *more: str, ranks: int = 1) -> subprocess.Popen:
    """A training in processes of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "spear.bin.main", "train"]
    command += ["--config", str(config), "--exp-dir", str(exp_dir), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_second_training_touches_nothing_of_the_first_and_all_its_ranks_end(place, tmp_path):
    exp_dir = tmp_path / "exp"
    config = settings(tmp_path, place)
    first = start(config, exp_dir)
    try:
        wait_for(lambda: list(exp_dir.glob("checkpoints/step-*")) or first.poll() is not None)
        first.send_signal(signal.SIGSTOP)
        before = tree(exp_dir)
        second, ranks = start(config, exp_dir, "--seed", "7"), start(config, exp_dir, "--seed", "7", ranks=2)
        for other in (second, ranks):
            message = other.communicate(timeout=240)[1]
            assert other.returncode == 1 and f"written by spear train, process {first.pid} on " in message, message
        assert tree(exp_dir) == before
    finally:
        first.kill()
        first.wait()
    assert (exp_dir / locks.NAME).exists()
    third = start(config, exp_dir, "--num-steps", "2")
    message = third.communicate(timeout=240)[1]
    assert third.returncode == 0 and "which is gone" in message, message
    assert not (exp_dir / locks.NAME).exists()


_RANK = """
import os, sys, time
from pathlib import Path
from spear import dist
from spear.bin.main import guard

def work(argv):
    rank = os.environ["RANK"]
    with dist.hold(sys.argv[1], "spear test"):
        Path(sys.argv[2], "in" + rank).touch()
        time.sleep(3 * int(rank))
        Path(sys.argv[2], "held" if Path(sys.argv[1], ".lock").exists() else "lost").touch()

sys.exit(guard(work))
"""


def test_ranks_that_share_a_launcher_hold_together_and_are_refused_together(tmp_path):
    (tmp_path / "rank.py").write_text(_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(tmp_path / "rank.py"), str(tmp_path / "output"), str(tmp_path)]
    assert subprocess.run(command, timeout=240, capture_output=True).returncode == 0
    # Rank 0 was done first and gave the lock back last.
    # The directory was made for the lock and goes with it, since nothing was written there.
    assert {path.name for path in tmp_path.iterdir()} == {"rank.py", "in0", "in1", "held"}
    other = hold(tmp_path / "output")
    done = subprocess.run(command, timeout=240, capture_output=True, text=True)
    assert done.returncode == 1 and f"written by spear test, process {other.pid} on " in done.stderr
    other.kill()
    other.wait()
