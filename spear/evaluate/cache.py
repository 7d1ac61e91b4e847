"""Hidden states of frozen encoders, computed once for each utterance and kept on disk (benchmarks F.2, F.3).

Two kinds of entries, both shared by all tasks that use the utterance:

- `means`: float32 (layers, D), the time means. They suffice, exactly, for heads that are linear before mean pooling.
- `frames`: (layers, T, D), for frame heads, in float16 or bfloat16. Layers narrower than the widest are padded with
  zeros.

`LiveStore` has the interface of a filled cache and runs the encoder at every call instead.

The key is the upstream's hash (a directory) and the item's key. Shards are written whole or not at all, so that a
killed run loses at most one shard, and two runs at once wait for each other.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear import fs
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate.excerpt import Excerpt
from spear.evaluate.upstream import MIN_SAMPLES, Upstream, upstream_hash
from spear.log import Progress, get_logger
from spear.manifest import Item
from spear.shards import ShardStore, ShardWriter

logger = get_logger(__name__)


@dataclass(frozen=True)
class CacheConfig:
    """How features are computed and kept.

    Attributes:
        max_bytes: refuse to store more than this for one upstream.
        grid_seconds: waves are zero-padded to a multiple of this, and only equal lengths share a batch. The features of
            an utterance are then a function of the utterance alone, whatever the encoder does with padding.
        batch_seconds: audio in a batch.
        shard_items: utterances in a shard.
        frame_dtype: float16, or bfloat16, which holds values of any size. NumPy has no bfloat16: the shards hold its
            bits as uint16.
    """

    max_bytes: int = 4_000_000_000
    grid_seconds: float = 0.16
    batch_seconds: float = 80.0
    shard_items: int = 512
    frame_dtype: str = "float16"


def file_size(path: Path) -> int:
    """Bytes of a file; -1 for one that is absent, or whose name no file can have."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def item_key(item: Item) -> str:
    """The item's id with a hash of where its audio is cut from, how large its file is and how an excerpt is changed."""
    size = file_size(item.path)
    changes = [item.gain_db, item.kept] if isinstance(item, Excerpt) else []
    changes += [] if item.channel is None else ["channel", item.channel]
    changes += [] if item.speed == 1 else ["speed", item.speed]
    changes += [] if item.gain == 1 else ["gain", item.gain]
    return f"{item.id}@{fs.sha256_json([size, item.start_seconds, item.num_samples, *changes])[:12]}"


class FeatureStore:
    """Reads the entries of one upstream; needs no encoder.

    Args:
        directory: of the upstream (`FeatureCache.directory`).
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self._open()

    def _open(self) -> None:
        self._stores = {}
        for kind in ("means", "frames"):
            if list((self.directory / kind).glob("part-*.json")):
                self._stores[kind] = ShardStore(self.directory / kind)

    def has(self, kind: str, key: str) -> bool:
        """Whether there is an entry of a kind, `means` or `frames`."""
        return kind in self._stores and key in self._stores[kind]

    def means(self, keys: Sequence[str]) -> Tensor:
        """Time means, (layers, items, D) float32."""
        return torch.from_numpy(np.stack([self._stores["means"].read(key) for key in keys], axis=1))

    def num_frames(self, key: str) -> int:
        """Frames of an item's entry."""
        return self._stores["frames"].rows(key) // self._stores["means"].rows(key)

    def frames(self, key: str) -> np.ndarray:
        """Hidden states of one item, (layers, T, D) float16, or the bits of bfloat16 as uint16."""
        rows = self._stores["frames"].read(key)
        return rows.reshape(self._stores["means"].rows(key), -1, rows.shape[1])

    def hidden_states(self, key: str) -> Tensor:
        """Hidden states of one item, (layers, T, D) float16 or bfloat16."""
        values = torch.from_numpy(self.frames(key))
        return values.view(torch.bfloat16) if values.dtype == torch.uint16 else values


