"""Hidden states of frozen encoders, computed once for each utterance and kept on disk.

Two kinds of entries, both shared by all tasks that use the utterance:

- `means`: float32 (layers, D), the time means. They suffice, exactly, for heads that are linear before mean pooling.
- `frames`: (layers, T, D), for frame heads, in bfloat16. Layers narrower than the widest are padded with zeros.

One run of the encoder gives both where some task needs frames. Frames are bfloat16 and not float16 since layers without
a norm behind them (of large pre-norm transformers above all) have values beyond 65504, while heads do not notice its
coarser rounding: it is random from frame to frame, and time means are taken before it.

An utterance whose hidden states are not all finite, like one whose audio cannot be read, is listed in `skipped` with
the reason, and the others go on; where most are such, the encoder is at fault and the error says so.

`LiveStore` has the interface of a filled cache and runs the encoder at every call instead.

The key is the upstream's hash (a directory) and the item's key, which holds what the file contains. Shards are written
whole or not at all, so that a killed run loses at most one shard, and two runs at once wait for each other.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear import fs, records, weights
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate.contents import Contents
from spear.evaluate.excerpt import Excerpt
from spear.evaluate.upstream import MIN_SAMPLES, Upstream, upstream_hash
from spear.evaluate.windows import WHOLE_SECONDS, first_centre_seconds, padded_samples, stretches
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
    """

    max_bytes: int = 4_000_000_000
    grid_seconds: float = 0.16
    batch_seconds: float = 80.0
    shard_items: int = 512


def file_size(path: Path) -> int:
    """Bytes of a file; -1 for one that is absent, or whose name no file can have."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


@dataclass
class _Layout:
    """What a reader of frames has to know of the upstream, beside `upstream.json`."""

    sample_rate: records.PositiveCount
    stride_samples: records.PositiveCount
    first_centre_seconds: records.Positive | None = None


_in_memory = Contents()


def item_key(item: Item, contents: Contents | None = None) -> str:
    """The item's id with a hash of its file's content, where its audio is cut from and how an excerpt is changed.

    Args:
        contents: what is known of files already; by default what this process has read.
    """
    content = (contents or _in_memory).digest(item.path)
    is_changed = isinstance(item, Excerpt)
    changes = [item.gain_db, item.kept] if is_changed else []
    changes += ["padded", item.padded_seconds] if is_changed and item.padded_seconds else []
    changes += [] if item.channel is None else ["channel", item.channel]
    changes += [] if item.speed == 1 else ["speed", item.speed]
    changes += [] if item.gain == 1 else ["gain", item.gain]
    changes += ["in windows"] if _is_long(item) else []
    return f"{item.id}@{fs.sha256_json([content, item.start_seconds, item.num_samples, *changes])[:12]}"


def _is_long(item: Item) -> bool:
    """Whether a recording is encoded in windows, since no memory would hold what attends to all of it."""
    return item.duration_seconds > WHOLE_SECONDS


def _by_key(items: Sequence[Item] | Mapping[str, Item]) -> dict[str, Item]:
    return dict(items) if isinstance(items, Mapping) else {item_key(item): item for item in items}


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

    @property
    def frame_rate_hz(self) -> float:
        """Frames a second, by the upstream's stride."""
        return self._layout.sample_rate / self._layout.stride_samples

    @property
    def first_centre_seconds(self) -> float:
        """The middle of what the first frame hears.

        Raises:
            DataError: nobody has measured it (`FeatureCache.measure_centres`).
        """
        if self._layout.first_centre_seconds is None:
            raise DataError(f"no centres of frames in {self.directory}", "measured ones", "run the command again")
        return self._layout.first_centre_seconds

    @property
    def _layout(self) -> _Layout:
        path = self.directory / "layout.json"
        return records.convert(fs.read_json(path), _Layout, str(path), f"delete {self.directory} and run again")

    def num_frames(self, key: str) -> int:
        """Frames of an item's entry."""
        return self._stores["frames"].rows(key) // self._stores["means"].rows(key)

    def hidden_states(self, key: str) -> Tensor:
        """Hidden states of one item, (layers, T, D) bfloat16."""
        rows = self._stores["frames"].read(key)
        bits_LTD = rows.reshape(self._stores["means"].rows(key), -1, rows.shape[1])
        return torch.from_numpy(bits_LTD).view(torch.bfloat16)


