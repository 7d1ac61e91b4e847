"""One pass audio -> teachers -> rows on disk, in units that restart where they stopped (user-pains 4, 9, 13).

Nothing here depends on how many processes there are or what was done before: units are a function of the cuts,
batches are a function of a unit, and each unit becomes one immutable shard per stream. A unit is done when its shards'
indexes are there with the unit's hash, so a run that was killed anywhere ends with the same bytes as one that was not.
"""

import collections
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear.audio import load_audio
from spear.errors import DataError, SpearError
from spear.fs import write_jsonl
from spear.log import Progress, get_logger
from spear.shards import ShardWriter, is_complete, read_index, shard_names
from spear.teachers import Teacher
from spear.tokens.streams import Stream
from spear.tokens.units import Item, Unit, item_frames, plan_batches

logger = get_logger(__name__)
MAX_FRAME_DIFFERENCE = 1


@dataclass(frozen=True)
class ExtractSettings:
    """How extraction runs; none of it changes which tokens come out, beyond rounding in the teacher.

    Attributes:
        max_seconds: padded audio of a batch; longer cuts go to quarantine.
        num_workers: threads that read and decode audio ahead of the teacher.
        max_bad_fraction: share of cuts in quarantine beyond which the run stops (one bad cut is always allowed).
        retry_quarantined: do units with quarantined cuts again.
    """

    max_seconds: float = 200.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01
    retry_quarantined: bool = False


@dataclass
class ExtractReport:
    """What one process did: units done now and before, audio, rows written, cuts trimmed and quarantined."""

    units_done: int = 0
    units_before: int = 0
    seconds: float = 0.0
    rows: dict[str, int] = field(default_factory=dict)
    trimmed: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)
    elapsed_seconds: float = 0.0


def pending_streams(unit: Unit, streams: Sequence[Stream], retry_quarantined: bool = False) -> list[Stream]:
    """The streams of which this unit's shard is missing or was made of other inputs."""

    def done(stream: Stream) -> bool:
        if not is_complete(stream.directory, unit.name, unit_sha256=unit.sha256(stream.card_sha256)):
            return False
        return not (retry_quarantined and read_index(stream.directory, unit.name)["quarantined"])

    return [stream for stream in streams if not done(stream)]


def extract(
    units: Sequence[Unit],
    streams: Sequence[Stream],
    settings: ExtractSettings | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    heartbeat: Callable[[], None] | None = None,
) -> ExtractReport:
    """Does this process' share of the units (every `world_size`-th) that are not done yet.

    Args:
        units: all units, the same list in every process.
        streams: what to make of each; call `Stream.prepare` first.
        settings: batch limit, reading threads, bad fraction.
        rank: of this process.
        world_size: number of processes; they share nothing but the disk.
        heartbeat: called at every batch.

    Raises:
        DataError: more cuts are bad than `max_bad_fraction` allows; what was done stays done.
        SpearError: the device has not enough memory (names the batch).
    """
    settings = settings or ExtractSettings()
    mine = units[rank::world_size]
    todo = [(unit, pending) for unit in mine if (pending := pending_streams(unit, streams, settings.retry_quarantined))]
    report = ExtractReport(units_before=len(mine) - len(todo), rows={stream.name: 0 for stream in streams})
    todo_names = {unit.name for unit, _ in todo}
    for unit in mine:
        if unit.name not in todo_names:
            _count_quarantined(report, unit, streams)
    num_items = sum(len(unit.items) for unit in mine)
    progress = Progress(math.ceil(sum(unit.seconds for unit, _ in todo)), "extraction", "s of audio")
    with ThreadPoolExecutor(settings.num_workers, thread_name_prefix="audio") as pool:
        for unit, pending in todo:
            _do_unit(unit, pending, settings, pool, progress, report, heartbeat)
            _count_quarantined(report, unit, pending)
            report.units_done += 1
            if len(report.quarantined) > max(1.0, settings.max_bad_fraction * num_items):
                raise _too_many(report.quarantined, num_items, settings)
    report.elapsed_seconds = progress.elapsed_seconds
    return report


def _count_quarantined(report: ExtractReport, unit: Unit, streams: Sequence[Stream]) -> None:
    for stream in streams:
        for entry in read_index(stream.directory, unit.name)["quarantined"]:
            report.quarantined[entry["id"]] = entry["reason"]


def _too_many(quarantined: dict[str, str], num_items: int, settings: ExtractSettings) -> DataError:
    listed = "; ".join(f"{key}: {reason}" for key, reason in list(quarantined.items())[:5])
    return DataError(
        f"{len(quarantined)} of {num_items} cuts cannot be used ({listed})",
        f"at most {settings.max_bad_fraction:.1%}",
        "repair the audio and add --retry-quarantined, or raise --max-bad-fraction; what is done stays done",
    )


