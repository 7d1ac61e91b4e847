"""`spear train-quantizer`: trains the codebooks that turn a teacher's embeddings into tokens.

    spear train-quantizer --embeddings data/embeddings/speech --num-codebooks 8 --output data/quantizer/speech

Reads the shards of `spear embed`; writes quantizer.safetensors, card.json and report.html. An output of the same
embeddings and settings is kept, and a killed run continues from its last round.
"""

import dataclasses
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from spear import config, dist, fs, locks, log, ranges, records
from spear.errors import CardError, ConfigError, SpearError
from spear.memory import keep_freed_memory
from spear.quantize import (
    QuantizerTrainConfig,
    bits_per_second,
    fit,
    load_quantizer,
    save_quantizer,
    write_quantizer_report,
)
from spear.seeds import numpy_rng
from spear.shards import ShardStore, read_index

ALIASES = {"seed": "train.seed", "codebook-size": "train.codebook_size", "structure": "train.structure"}


def _setting(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass
class TrainQuantizerConfig:
    """Settings of `spear train-quantizer`."""

    embeddings: str = _setting("", "directory of shards that spear embed wrote")
    output: str = _setting("", "directory that receives the quantizer")
    num_codebooks: int = _setting(8, "bytes of a coded frame, a power of two")
    max_frames: records.PositiveCount = _setting(
        500_000, "most frames to train on, drawn evenly; all are held in memory"
    )
    normalise: bool = _setting(True, "give channels mean 0 and variance 1 first; stored with the quantizer")
    device: str = _setting("auto", "auto, cpu or cuda")
    overwrite: bool = _setting(False, "replace a quantizer of other embeddings or settings")
    dry_run: bool = _setting(False, "say what would be done, and do nothing")
    train: QuantizerTrainConfig = field(default_factory=QuantizerTrainConfig)

    def check(self) -> None:
        """Refuses settings that cannot work.

        Raises:
            ConfigError: no input or output, or a number that is not positive.
        """
        for name in ("embeddings", "output"):
            if not getattr(self, name):
                raise ConfigError(f"no {name}", f"--{name} DIR", "give a directory")
        if self.num_codebooks < 1 or self.num_codebooks & (self.num_codebooks - 1):
            raise ConfigError(f"--num-codebooks {self.num_codebooks}", "a power of two", "choose 4, 8 or 16")
        ranges.check(self)


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and trains."""
    settings = config.parse(TrainQuantizerConfig, argv, ALIASES, description=__doc__)
    log.setup(rank=int(os.environ.get("RANK", "0")))
    settings.check()
    if int(os.environ.get("RANK", "0")) > 0:  # minutes of work for one process; the others have nothing to add
        return 0
    output = Path(settings.output)
    try:
        store = ShardStore(settings.embeddings)
    except SpearError as error:
        if settings.dry_run:  # earlier stages have not run yet: say what is known
            print(f"would train {settings.num_codebooks} codebooks into {output}; no estimate yet: {error.found}")
            return 0
        raise
    inputs = _inputs(settings, store)
    if _is_kept(output, inputs, settings.overwrite):
        print(f"{output} is there already, of the same embeddings and settings")
        return 0
    num_frames = min(store.num_rows, settings.max_frames)
    device = str(dist.choose_device(settings.device))
    print(
        f"{'would train' if settings.dry_run else 'training'} {settings.num_codebooks} codebooks of "
        f"{settings.train.codebook_size} on {num_frames} of {store.num_rows} frames of dim {store.width} "
        f"({fs.human_bytes(8 * num_frames * store.width)} of memory), about "
        f"{log.human_seconds(_expected_seconds(settings, num_frames, store.width, device))} on {device}",
        flush=True,
    )
    if not settings.dry_run:
        with locks.hold(output, "spear train-quantizer"):
            _train(settings, store, device, inputs)
    return 0


def _train(settings: TrainQuantizerConfig, store: ShardStore, device: str, inputs: dict) -> None:
    output, teacher = Path(settings.output), store.meta.get("teacher", {})
    if device == "cpu":
        keep_freed_memory()
    frames = torch.from_numpy(sample_rows(store, settings.max_frames, settings.train.seed)).to(device)
    trained, metrics = fit(
        frames,
        settings.num_codebooks,
        settings.train,
        settings.normalise,
        state_path=output / ".training.safetensors",
    )
    if "frame_rate_hz" in teacher:
        codes = (settings.num_codebooks, settings.train.codebook_size)
        metrics["bits_per_second"] = bits_per_second(*codes, teacher["frame_rate_hz"])
    details = {"inputs": inputs, "structure": settings.train.structure}
    card = save_quantizer(output, trained.quantizer, trained.mean, trained.std, teacher, metrics, details)
    write_quantizer_report(output, card)
    (output / ".training.safetensors").unlink(missing_ok=True)
    errors = metrics["relative_error"]
    print(
        f"{output}: relative error {errors['5']:.4f} (held out; {errors['0']:.4f} without refinement, "
        f"{metrics['start_error']:.4f} at the start), {metrics['bits_per_frame']:.0f} bits per frame, "
        f"largest share of energy {max(metrics['energy_shares']):.2f}, "
        f"{sum(metrics['dead_codes'])} dead codes, {log.human_seconds(metrics['seconds'])}"
    )


def sample_rows(store: ShardStore, max_rows: int, seed: int) -> np.ndarray:
    """(M, width) rows drawn evenly from all items, all of them when there are no more than `max_rows`."""
    total = store.num_rows
    chosen = np.ones(total, dtype=bool)
    if total > max_rows:
        chosen[:] = False
        chosen[numpy_rng(seed, "quantizer frames").permutation(total)[:max_rows]] = True
    rows = np.empty((min(total, max_rows), store.width), dtype=store.dtype)
    read = written = 0
    for _, array in store.items():
        part = array[chosen[read : read + len(array)]]
        rows[written : written + len(part)] = part
        read, written = read + len(array), written + len(part)
    return rows


def _inputs(settings: TrainQuantizerConfig, store: ShardStore) -> dict:
    """What decides the result: contents of the shards, and settings."""
    shards = {name: read_index(settings.embeddings, name)["sha256"] for name in store.shards}
    return {
        "embeddings_sha256": fs.sha256_json(shards),
        "num_codebooks": settings.num_codebooks,
        "max_frames": settings.max_frames,
        "normalise": settings.normalise,
        "train": dataclasses.asdict(settings.train),
    }


def _is_kept(output: Path, inputs: dict, overwrite: bool) -> bool:
    """Whether a finished quantizer of these inputs is there.

    Raises:
        CardError: one of other inputs is there, and `overwrite` is false.
    """
    if not (output / "card.json").exists():
        return False
    try:
        found = load_quantizer(output).card.get("inputs", {})
    except SpearError:
        if overwrite:
            return False
        raise
    # Quantizers made before a setting existed were made with its default.
    found = {**found, "train": {**dataclasses.asdict(QuantizerTrainConfig()), **found.get("train", {})}}
    if found == inputs:
        return True
    old, new = ({**each, **each.get("train", {})} for each in (found, inputs))
    wrong = sorted(key for key in new if key != "train" and old.get(key) != new[key])
    if not overwrite:
        raise CardError(
            f"{output} holds a quantizer with " + ", ".join(f"{key} = {old.get(key)!r}" for key in wrong),
            ", ".join(f"{key} = {new[key]!r}" for key in wrong),
            "--overwrite replaces it (its tokens no longer fit then); another --output keeps it",
        )
    return False


def _expected_seconds(settings: TrainQuantizerConfig, num_frames: int, dim: int, device: str) -> float:
    """From the speed of a small matrix product; table look-ups are counted as their number at a measured rate."""
    left, right = torch.ones(1024, 512, device=device), torch.ones(512, 2048, device=device)
    float(left.matmul(right).sum())
    began = time.monotonic()
    float(sum(left.matmul(right).sum() for _ in range(4)))
    flops = 4 * 2 * left.numel() * 2048 / max(1e-6, time.monotonic() - began)
    train, num_codebooks = settings.train, settings.num_codebooks
    num_rows = num_codebooks * train.codebook_size
    product = 2.0 * dim * num_rows / flops
    # One multiply-add of the product takes about as long as a sixth of a look-up and its comparison.
    search = product + 6 * 2.0 * train.beam * num_codebooks * num_rows / flops
    # Half of a k-means in growing subspaces is the product; the other half is comparing, rotating and adding up.
    start = min(num_frames * train.beam, train.start_frames) * (2 * train.start_iterations * product + search)
    seen = min(train.logits_epochs * num_frames, 1024 * train.logits_steps)
    logits = seen * (3 * product + 100.0 * num_rows / flops)
    measured = 8 * min(train.max_heldout, train.heldout_fraction * num_frames) * 4 * search
    # Rounds see the frames of the start; the last sees all, which are searched before and after it.
    rounds = train.rounds * min(num_frames, train.start_frames) + 2 * num_frames
    if train.structure == "even":  # three times the rounds, of moves that take four times as long (measured)
        rounds *= 12
    return 1 + start + rounds * search + logits + measured
