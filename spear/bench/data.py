"""Measures loading: cuts per second of our loader and of lhotse's K2-style dataset on the same cuts; waiting for data.

    spear bench data --cuts egs/mini/spear/data/manifests/cuts_speech_train.jsonl

Both read the same recordings, compute 128-mel features from them and pad batches of the same size limit. lhotse's
dataset wants supervisions, so the cuts must have some. The share of waiting is what a trainer would see that takes
batches at the given speed.
"""

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from spear import config as configuration
from spear import fs
from spear.bench import _report
from spear.data import PlanLimits, PretrainDataset, SourceConfig, load_sources, make_loader
from spear.errors import ConfigError, require


@dataclass
class DataBenchConfig:
    """Settings.

    Attributes:
        cuts: manifest (JSONL) in the layout of prepare.sh: recordings relative to the folder above it.
        max_seconds: of a batch.
        workers: numbers of loader processes.
        max_batches: of each measurement.
        trainer_audio_seconds_per_second: speed of the trainer whose waiting is measured (Base on 2 cores: about 10).
        output: JSON file of the results; empty for none.
    """

    cuts: str = ""
    max_seconds: float = 40.0
    workers: list[int] = field(default_factory=lambda: [0, 1])
    max_batches: int = 60
    trainer_audio_seconds_per_second: float = 10.0
    output: str = ""


def main(argv: list[str] | None = None) -> int:
    """Measures and prints a table."""
    config = configuration.parse(DataBenchConfig, argv, None, __doc__)
    if not config.cuts:
        raise ConfigError("no --cuts", "a manifest with supervisions", "run stage 1 of a recipe and name its manifest")
    torch.set_num_threads(1)
    rows = []
    for workers in config.workers:
        for name, open_loader in (("spear", _ours), ("lhotse K2SpeechRecognitionDataset", _lhotse)):
            rows.append({"loader": name, "workers": workers, **_measure(open_loader(config, workers), config)})
    waiting = _waiting(config)
    header = ["loader", "workers", "cuts/s", "audio-s/s", "CPU ms a cut", "batches"]
    keys = ["loader", "workers", "cuts_per_second", "audio_seconds_per_second", "cpu_ms_per_cut", "batches"]
    print(_report.markdown_table(header, [[row[key] for key in keys] for row in rows]))
    speed = config.trainer_audio_seconds_per_second
    print(f"waiting for data with 1 worker, at {speed:g} audio-s/s: {100 * waiting:.1f} % of the time")
    result = {"environment": _report.environment(), "rows": rows, "wait_share": waiting}
    print(result["environment"])
    if config.output:
        fs.write_json(Path(config.output), result)
    return 0


def _ours(config: DataBenchConfig, workers: int) -> Iterable[tuple[int, float]]:
    """(cuts, audio seconds) of each batch of our loader."""
    sources = load_sources([SourceConfig("bench", config.cuts)])
    dataset = PretrainDataset(sources, seed=0, limits=PlanLimits(max_seconds=config.max_seconds))
    for batch in make_loader(dataset, 0, num_workers=workers):
        yield len(batch.ids), batch.audio_seconds


def _lhotse(config: DataBenchConfig, workers: int) -> Iterable[tuple[int, float]]:
    """The same of lhotse's dataset with features on the fly and its bucketing sampler."""
    lhotse = require("lhotse", "lhotse", "the comparison")
    parts = require("lhotse.dataset", "lhotse", "the comparison")
    cuts = lhotse.CutSet.from_jsonl(config.cuts).to_eager()
    cuts = cuts.filter(lambda cut: cut.supervisions and 0.3 <= cut.duration <= 32).to_eager()
    # Recordings are named relative to the folder above the manifest's.
    cuts = cuts.with_recording_path_prefix(Path(config.cuts).absolute().parent.parent)
    settings = lhotse.FbankConfig(num_filters=128, torchaudio_compatible_mel_scale=False)
    dataset = parts.K2SpeechRecognitionDataset(input_strategy=parts.OnTheFlyFeatures(lhotse.Fbank(settings)))
    sampler = parts.DynamicBucketingSampler(cuts, max_duration=config.max_seconds, shuffle=True, num_buckets=10)
    for batch in torch.utils.data.DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers):
        frames = batch["supervisions"]["num_frames"]
        yield len(frames), float(frames.sum()) / 100


def _measure(batches: Iterable[tuple[int, float]], config: DataBenchConfig) -> dict:
    """Cuts per second after the first batch, whose time is that of starting."""
    cuts, seconds, count = 0, 0.0, 0
    iterator = iter(batches)
    next(iterator)
    clock, cpu = time.perf_counter(), _cpu_seconds()
    for number, audio_seconds in iterator:
        cuts, seconds, count = cuts + number, seconds + audio_seconds, count + 1
        if count == config.max_batches:
            break
    elapsed = time.perf_counter() - clock
    iterator.close()  # ends the workers, whose processor time is only known then
    used = _cpu_seconds() - cpu
    return {
        "cuts_per_second": cuts / elapsed,
        "audio_seconds_per_second": seconds / elapsed,
        "cpu_ms_per_cut": 1000 * used / max(cuts, 1),
        "batches": count,
    }


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _waiting(config: DataBenchConfig) -> float:
    """Share of the time that a trainer of the given speed waits, with one worker."""
    iterator = iter(_ours(config, 1))
    _, audio_seconds = next(iterator)
    began, waited = time.perf_counter(), 0.0
    for _ in range(min(10, config.max_batches)):
        time.sleep(audio_seconds / config.trainer_audio_seconds_per_second)
        asked = time.perf_counter()
        _, audio_seconds = next(iterator, (0, 0.0))
        waited += time.perf_counter() - asked
    return waited / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
