"""Stage 2: durations, statistics, and stored log-mel features for corpora that are small enough.

Stored features are a `spear.shards.ShardStore` (float32, 128 columns) with a card that names the feature definition.
With `on_the_fly` only the statistics are written, and training computes features in its workers.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import spear
from spear import fs, log, ranges, seal
from spear.audio import Fbank, FbankConfig, load_audio
from spear.errors import ConfigError, DataError
from spear.executor import run_units
from spear.manifest.item import SAMPLE_RATE_HZ, Item, manifest_files, read_items
from spear.manifest.summary import ids_sha256, summarise
from spear.shards import ShardWriter, is_complete

_CUTS_PER_UNIT = 256
_MARGIN = 1.1  # of free disk over the estimate
logger = log.get_logger("fbank")


@dataclass
class FeaturesConfig:
    """Settings of stage 2.

    Attributes:
        manifests: the folder of stage 1.
        output: where shards of features go, such as data/fbank.
        stats: the statistics file; empty: stats.json beside the output folder.
        on_the_fly: store no features, only statistics.
        executor: local, dask or slurm.
        num_jobs: processes or jobs; 0 means one per core.
        dry_run: print the estimate and stop.
    """

    manifests: str
    output: str
    stats: str = ""
    on_the_fly: bool = False
    executor: str = "local"
    num_jobs: ranges.Jobs = 0
    dry_run: bool = False


def make_features(settings: FeaturesConfig) -> dict:
    """Runs stage 2 and returns what the statistics file holds.

    Raises:
        ConfigError: the disk has too little room.
        DataError: no manifests, or a recording that cannot be read any more.
    """
    fbank, output = FbankConfig(), Path(settings.output)
    items = _items(Path(settings.manifests))
    frames = sum(fbank.num_frames(item.num_samples) for item in items)
    needed = frames * fbank.num_mel_bins * 4
    stats = {
        **summarise(items),
        "num_frames": frames,
        "feature_bytes": needed,
        "stored": not settings.on_the_fly,
        "fbank": fbank.definition(),
        "fbank_sha256": fbank.definition_hash(),
        "duration_histogram": _histogram(items),
        "spear_version": spear.__version__,
    }
    logger.info("%d cuts, %.2f h: features take %s", len(items), stats["hours"], fs.human_bytes(needed))
    if settings.dry_run:
        return stats
    if not settings.on_the_fly:
        pieces = [items[start : start + _CUTS_PER_UNIT] for start in range(0, len(items), _CUTS_PER_UNIT)]
        units = [_unit(number, piece, output) for number, piece in enumerate(pieces)]
        _check_disk(output, units, needed)
        _forget_lost_shards(output, units)
        done = run_units(
            fbank_unit,
            units,
            output / ".done",
            executor=settings.executor,
            num_jobs=settings.num_jobs,
            label="fbank",
        )
        _remove_old_shards(output, units)
        stats |= _moments(done)
        card = {"what": "log-mel features", "fbank": fbank.definition(), "fbank_sha256": fbank.definition_hash()}
        card |= {"num_items": len(items), "ids_sha256": ids_sha256(item.id for item in items)}
        seal.write_json(output / "card.json", card | {"spear_version": spear.__version__})
    fs.write_json(settings.stats or output.absolute().parent / "stats.json", stats)
    return stats


def _items(manifests: Path) -> list[Item]:
    items = [item for path in manifest_files(manifests) for item in read_items(path)]
    if not items:
        raise DataError(f"no cuts in {manifests}", "cuts_*.jsonl", "run stage 1 (spear manifests)")
    return sorted(items, key=lambda item: item.id)


def _histogram(items: list[Item]) -> dict[str, int]:
    """Cuts by whole seconds of duration."""
    seconds, counts = np.unique([int(item.duration_seconds) for item in items], return_counts=True)
    return {str(second): int(count) for second, count in zip(seconds, counts)}


# Units of work -----------------------------------------------------------------------------------------------------


def _unit(number: int, items: list[Item], output: Path) -> dict:
    cuts, states = [], []
    for item in items:
        cuts.append([item.id, str(item.path), item.start_seconds, item.duration_seconds, item.speed])
        cuts[-1] += [] if item.channel is None and item.gain == 1 else [item.channel]
        cuts[-1] += [] if item.gain == 1 else [item.gain]
        # In the unit's specification, so that changed recordings make it run again.
        state = item.path.stat() if item.path.exists() else None
        states.append([state.st_size, state.st_mtime_ns] if state else [])
    return {
        "name": f"fbank-{number:05d}",
        "cuts": cuts,
        "states": states,
        "output": str(output.absolute()),
        "fbank_sha256": FbankConfig().definition_hash(),
    }


def _check_disk(output: Path, units: list[dict], needed: int) -> None:
    present = sum(path.stat().st_size for unit in units if (path := output / f"{unit['name']}.npy").exists())
    needed = max(0, needed - present)
    if needed * _MARGIN > (free := fs.free_bytes(output)):
        raise ConfigError(
            f"{fs.human_bytes(free)} free on the disk of {output}",
            f"{fs.human_bytes(needed * _MARGIN)} for stored features",
            "pass --on-the-fly true (nothing is stored), or choose another --output",
        )


def _forget_lost_shards(output: Path, units: list[dict]) -> None:
    """A done-file without its shard (deleted, cut short) does not count."""
    for unit in units:
        if not is_complete(output, unit["name"]):
            (output / ".done" / f"{unit['name']}.json").unlink(missing_ok=True)


def _remove_old_shards(output: Path, units: list[dict]) -> None:
    """Shards of an earlier, larger corpus hold ids that are now in other shards."""
    names = {unit["name"] for unit in units}
    for path in [*output.glob("fbank-*.json"), *output.glob("fbank-*.npy")]:
        if path.stem not in names:
            path.unlink()


@functools.lru_cache(maxsize=1)
def _fbank() -> Fbank:
    return Fbank().eval()


def fbank_unit(unit: dict) -> dict:
    """Computes and stores the features of one unit; returns sums for the mean and spread of all features."""
    total, squares, frames = 0.0, 0.0, 0
    with torch.inference_mode(), ShardWriter(unit["output"], unit["name"], np.float32, 128) as writer:
        for cut_id, path, *segment in unit["cuts"]:
            wave = torch.from_numpy(load_audio(path, SAMPLE_RATE_HZ, *segment))
            features = _fbank()(wave[None], torch.tensor([wave.numel()]))[0][0].numpy()
            writer.add(cut_id, features)
            total += float(features.sum(dtype=np.float64))
            squares += float(np.square(features, dtype=np.float64).sum())
            frames += len(features)
    return {"sum": total, "squares": squares, "frames": frames}


def _moments(done: list[dict]) -> dict:
    count = max(1, sum(result["frames"] for result in done) * FbankConfig().num_mel_bins)
    mean = sum(result["sum"] for result in done) / count
    variance = max(0.0, sum(result["squares"] for result in done) / count - mean**2)
    return {"feature_mean": round(mean, 5), "feature_std": round(variance**0.5, 5)}
