"""A loader that cannot deliver: a small /dev/shm, storage that does not answer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spear.audio import save_audio
from spear.data import PlanLimits, PretrainDataset, SourceConfig, load_sources, make_loader
from spear.data import loader as loading
from spear.errors import DataError
from spear.manifest import ManifestsConfig, make_manifests
from spear.seeds import numpy_rng

_LOAD = """
import sys
from spear.data import PlanLimits, PretrainDataset, SourceConfig, load_sources, make_loader
sources = load_sources([SourceConfig("speech", sys.argv[1], "speech")])
dataset = PretrainDataset(sources, seed=0, limits=PlanLimits(max_seconds=60))
print(sum(len(batch.ids) for batch in make_loader(dataset, 0, num_workers=2, timeout_seconds=60)))
"""


@pytest.fixture(scope="module")
def cuts(tmp_path_factory) -> Path:
    """The manifest of 12 noises of 5 s."""
    folder = tmp_path_factory.mktemp("loaders")
    rng = numpy_rng(0, "loaders")
    for number in range(12):
        save_audio(folder / "raw" / f"{number}.wav", rng.uniform(-0.5, 0.5, 80_000).astype(np.float32), 16000)
    make_manifests(ManifestsConfig(str(folder / "raw"), str(folder / "manifests"), kind="speech", num_jobs=1))
    return folder / "manifests" / "cuts_speech_train.jsonl"


@pytest.fixture
def dataset(cuts) -> PretrainDataset:
    sources = load_sources([SourceConfig("speech", str(cuts), "speech")])
    return PretrainDataset(sources, seed=0, limits=PlanLimits(max_seconds=20))


def test_with_little_shared_memory_the_same_batches_come_through_pipes(dataset, monkeypatch, caplog):
    through_memory = list(make_loader(dataset, 0, num_workers=1))
    caplog.set_level("INFO")
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3e5, "total": 64e6}))
    loader = make_loader(dataset, 0, num_workers=1)
    assert loader._view.packs and "300.0 kB free" in caplog.text and "--shm-size" in caplog.text
    through_pipes = list(loader)
    assert len(through_pipes) == len(through_memory) > 1
    for one, other in zip(through_memory, through_pipes):
        assert one.ids == other.ids and torch.equal(one.features_BTF, other.features_BTF)


def test_two_megabytes_of_shared_memory_are_enough(cuts):
    """Each batch has 3 MB: workers died of SIGBUS or waited for ever."""
    small = ["unshare", "-m", "-r", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"', "sh"]
    if sys.platform != "linux" or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("needs Linux, and leave to mount a small /dev/shm")
    command = [*small, sys.executable, "-c", _LOAD, str(cuts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout == "12\n", done.stderr


def _slow(dataset, monkeypatch, after: int):
    """Batches from number `after` on never come."""
    batch = dataset.batch

    def hang(plan, epoch, step, rank):
        if step >= after:
            time.sleep(600)
        return batch(plan, epoch, step, rank)

    monkeypatch.setattr(dataset, "batch", hang)


def test_a_worker_that_waits_for_ever_is_an_error_that_says_where_to_look(dataset, monkeypatch):
    _slow(dataset, monkeypatch, 1)
    batches = iter(make_loader(dataset, 0, num_workers=1, timeout_seconds=2))
    next(batches)
    with pytest.raises(DataError, match=r"(?s)for 2 s; /dev/shm has .* free of .*num_workers to 0 .*--shm-size"):
        next(batches)


def test_a_dead_worker_is_replaced_although_there_is_a_time_limit(dataset, monkeypatch, tmp_path):
    batch = dataset.batch

    def die(plan, epoch, step, rank):
        if step == 1 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        return batch(plan, epoch, step, rank)

    monkeypatch.setattr(dataset, "batch", die)
    loader = make_loader(dataset, 0, num_workers=1, timeout_seconds=300)
    assert len(list(loader)) == len(loader)
    assert (tmp_path / "died").exists()