def _do_unit(unit, streams, settings, pool, progress, report, heartbeat) -> None:
    """Writes the shards of one unit; on any failure none of them is left."""
    with contextlib.ExitStack() as stack:
        writers = {}
        for stream in streams:
            extra = {"unit_sha256": unit.sha256(stream.card_sha256), "quarantined": [], "trimmed": 0}
            writer = ShardWriter(stream.directory, unit.name, stream.dtype, stream.width, extra)
            writers[stream.name] = stack.enter_context(writer)
        good = _sort_out(unit.items, streams, writers, settings)
        for batch in _read_ahead(plan_batches(good, settings.max_seconds), streams, pool):
            if heartbeat is not None:
                heartbeat()
            for teacher, group in _by_teacher(streams):
                _do_batch(batch, teacher, group, writers)
            report.seconds += sum(item.duration_seconds for item, _ in batch)
            progress.update(int(report.seconds) - progress.done, batch[-1][0].id)
        for stream in streams:
            extra = writers[stream.name].extra
            extra["quarantined"].sort(key=lambda entry: entry["id"])
            report.trimmed += extra["trimmed"]
            report.rows[stream.name] += writers[stream.name].num_rows


def _sort_out(items, streams, writers, settings) -> list[Item]:
    """Quarantines what needs no reading to be refused: cuts too long for a batch or too short for a frame."""
    good = []
    for item in items:
        takers = [stream for stream in streams if stream.takes(item)]
        if item.duration_seconds > settings.max_seconds:
            for stream in takers:
                reason = f"{item.duration_seconds:.1f} s; a batch holds {settings.max_seconds:g} s"
                _quarantine(writers[stream.name], item, reason)
        elif takers:
            good.append(item)
    return good


def _quarantine(writer: ShardWriter, item: Item, reason: str) -> None:
    # Names of files, not paths: shards must be the same wherever the corpus lies.
    reason = reason.replace(str(item.path), item.path.name)
    writer.extra["quarantined"].append({"id": item.id, "reason": reason})
    logger.warning("quarantined %s: %s", item.id, reason)


def _by_teacher(streams: Sequence[Stream]) -> list[tuple[Teacher, list[Stream]]]:
    groups: dict[int, tuple[Teacher, list[Stream]]] = {}
    for stream in streams:
        groups.setdefault(id(stream.teacher), (stream.teacher, []))[1].append(stream)
    return list(groups.values())


def read_audio(item: Item, sample_rates: set[int]) -> dict[int, np.ndarray] | str:
    """The item's audio at each rate, or the reason why it cannot be used."""
    try:
        segment = item.start_seconds, item.duration_seconds, item.speed, item.channel, item.gain
        return {rate: load_audio(item.path, rate, *segment) for rate in sample_rates}
    except (SpearError, OSError) as error:
        return error.found if isinstance(error, SpearError) else str(error)


def _read_ahead(batches: list[list[Item]], streams, pool) -> Iterator[list[tuple[Item, dict | str]]]:
    """Batches with their audio; the next two are being read while one is used."""
    rates = {stream.teacher.sample_rate for stream in streams}
    queue: collections.deque[tuple[list[Item], list[Future]]] = collections.deque()
    waiting = iter(batches)
    try:
        while True:
            while len(queue) < 3 and (batch := next(waiting, None)) is not None:
                queue.append((batch, [pool.submit(read_audio, item, rates) for item in batch]))
            if not queue:
                return
            batch, futures = queue.popleft()
            yield [(item, future.result()) for item, future in zip(batch, futures)]
    finally:
        for _, futures in queue:
            for future in futures:
                future.cancel()


def _do_batch(batch, teacher: Teacher, streams: list[Stream], writers: dict[str, ShardWriter]) -> None:
    """Embeds a batch with one teacher and adds the rows of its streams."""
    usable: list[tuple[Item, np.ndarray, list[Stream]]] = []
    for item, audio in batch:
        takers = [stream for stream in streams if stream.takes(item)]
        reason = audio if isinstance(audio, str) else None
        if reason is None and item_frames(item, teacher) < 1:
            reason = f"{item.duration_seconds * 1000:.0f} ms, too short for one frame of teacher '{teacher.name}'"
        if reason is None:
            usable.append((item, audio[teacher.sample_rate], takers))
        else:
            for stream in takers:
                _quarantine(writers[stream.name], item, reason)
    usable = [entry for entry in usable if entry[2]]
    for group in _groups(usable, teacher):
        frames = embed(teacher, [wave for _, wave, _ in group], [item.id for item, _, _ in group])
        _add_rows(group, frames, teacher, streams, writers)


