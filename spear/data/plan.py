"""The batch plan: which cuts form which batch, as a pure function of durations, seed, epoch and limits.

A plan is three arrays (cut indexes, batch offsets, padded seconds of every batch), so that resuming is an index into
it, whatever the number of cuts. Global batch `g` goes to rank `g % world_size` at step `g // world_size`: the batches
of one step are consecutive global batches, and two ranks with accumulation a see what one rank with 2a sees.
"""

import dataclasses
import hashlib
import heapq
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spear import ranges, records, seal
from spear.errors import ConfigError, DataError
from spear.fs import atomic, sha256_json
from spear.seeds import numpy_rng

FORMAT_VERSION = 1
# Cuts of similar length are shuffled inside a window of at most this many batches: enough variety between epochs,
# and in a large corpus almost no padding.
VARIETY_BATCHES = 200
_ARRAYS = ("items", "offsets", "batch_seconds")


@dataclass
class _Meta:
    """What plan.json says; plans of older versions have no digests of their files."""

    format: int
    num_items: records.Count
    num_batches: records.Count
    world_size: records.PositiveCount
    hash: str
    inputs_hash: str
    summary: dict
    files: dict[str, records.Sha256] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanLimits:
    """What a batch may cost.

    Args:
        max_seconds: upper limit of the padded seconds of a batch: (longest cut + headroom) x number of cuts; `auto`
            lets `spear train` measure what the memory holds, and must be replaced before a plan is built.
        max_cuts: upper limit of the number of cuts in a batch.
        num_buckets: batches mix lengths over at most 1/num_buckets of the cuts; more means less padding.
        headroom_seconds: how much mixing may lengthen a cut; a cut never grows to more than twice the longest.
        global_seconds: padded seconds of an optimizer step over all ranks that learning rate and steps were made for
            (0: not stated). It decides nothing here; training compares it with what it does.
    """

    max_seconds: records.Positive | str = 200.0
    max_cuts: records.PositiveCount = 150
    num_buckets: records.PositiveCount = 30
    headroom_seconds: records.NotNegative = 0.0
    global_seconds: records.NotNegative = 0.0

    def __post_init__(self):
        ranges.check(self)
        if isinstance(self.max_seconds, str) and self.max_seconds != "auto":
            raise ConfigError(f"plan.max_seconds = {self.max_seconds}", "a number, or auto", "correct plan.max_seconds")

    def padded(self, longest_seconds: np.ndarray | float) -> np.ndarray | float:
        """Seconds that one cut of a batch occupies when its longest cut has `longest_seconds`."""
        return longest_seconds + np.minimum(self.headroom_seconds, longest_seconds)


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of one epoch.

    Args:
        items: indexes of cuts, batch after batch.
        offsets: batch g is ``items[offsets[g]:offsets[g + 1]]``.
        batch_seconds: padded seconds of every batch, headroom included.
        world_size: number of ranks that the batches are dealt to.
        hash: of the global batches; equal for layouts (ranks, accumulation) that see the same data.
        inputs_hash: of everything the plan was built from; a stored plan with another one is out of date.
        summary: counts and seconds of kept and dropped cuts, share of padding (headroom not counted).
    """

    items: np.ndarray
    offsets: np.ndarray
    batch_seconds: np.ndarray
    world_size: int
    hash: str
    inputs_hash: str = ""
    summary: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.num_batches % self.world_size:
            raise ConfigError(
                f"a plan of {self.num_batches} batches for {self.world_size} ranks",
                "a number of batches divisible by the number of ranks",
                "build the plan for this number of ranks",
            )

    @property
    def num_batches(self) -> int:
        """Batches over all ranks."""
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """Batches of every rank."""
        return self.num_batches // self.world_size

    def global_batch(self, step: int, rank: int) -> int:
        """The number of a batch in the epoch, independent of how batches are dealt to ranks.

        Raises:
            IndexError: step or rank is outside the plan.
        """
        if not (0 <= step < self.num_steps and 0 <= rank < self.world_size):
            raise IndexError(f"step {step} rank {rank} of a plan with {self.num_steps} steps x {self.world_size} ranks")
        return step * self.world_size + rank

    def batch(self, step: int, rank: int) -> np.ndarray:
        """Indexes of the cuts of a batch, (num_cuts,)."""
        number = self.global_batch(step, rank)
        return np.asarray(self.items[self.offsets[number] : self.offsets[number + 1]], dtype=np.int64)

    def costliest(self, count: int) -> list[tuple[int, int]]:
        """(step, rank) of the batches with most padded seconds, the first to try when memory is in doubt."""
        order = np.argsort(-np.asarray(self.batch_seconds), kind="stable")[:count]
        return [divmod(int(number), self.world_size) for number in order]

    def save(self, directory: str | Path) -> None:
        """Writes the arrays and, last, ``plan.json``; a directory without it holds no plan."""
        directory = Path(directory)
        (directory / "plan.json").unlink(missing_ok=True)
        for name in _ARRAYS:
            with atomic(directory / f"{name}.npy") as temporary, open(temporary, "wb") as handle:
                np.save(handle, getattr(self, name))
        meta = {"format": FORMAT_VERSION, "num_items": len(self.items), "num_batches": self.num_batches}
        for name in ("world_size", "hash", "inputs_hash", "summary"):
            meta[name] = getattr(self, name)
        meta["files"] = seal.digests(directory, [f"{name}.npy" for name in _ARRAYS])
        seal.write_json(directory / "plan.json", meta)

    @classmethod
    def load(cls, directory: str | Path, mmap: bool = True) -> "Plan":
        """Opens a stored plan; with `mmap` in constant memory, and in the time that its checksums take.

        Raises:
            DataError: there is no complete plan in `directory`.
        """
        directory = Path(directory)
        again = f"delete {directory}; the plan is built again, with the same batches"
        meta = seal.read_json(directory / "plan.json", again)
        records.convert(meta, _Meta, str(directory / "plan.json"), again)
        seal.check_files(directory, meta.get("files", {}), again)
        try:
            arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r" if mmap else None) for name in _ARRAYS}
            sizes = (len(arrays["items"]), len(arrays["offsets"]) - 1, len(arrays["batch_seconds"]))
            whole = sizes == (meta["num_items"], meta["num_batches"], meta["num_batches"])
            if not whole or meta["format"] != FORMAT_VERSION:
                raise ValueError(f"sizes {sizes}, format {meta['format']}")
            return cls(**arrays, **{name: meta[name] for name in ("world_size", "hash", "inputs_hash", "summary")})
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise DataError(
                f"the batch plan in {directory} is damaged ({error})",
                "the arrays that its plan.json describes",
                again,
            ) from error


def plan_inputs_hash(
    durations_seconds: np.ndarray, seed: int, epoch: int, multiple: int, limits: PlanLimits, weights: np.ndarray | None
) -> str:
    """Identifies everything that decides the global batches."""
    digest = hashlib.sha256(np.ascontiguousarray(durations_seconds, dtype=np.float64).tobytes())
    if weights is not None:
        digest.update(np.ascontiguousarray(weights, dtype=np.float64).tobytes())
    deciding = {name: value for name, value in dataclasses.asdict(limits).items() if name != "global_seconds"}
    return sha256_json([FORMAT_VERSION, VARIETY_BATCHES, seed, epoch, multiple, deciding, digest.hexdigest()])


def build_plan(
    durations_seconds: np.ndarray,
    *,
    seed: int,
    epoch: int,
    world_size: int,
    limits: PlanLimits,
    weights: np.ndarray | None = None,
    accumulation: int = 1,
) -> Plan:
    """Plans an epoch.

    Every cut that fits the limits is in exactly one batch. With weights, a cut occurs floor(weight) times and once
    more with probability weight - floor(weight), drawn anew every epoch. A cut that alone exceeds `max_seconds` is
    dropped and counted in `summary`. The number of batches is made divisible by world_size x accumulation by
    splitting the largest batches in halves. Only when every batch is down to one cut and their number still does not
    divide, up to world_size x accumulation - 1 of the shortest cuts occur twice; `summary["num_repeated"]` counts them.

    Args:
        durations_seconds: (num_cuts,) duration of every cut.
        seed, epoch: name the random stream.
        world_size: number of ranks.
        accumulation: batches per rank and optimizer step, so that an epoch holds whole optimizer steps.
        weights: (num_cuts,) expected occurrences of every cut, None for one each.

    Raises:
        DataError: a duration is not a positive number, or nothing is left, or fewer cuts are left than ranks.
        ConfigError: a weight is negative or not a number.
    """
    if limits.max_seconds == "auto":
        raise ConfigError("plan.max_seconds = auto", "a number of seconds", "measure it first, as spear train does")
    durations = np.asarray(durations_seconds, dtype=np.float64)
    multiple = world_size * accumulation
    rng = numpy_rng(seed, "plan", epoch)
    kept = _occurrences(durations, weights, rng)
    fits = limits.padded(durations[kept]) <= limits.max_seconds
    dropped = np.unique(kept[~fits])
    kept = kept[fits]
    if len(kept) < multiple:
        raise DataError(
            f"{len(kept)} cuts to train on ({len(dropped)} more are over plan.max_seconds = {limits.max_seconds:g})",
            f"at least one cut for each of {world_size} ranks x {accumulation} accumulated batches",
            "use more data, fewer processes, less accumulation, or a larger plan.max_seconds",
        )
    kept = _shuffle_similar(kept, durations, limits, rng)
    lengths = durations[kept]
    offsets = _split_largest(_pack(lengths, limits), lengths, limits, multiple)
    repeated = -(len(offsets) - 1) % multiple
    if repeated:  # batches of one cut each: some of the shortest come twice, so that all ranks have as many steps
        kept = np.concatenate([kept, kept[:repeated]])
        offsets = np.arange(len(kept) + 1, dtype=np.int64)
    kept, offsets = _shuffle_batches(kept, offsets, rng)
    if len(durations) < 2**31:
        kept = kept.astype(np.int32)
    lengths = durations[kept]
    longest, sizes = np.maximum.reduceat(lengths, offsets[:-1]), np.diff(offsets)
    batch_seconds = limits.padded(longest) * sizes
    summary = {
        "num_cuts": len(durations),
        "num_planned": len(kept),
        "num_repeated": repeated,
        "seconds_planned": float(lengths.sum()),
        "num_too_long": len(dropped),
        "seconds_too_long": float(durations[dropped].sum()),
        "padding_share": float(1 - lengths.sum() / (longest * sizes).sum()),
    }
    return Plan(
        items=kept,
        offsets=offsets,
        batch_seconds=batch_seconds.astype(np.float32),
        world_size=world_size,
        hash=hashlib.sha256(kept.astype(np.int64).tobytes() + offsets.tobytes()).hexdigest(),
        inputs_hash=plan_inputs_hash(durations, seed, epoch, multiple, limits, weights),
        summary=summary,
    )


def _occurrences(durations: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Indexes of cuts, each as often as its weight says."""
    bad = np.flatnonzero(~(np.isfinite(durations) & (durations > 0)))
    if len(bad):
        raise DataError(
            f"{len(bad)} cuts without a positive duration, the first at index {bad[0]} ({durations[bad[0]]})",
            "a positive duration in seconds for every cut",
            "run the manifests stage again; it puts such cuts into quarantine.jsonl",
        )
    if weights is None:
        return np.arange(len(durations))
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != durations.shape or not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ConfigError(
            f"weights of shape {weights.shape}, lowest {np.min(weights, initial=np.inf)}",
            f"{len(durations)} numbers that are not negative",
            "correct the weight of the source",
        )
    counts = np.floor(weights)
    counts += rng.random(len(weights)) < weights - counts
    return np.repeat(np.arange(len(durations)), counts.astype(np.int64))