class FeatureCache(FeatureStore):
    """A store that computes what it lacks.

    Args:
        directory: holds one directory for each upstream.
    """

    def __init__(self, directory: str | Path, upstream: Upstream, config: CacheConfig | None = None):
        self.upstream, self.config = upstream, config or CacheConfig()
        self.hash = upstream_hash(upstream)
        self.skipped: dict[str, str] = {}
        self._frame_bytes: int | None = None
        # The grid changes what an encoder sees at the end of an utterance, so it belongs to the key.
        place = f"{self.hash[:16]}-{round(self.config.grid_seconds * 1000)}ms-bf16"
        super().__init__(Path(directory) / place)

    def ensure(self, items: Sequence[Item] | Mapping[str, Item], frame_keys: set[str] = frozenset()) -> None:
        """Computes what is missing: means of all `items`, and frames of those whose key is in `frame_keys`.

        Items whose audio cannot be read, or whose hidden states are not all finite, are logged and listed in `skipped`
        as key -> reason.

        Args:
            items: or key -> item, where the keys are known.

        Raises:
            ConfigError: the frames would exceed the byte budget.
            DataError: the encoder failed on most items; it is named.
        """
        keyed = _by_key(items)
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
            for key in missing:
                self.skipped.pop(key, None)
            self.check_room(missing, frame_keys)
            self._describe()
            order = sorted(missing, key=lambda key: (missing[key].num_samples, key))
            size = self.config.shard_items
            shards = [order[start : start + size] for start in range(0, len(order), size)]
            progress = Progress(len(order), f"{self.upstream.name} features", "utterances")
            good, failed = len(keyed) - len(missing), {}
            # Items of middle length come first: an encoder that is at fault shows there, and not by the shortest ones.
            for place in sorted(range(len(shards)), key=lambda place: abs(2 * place + 1 - len(shards))):
                failed |= self._write_shard(shards[place], missing, frame_keys, progress)
                good += len([key for key in shards[place] if key not in self.skipped])
                self._refuse_if_most(failed, good)
            self._open()

    def measure_centres(self) -> None:
        """Finds out when frames are, for tasks whose events have times."""
        path = self.directory / "layout.json"
        with fs.locked(self.directory / ".lock"):
            if path.exists() and self._layout.first_centre_seconds is None:
                fs.write_json(path, fs.read_json(path) | {"first_centre_seconds": first_centre_seconds(self.upstream)})

    def _describe(self) -> None:
        layout = {"sample_rate": self.upstream.sample_rate, "stride_samples": self.upstream.stride_samples}
        path = self.directory / "layout.json"
        known = fs.read_json(path) if path.exists() else {}  # the centres, where they are measured
        fs.write_json(path, known | layout)
        fs.write_json(self.directory / "upstream.json", self.upstream.fingerprint())

    def _refuse_if_most(self, failed: dict[str, str], good: int) -> None:
        if len(failed) > good:
            key, reason = next(iter(failed.items()))
            raise DataError(
                f"{len(failed)} of {len(failed) + good} utterances failed with {self.upstream.name} ({key}: {reason})",
                "finite hidden states of most of them",
                "check the encoder's weights; the audio itself can be read and is finite",
            )

    def check_room(self, items: Mapping[str, Item], frame_keys: set[str]) -> None:
        """Estimates the frames that are missing; runs the encoder on a second of silence the first time.

        Args:
            items: key -> item.

        Raises:
            ConfigError: they would exceed the byte budget, or the disk.
        """
        wanted = [items[key] for key in items if key in frame_keys and not self.has("frames", key)]
        if not wanted:
            return
        if self._frame_bytes is None:
            probe, _ = self.upstream.extract(torch.zeros(1, 16000), torch.tensor([16000]))
            self._frame_bytes = len(probe) * max(state.shape[2] for state in probe) * 2
        seconds = sum(max(item.duration_seconds, 0.1) for item in wanted)
        needed = int(seconds * self._frame_bytes * self.upstream.sample_rate / self.upstream.stride_samples)
        present = self._stores["frames"].num_rows * self._stores["frames"].width * 2 if "frames" in self._stores else 0
        free = fs.free_bytes(self.directory)
        if needed + present > self.config.max_bytes or needed > free:
            raise ConfigError(
                f"{fs.human_bytes(needed + present)} of hidden states of {self.upstream.name}, {len(wanted)} items",
                f"at most {fs.human_bytes(self.config.max_bytes)} (free: {fs.human_bytes(free)})",
                "raise --cache-gigabytes, or lower --max-items",
            )

    def _write_shard(
        self, keys: list[str], items: dict[str, Item], frame_keys: set[str], progress: Progress
    ) -> dict[str, str]:
        """Computes one shard of means and, where wanted, one of frames; key -> reason where the encoder failed."""
        # What is there already is part of the name: a shard that completes another must not replace it.
        present = [[self.has("means", key), self.has("frames", key), key in frame_keys] for key in keys]
        name = f"part-{fs.sha256_json([keys, present])[:16]}"
        writers: dict[str, ShardWriter] = {}
        failed: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            for batch in self._batches(keys, items):
                for key, values_LTD in self._computed(batch, _is_long(items[batch[0][0]])):
                    if isinstance(values_LTD, str):
                        failed[key] = self._skip(key, values_LTD)
                        continue
                    for kind, rows in self._entries(key, values_LTD, key in frame_keys):
                        if kind not in writers:
                            writer = ShardWriter(self.directory / kind, name, rows.dtype, values_LTD.shape[2])
                            writers[kind] = stack.enter_context(writer)
                        writers[kind].add(key, rows)
                progress.update(len(batch), note=batch[-1][0])
        return failed

    def _skip(self, key: str, reason: str) -> str:
        self.skipped[key] = reason
        logger.warning("skipped %s: %s", key, reason)
        return reason

    def _computed(
        self, batch: list[tuple[str, np.ndarray]], in_windows: bool = False
    ) -> Iterator[tuple[str, Tensor | str]]:
        """Each key with its hidden states (layers, T, D), or with the reason why there are none.

        Args:
            in_windows: the one recording of the batch is too long to be encoded whole.
        """
        try:
            states, lens_B = self._extract([wave for _, wave in batch], in_windows)
        except (SpearError, RuntimeError) as error:
            if len(batch) == 1:
                reason = error.found if isinstance(error, SpearError) else f"{type(error).__name__}: {error}"
                yield batch[0][0], weights.shown(reason)
            else:  # one of them may be the cause
                for one in batch:
                    yield from self._computed([one], in_windows)
            return
        for row, (key, _) in enumerate(batch):
            values_LTD = _stacked(states, row, int(lens_B[row]))
            if values_LTD.shape[1] == 0:
                yield key, f"too short for a frame of {self.upstream.name}"
            elif not torch.isfinite(values_LTD).all():
                layers = [n for n, values_TD in enumerate(values_LTD) if not torch.isfinite(values_TD).all()]
                yield key, f"hidden states of {self.upstream.name} not all finite (from layer {layers[0]} on)"
            else:
                yield key, values_LTD

    def _entries(self, key: str, values_LTD: Tensor, with_frames: bool) -> Iterator[tuple[str, np.ndarray]]:
        if not self.has("means", key):
            yield "means", values_LTD.mean(dim=1).numpy()
        if with_frames and not self.has("frames", key):
            # NumPy has no bfloat16: the shards hold its bits.
            yield "frames", values_LTD.bfloat16().view(torch.uint16).flatten(0, 1).numpy()

    def _batches(self, keys: list[str], items: dict[str, Item]) -> Iterator[list[tuple[str, np.ndarray]]]:
        """Batches of (key, wave), of equal padded length; unreadable items are noted and left out."""
        batch: list[tuple[str, np.ndarray]] = []
        for key in keys:
            try:
                wave = read_wave(items[key], self.upstream.sample_rate)
            except SpearError as error:
                self._skip(key, error.found)
                continue
            full = batch and (len(batch) + 1) * self._grid(wave) > self.config.batch_seconds * self.upstream.sample_rate
            if batch and (full or _is_long(items[key]) or self._grid(batch[0][1]) != self._grid(wave)):
                yield batch
                batch = []
            batch.append((key, wave))
        if batch:
            yield batch

    def _grid(self, wave: np.ndarray) -> int:
        """Samples of the wave after padding to the grid."""
        return padded_samples(len(wave), self.upstream.sample_rate, self.config.grid_seconds)

    def _extract(self, waves: list[np.ndarray], in_windows: bool) -> tuple[list[Tensor], Tensor]:
        if in_windows:
            parts = stretches(self.upstream, torch.from_numpy(waves[0])[None], 0.0, self.config.grid_seconds)
            states = [torch.cat(layers, dim=1) for layers in zip(*parts)]
            return states, torch.tensor([states[0].shape[1]])
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
        items: what can be asked for, or key -> item.
    """

    def __init__(
        self, upstream: Upstream, items: Sequence[Item] | Mapping[str, Item], config: CacheConfig | None = None
    ):
        self.upstream, self.config = upstream, config or CacheConfig()
        self.hash, self.skipped = upstream_hash(upstream), {}
        self._items = _by_key(items)
        self._lengths: dict[str, int] = {}
        self._means: dict[str, Tensor] = {}
        self._failed: dict[str, str] = {}

    def has(self, kind: str, key: str) -> bool:
        """Whether the item is known, readable and one that the encoder makes finite values of, which runs it once.

        Raises:
            DataError: the encoder failed on most of those that were asked for; it is named.
        """
        if key in self._items and key not in self.skipped and key not in self._lengths:
            values = self._try(key)
            if isinstance(values, Tensor):
                self._lengths[key] = values.shape[1]
                if kind == "means":
                    self._means[key] = values.mean(dim=1)
            elif len(self._failed) * 2 > len(self._items):
                self._refuse_if_most(self._failed, len(self._items) - len(self._failed))
        return key in self._lengths

    @property
    def frame_rate_hz(self) -> float:
        """Frames a second, by the upstream's stride."""
        return self.upstream.sample_rate / self.upstream.stride_samples

    @property
    def first_centre_seconds(self) -> float:
        """See `FeatureStore`."""
        return first_centre_seconds(self.upstream)

    def means(self, keys: Sequence[str]) -> Tensor:
        """Time means, (layers, items, D) float32; those that `has` left are used up."""
        taken = (self._means.pop(key, None) for key in keys)
        return torch.stack(
            [self._values(key).mean(dim=1) if mean is None else mean for key, mean in zip(keys, taken)], dim=1
        )

    def num_frames(self, key: str) -> int:
        """Frames of an item; runs the encoder the first time."""
        if key not in self._lengths:
            self._lengths[key] = self._values(key).shape[1]
        return self._lengths[key]

    def hidden_states(self, key: str) -> Tensor:
        """Hidden states of one item, (layers, T, D), rounded as in the cache."""
        return self._values(key).bfloat16()

    def _try(self, key: str) -> Tensor | str:
        for batch in self._batches([key], self._items):
            ((_, values),) = self._computed(batch, _is_long(self._items[key]))
            if isinstance(values, str):
                self._failed[key] = self._skip(key, values)
            return values
        return self.skipped[key]

    def _values(self, key: str) -> Tensor:
        values = self._try(key)
        if isinstance(values, str):
            raise DataError(f"{key}: {values}", "finite hidden states", "check the audio and the encoder's weights")
        return values