def _groups(usable: list, teacher: Teacher) -> Iterator[list]:
    """The whole batch for a batch-invariant teacher, else runs of exactly equal length."""
    if teacher.batch_invariant:
        if usable:
            yield usable
        return
    by_length: dict[int, list] = {}
    for entry in usable:
        by_length.setdefault(len(entry[1]), []).append(entry)
    yield from by_length.values()


def embed(teacher: Teacher, waves: list[np.ndarray], names: Sequence[str] = ()) -> list[Tensor]:
    """Frames of each wave, (T, D) float32 on the teacher's device; one padded batch.

    Raises:
        SpearError: out of memory on the device; says which batch and what to do.
    """
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(padded, waves):
        row[: len(wave)] = torch.from_numpy(wave)
    try:
        with torch.inference_mode():
            x_BTD, lens_B = teacher.embed(padded.to(teacher.device), lengths.to(teacher.device))
    except torch.OutOfMemoryError as error:
        seconds = padded.numel() / teacher.sample_rate
        raise DataError(
            f"out of memory with {len(waves)} cuts, {seconds:.0f} padded seconds ({', '.join(names[:3])}...)",
            f"a batch that fits on {teacher.device}",
            f"--max-seconds {seconds / 2:.0f}; what is done stays done",
        ) from error
    return [x_TD[:length].float() for x_TD, length in zip(x_BTD, lens_B.tolist())]


def _add_rows(group, frames: list[Tensor], teacher: Teacher, streams: list[Stream], writers) -> None:
    kept: list[tuple[Item, list[Stream], Tensor]] = []
    for (item, _, takers), frames_TD in zip(group, frames):
        expected = item_frames(item, teacher)
        difference = len(frames_TD) - expected
        reason = None
        if abs(difference) > MAX_FRAME_DIFFERENCE:
            reason = (
                f"{len(frames_TD)} frames of teacher '{teacher.name}'; its {item.num_samples} samples give {expected}"
            )
        elif not bool(torch.isfinite(frames_TD).all()):
            reason = f"teacher '{teacher.name}' gives values that are not finite"
        if reason is None:
            kept.append((item, takers, frames_TD[:expected]))
        for stream in takers:
            if reason is not None:
                _quarantine(writers[stream.name], item, reason)
            elif difference:
                writers[stream.name].extra["trimmed"] += 1
    for stream in streams:
        part = [(item, frames_TD) for item, takers, frames_TD in kept if stream in takers]
        if not part:
            continue
        rows = stream.rows(torch.cat([frames_TD for _, frames_TD in part]))
        stops = np.cumsum([len(frames_TD) for _, frames_TD in part])
        for (item, _), item_rows in zip(part, np.split(rows, stops[:-1])):
            if item_rows.dtype.kind == "f" and not np.isfinite(item_rows).all():
                _quarantine(writers[stream.name], item, f"values of teacher '{teacher.name}' exceed float16")
            else:
                writers[stream.name].add(item.id, item_rows)


def remove_stale(units: Sequence[Unit], streams: Sequence[Stream]) -> int:
    """Deletes shards of these cuts files that no unit of theirs makes any more; returns how many.

    Files that this run was not given keep their shards. Several processes may do this at once.
    """
    current = {unit.name for unit in units}
    files = {name.rpartition("-")[0] for name in current}
    removed = 0
    for stream in streams:
        for name in shard_names(stream.directory) if stream.directory.is_dir() else []:
            if name not in current and name.rpartition("-")[0] in files:
                for suffix in (".json", ".npy"):  # the index first: rows without an index count as unfinished
                    (stream.directory / f"{name}{suffix}").unlink(missing_ok=True)
                removed += 1
    return removed


def write_quarantine(
    path: str | Path, units: Sequence[Unit], streams: Sequence[Stream], refused: Sequence[dict] = ()
) -> int | None:
    """Collects the quarantined cuts of all units, and those `refused` before, once all are done.

    Returns:
        how many they are; None while another process still works.
    """
    if any(pending_streams(unit, streams) for unit in units):
        return None
    entries = list(refused)
    for unit in units:
        paths = {item.id: str(item.path) for item in unit.items}
        for stream in streams:
            for entry in read_index(stream.directory, unit.name)["quarantined"]:
                entries.append({**entry, "path": paths[entry["id"]], "stream": stream.name})
    return write_jsonl(path, entries)