def _shuffle_similar(
    kept: np.ndarray, durations: np.ndarray, limits: PlanLimits, rng: np.random.Generator
) -> np.ndarray:
    """Orders cuts by length, then moves each up by a random number of places below the window."""
    kept = rng.permutation(kept)  # cuts of equal length: any may meet any
    kept = kept[np.argsort(durations[kept], kind="stable")]
    mean_cuts = min(limits.max_cuts, limits.max_seconds / float(np.mean(limits.padded(durations[kept]))))
    window = min(len(kept) / limits.num_buckets, VARIETY_BATCHES * mean_cuts)
    return kept[np.argsort(np.arange(len(kept)) + window * rng.random(len(kept)), kind="stable")]


def _pack(lengths: np.ndarray, limits: PlanLimits, piece: int = 1 << 20) -> np.ndarray:
    """Fills batches in order, each up to the limits; returns batch offsets.

    A loop over plain floats: the chain from one batch to the next cannot be vectorised, and takes 0.1 us per cut.
    """
    max_seconds, max_cuts, headroom = limits.max_seconds, limits.max_cuts, limits.headroom_seconds
    offsets, longest, count = [0], 0.0, 0
    for start in range(0, len(lengths), piece):
        for index, length in enumerate(lengths[start : start + piece].tolist(), start):
            if length > longest:
                longest = length
            count += 1
            padded = longest + (headroom if headroom < longest else longest)
            if count > max_cuts or padded * count > max_seconds:
                offsets.append(index)
                longest, count = length, 1
    return np.asarray(offsets + [len(lengths)], dtype=np.int64)


