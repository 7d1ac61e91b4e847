"""A tiny training run on generated audio: a few steps of a few hundred thousand parameters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from tiny import SEVEN_STACKS

from spear.audio import FbankConfig
from spear.manifest import ManifestsConfig, make_manifests
from spear.seeds import numpy_rng
from spear.shards import ShardWriter
from spear.teachers import IDENTITY_KEYS
from spear.tokens import TokenCard

CONFIG = {
    "num_steps": 8,
    "model": SEVEN_STACKS | {"value_head_dim": "12", "subsampling_channels": "4,4,8"},
    "streams": {
        "best_rq": {
            "objective": "random_projection",
            "num_codebooks": 2,
            "codebook_size": 16,
            "domain_weights": {"speech": 1.0, "audio": 0.5},
        },
        "speech": {"mix_tokens": True},
    },
    "sources": [
        {"name": "speech", "cuts": "manifests/cuts_speech_train.jsonl"},
        {"name": "audio", "cuts": "manifests/cuts_audio_train.jsonl", "weight": 1.5},
    ],
    "plan": {"max_seconds": 12},
    "mixing": {"probability": 0.5, "noise_probability": 0.5, "noises": ["manifests/noise.jsonl"]},
    "optimizer": {"warmup_batches": 2, "reference_seconds": 10},
    "valid_fraction": 0.1,
    "num_workers": 0,
    "log_every_steps": 1,
    "valid_every_steps": 4,
    "checkpoint_every_steps": 1,
    "average_every_steps": 1,
    "average_last_steps": 3,
    "tensorboard": False,
}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Manifests and speech tokens of 60 short recordings."""
    folder = tmp_path_factory.mktemp("resume") / "data"
    raw = folder / "raw"
    raw.mkdir(parents=True)
    rng = numpy_rng(0, "resume test")
    rows = ["id\tpath\tduration\tkind\tspeaker\ttext\tlabel"]
    for number in range(60):
        kind = "speech" if number % 3 else "event"
        samples = rng.normal(0, 0.05, rng.integers(8000, 32000)).cumsum() * 0.02
        soundfile.write(raw / f"cut{number}.wav", np.clip(samples, -0.9, 0.9), 16000)
        label = "" if kind == "speech" else "class=rain"
        text = f"no {number}" if kind == "speech" else ""
        rows.append(f"cut{number}\tcut{number}.wav\t{len(samples) / 16000:.4f}\t{kind}\t\t{text}\t{label}")
    (raw / "manifest.tsv").write_text("\n".join(rows) + "\n")
    make_manifests(ManifestsConfig(raw=str(raw), output=str(folder / "manifests"), num_jobs=1))

    writer = ShardWriter(folder / "tokens/speech", "tokens-00000", np.uint8, 4)
    for row in rows[1:]:
        item_id, _, duration = row.split("\t")[:3]
        frames = int(float(duration) * 50)
        writer.add(item_id, np.repeat(rng.integers(0, 256, (frames // 4 + 1, 4)), 4, axis=0)[:frames].astype(np.uint8))
    writer.close()
    teacher = {
        "teacher": "test",
        "weights_sha256": "0" * 64,
        "layer": 1,
        "frame_rate_hz": 50.0,
        "sample_rate_hz": 16000,
        "dim": 8,
    }
    card = TokenCard(
        stream="speech",
        teacher={**dict.fromkeys(IDENTITY_KEYS, "test"), **teacher},
        quantizer={"content_sha256": "0" * 64, "num_codebooks": 4, "codebook_size": 256},
        frame_rate_hz=50.0,
        sample_rate_hz=16000,
        fbank_sha256=FbankConfig().definition_hash(),
    )
    card.save(folder / "tokens/speech")
    return folder


@pytest.fixture(scope="session")
def config_file(data_dir) -> Path:
    path = data_dir / "train.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "data_dir": str(data_dir)}))
    return path


@pytest.fixture(scope="session")
def start(config_file):
    """Returns a function that starts training: exp_dir, more arguments, processes, (fault, rank, step) of faulty.py."""

    def start(
        exp_dir: Path, *arguments: str, processes: int = 1, fault: tuple[str, int, int] | None = None
    ) -> subprocess.Popen:
        program = ["-m", "spear.bin.main", "train"]
        if fault:
            program = [str(Path(__file__).with_name("faulty.py")), *map(str, fault)]
        command = [sys.executable, *program]
        if processes > 1:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc_per_node", str(processes), *program]
        command += ["--config", str(config_file), "--exp-dir", str(exp_dir), *arguments]
        log = open(f"{exp_dir}.log", "ab")
        return subprocess.Popen(command, stdout=log, stderr=log, cwd="/", env={**os.environ, "OMP_NUM_THREADS": "1"})

    return start


@pytest.fixture(scope="session")
def start_ranks(config_file, free_port):
    """Returns a function that starts two ranks without torchrun, which would pass signals on and hide exit codes."""

    def start_ranks(exp_dir: Path, *arguments: str) -> list[subprocess.Popen]:
        command = [sys.executable, "-m", "spear.bin.main", "train", "--config", str(config_file)]
        command += ["--exp-dir", str(exp_dir), *arguments]
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", **meeting}
        log = open(f"{exp_dir}.log", "ab")
        return [
            subprocess.Popen(command, stdout=log, stderr=log, cwd="/", env=os.environ | common | {"RANK": str(rank)})
            for rank in (0, 1)
        ]

    return start_ranks


@pytest.fixture(scope="session")
def train(start):
    """Returns a function that runs a training to its end and gives its metrics."""

    def train(exp_dir: Path, *arguments: str, processes: int = 1, code: int = 0) -> list[dict]:
        status = start(exp_dir, *arguments, processes=processes).wait(timeout=300)
        assert status == code, Path(f"{exp_dir}.log").read_text()[-3000:]
        return read_metrics(exp_dir)

    return train


def read_metrics(exp_dir: Path) -> list[dict]:
    """Rows of metrics.jsonl without what depends on the clock, and without the run's name, which is drawn at random."""
    path = exp_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert len({row["run_id"] for row in rows}) <= 1, "rows of another run"
    drawn = ("run_id", "seconds", "audio_seconds_per_second", "data_wait_share", "mfu", "model_flops", "target_flops")
    return [{key: value for key, value in row.items() if key not in drawn} for row in rows]


@pytest.fixture(scope="session")
def metrics_of():
    """Returns `read_metrics`, for tests of other files."""
    return read_metrics


@pytest.fixture(scope="session")
def undisturbed(train, tmp_path_factory):
    """Metrics and directory of a run that nobody disturbed."""
    exp_dir = tmp_path_factory.mktemp("undisturbed") / "exp"
    return train(exp_dir), exp_dir


@pytest.fixture(scope="session")
def undisturbed_two_ranks(train, tmp_path_factory):
    """Metrics of an undisturbed run of two ranks."""
    return train(tmp_path_factory.mktemp("undisturbed_two_ranks") / "exp", processes=2)