class FeatureCache(FeatureStore):
    """A store that computes what it lacks.

    Args:
        directory: holds one directory for each upstream.
    """

    def __init__(self, directory: str | Path, upstream: Upstream, config: CacheConfig | None = None):
        self.upstream, self.config = upstream, config or CacheConfig()
        self.hash = upstream_hash(upstream)
        self.skipped: dict[str, str] = {}
        # The grid changes what an encoder sees at the end of an utterance, so it belongs to the key.
        place = f"{self.hash[:16]}-{round(self.config.grid_seconds * 1000)}ms"
        super().__init__(Path(directory) / (place if self.config.frame_dtype == "float16" else f"{place}-bf16"))

    def ensure(self, items: Sequence[Item], frame_keys: set[str] = frozenset()) -> None:
        """Computes what is missing: means of all `items`, and frames of those whose key is in `frame_keys`.

        Items whose audio cannot be read are logged and listed in `skipped` as key -> reason.

        Raises:
            ConfigError: the frames would exceed the byte budget.
            DataError: an encoder gave values that are not finite.
        """
        keyed = {item_key(item): item for item in items}
        self.directory.mkdir(parents=True, exist_ok=True)
        with fs.locked(self.directory / ".lock"):
            self._open()
            missing = {
                key: item
                for key, item in keyed.items()
                if not self.has("means", key) or (key in frame_keys and not self.has("frames", key))
            }
            if not missing:
                return
            self._check_budget(missing, frame_keys)
            fs.write_json(self.directory / "upstream.json", self.upstream.fingerprint())
            order = sorted(missing, key=lambda key: (missing[key].num_samples, key))
            progress = Progress(len(order), f"{self.upstream.name} features", "utterances")
            for start in range(0, len(order), self.config.shard_items):
                keys = order[start : start + self.config.shard_items]
                self._write_shard(keys, missing, frame_keys, progress)
            self._open()

    def _check_budget(self, missing: dict[str, Item], frame_keys: set[str]) -> None:
        wanted = [missing[key] for key in missing if key in frame_keys and not self.has("frames", key)]
        if not wanted:
            return
        probe, lens = self.upstream.extract(torch.zeros(1, 16000), torch.tensor([16000]))
        frame_bytes = len(probe) * max(state.shape[2] for state in probe) * 2
        seconds = sum(max(item.duration_seconds, 0.1) for item in wanted)
        needed = int(seconds * int(lens[0]) * frame_bytes)
        present = self._stores["frames"].num_rows * self._stores["frames"].width * 2 if "frames" in self._stores else 0
        free = fs.free_bytes(self.directory)
        if needed + present > self.config.max_bytes or needed > free:
            raise ConfigError(
                f"{fs.human_bytes(needed + present)} of hidden states of {self.upstream.name}, {len(wanted)} items",
                f"at most {fs.human_bytes(self.config.max_bytes)} (free: {fs.human_bytes(free)})",
                "raise --cache-gigabytes, or lower --max-items",
            )

    def _write_shard(self, keys: list[str], items: dict[str, Item], frame_keys: set[str], progress: Progress) -> None:
        """Computes one shard of means and, where wanted, one of frames."""
        # What is there already is part of the name: a shard that completes another must not replace it.
        present = [[self.has("means", key), self.has("frames", key), key in frame_keys] for key in keys]
        name = f"part-{fs.sha256_json([keys, present])[:16]}"
        writers: dict[str, ShardWriter] = {}
        with contextlib.ExitStack() as stack:
            for batch in self._batches(keys, items):
                states, lens_B = self._extract([wave for _, wave in batch])
                dim = max(state.shape[2] for state in states)
                for row, (key, _) in enumerate(batch):
                    values_LTD = _stacked(states, row, int(lens_B[row]))
                    for kind, rows in self._entries(key, values_LTD, key in frame_keys):
                        if kind not in writers:
                            writer = ShardWriter(self.directory / kind, name, rows.dtype, dim)
                            writers[kind] = stack.enter_context(writer)
                        writers[kind].add(key, rows)
                progress.update(len(batch), note=batch[-1][0])

    def _entries(self, key: str, values_LTD: Tensor, with_frames: bool) -> Iterator[tuple[str, np.ndarray]]:
        if values_LTD.shape[1] == 0 or not torch.isfinite(values_LTD).all():
            raise DataError(
                f"hidden states of '{key}' from {self.upstream.name}: {values_LTD.shape[1]} frames, not all finite",
                "at least one frame of finite values",
                "check the encoder's weights; the audio itself is finite",
            )
        if not self.has("means", key):
            yield "means", values_LTD.mean(dim=1).numpy()
        if with_frames and not self.has("frames", key):
            frames = values_LTD.to(getattr(torch, self.config.frame_dtype))
            if not torch.isfinite(frames).all():
                raise DataError(
                    f"hidden states of '{key}' up to {values_LTD.abs().max():.0f}", "below 65504 (float16)", "retrain"
                )
            bits = frames if frames.dtype == torch.float16 else frames.view(torch.uint16)
            yield "frames", bits.flatten(0, 1).numpy()

    def _batches(self, keys: list[str], items: dict[str, Item]) -> Iterator[list[tuple[str, np.ndarray]]]:
        """Batches of (key, wave), of equal padded length; unreadable items are noted and left out."""
        batch: list[tuple[str, np.ndarray]] = []
        for key in keys:
            try:
                wave = read_wave(items[key], self.upstream.sample_rate)
            except SpearError as error:
                self.skipped[key] = error.found
                logger.warning("skipped %s: %s", key, error.found)
                continue
            full = batch and (len(batch) + 1) * self._grid(wave) > self.config.batch_seconds * self.upstream.sample_rate
            if batch and (full or self._grid(batch[0][1]) != self._grid(wave)):
                yield batch
                batch = []
            batch.append((key, wave))
        if batch:
            yield batch

    def _grid(self, wave: np.ndarray) -> int:
        """Samples of the wave after padding to the grid."""
        step = max(1, round(self.config.grid_seconds * self.upstream.sample_rate))
        return -(-max(len(wave), MIN_SAMPLES) // step) * step

    def _extract(self, waves: list[np.ndarray]) -> tuple[list[Tensor], Tensor]:
        waves_BS = torch.zeros(len(waves), self._grid(waves[0]))
        for row, wave in enumerate(waves):
            waves_BS[row, : len(wave)] = torch.from_numpy(wave)
        states, lens_B = self.upstream.extract(waves_BS, torch.tensor([max(len(w), MIN_SAMPLES) for w in waves]))
        return [state.cpu() for state in states], lens_B


def read_wave(item: Item, sample_rate: int) -> np.ndarray:
    """The item's audio, float32 at `sample_rate`.

    Raises:
        DataError: it cannot be read.
    """
    from spear.audio import load_audio

    changed = isinstance(item, Excerpt)
    if changed and item.kept:
        return item.change(load_audio(item.path, sample_rate, channel=item.channel, gain=item.gain), sample_rate)
    duration = item.duration_seconds if item.start_seconds or item.duration_seconds else None
    changes = item.speed, item.channel, item.gain
    wave = load_audio(item.path, sample_rate, item.start_seconds, duration, *changes)
    return item.change(wave, sample_rate) if changed else wave


def _stacked(states: list[Tensor], row: int, frames: int) -> Tensor:
    """One utterance's states as (layers, T, D), narrow layers padded with zeros."""
    values_LTD = torch.zeros(len(states), frames, max(state.shape[2] for state in states))
    for layer, state in enumerate(states):
        values_LTD[layer, :, : state.shape[2]] = state[row, :frames]
    return values_LTD


class LiveStore(FeatureCache):
    """The entries of a cache, computed at every call and kept nowhere: for corpora whose hidden states fit no disk.

    Args:
        items: what can be asked for.
    """

    def __init__(self, upstream: Upstream, items: Sequence[Item], config: CacheConfig | None = None):
        self.upstream, self.config = upstream, config or CacheConfig()
        self.hash, self.skipped = upstream_hash(upstream), {}
        self._items = {item_key(item): item for item in items}

    def has(self, kind: str, key: str) -> bool:
        """Whether the item is known and readable."""
        if key in self._items and key not in self.skipped and not self._items[key].path.exists():
            self.skipped[key] = f"no file {self._items[key].path}"
        return key in self._items and key not in self.skipped

    def means(self, keys: Sequence[str]) -> Tensor:
        """Time means, (layers, items, D) float32."""
        return torch.stack([self._values(key).mean(dim=1) for key in keys], dim=1)

    def num_frames(self, key: str) -> int:
        """Frames of an item; runs the encoder."""
        return self._values(key).shape[1]

    def hidden_states(self, key: str) -> Tensor:
        """Hidden states of one item, (layers, T, D), rounded as in the cache."""
        return self._values(key).to(getattr(torch, self.config.frame_dtype))

    def frames(self, key: str) -> np.ndarray:
        """As `FeatureStore.frames`."""
        values = self.hidden_states(key)
        return (values if values.dtype == torch.float16 else values.view(torch.uint16)).numpy()

    def _values(self, key: str) -> Tensor:
        states, lens_B = self._extract([read_wave(self._items[key], self.upstream.sample_rate)])
        values_LTD = _stacked(states, 0, int(lens_B[0]))
        for _ in self._entries(key, values_LTD, with_frames=False):
            pass  # the same checks as for the cache
        return values_LTD