def _split_largest(offsets: np.ndarray, lengths: np.ndarray, limits: PlanLimits, multiple: int) -> np.ndarray:
    """Halves the batches with most padded seconds until their number is divisible by `multiple`, or all are single."""
    missing = -(len(offsets) - 1) % multiple
    if not missing:
        return offsets

    def entry(start: int, stop: int) -> tuple[float, int, int]:
        return (-float(limits.padded(lengths[start:stop].max())) * (stop - start), start, stop)

    sizes = np.diff(offsets)
    costs = limits.padded(np.maximum.reduceat(lengths, offsets[:-1])) * sizes
    costs[sizes < 2] = -1.0
    candidates = [number for number in np.argsort(-costs, kind="stable")[:missing] if sizes[number] > 1]
    heap = [entry(int(offsets[number]), int(offsets[number + 1])) for number in candidates]
    heapq.heapify(heap)
    added = []
    while heap and len(added) < missing:
        _, start, stop = heapq.heappop(heap)
        middle = (start + stop) // 2
        added.append(middle)
        for half in ((start, middle), (middle, stop)):
            if half[1] - half[0] > 1:
                heapq.heappush(heap, entry(*half))
    return np.sort(np.concatenate([offsets, np.asarray(added, dtype=np.int64)]))


def _shuffle_batches(kept: np.ndarray, offsets: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Puts whole batches into random order."""
    order = rng.permutation(len(offsets) - 1)
    sizes = np.diff(offsets)[order]
    shuffled = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    where = np.repeat(offsets[:-1][order] - shuffled[:-1], sizes) + np.arange(len(kept))
    return kept[where], shuffled
