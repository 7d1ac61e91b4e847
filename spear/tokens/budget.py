"""What extraction will cost: bytes on disk as an upper bound, hours at a measured rate. Printed before it starts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spear.errors import DataError
from spear.fs import free_bytes, human_bytes
from spear.log import human_seconds
from spear.seeds import numpy_rng
from spear.tokens.extract import embed, pending_streams
from spear.tokens.streams import Stream
from spear.tokens.units import Unit, item_frames

_BLOCK = 4096
_INDEX_BYTES_OF_UNIT = 1024
_INDEX_BYTES_OF_ITEM = 40  # offset, checksum, quotes, commas
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Estimate:
    """Cost of what is still to be done.

    Attributes:
        items: cuts in unfinished units.
        audio_seconds: of those cuts.
        bytes_needed: upper bound of what will be written.
        bytes_free: on the disk of the output.
        seconds_per_process: time of each process, or None when nothing was measured.
    """

    items: int
    audio_seconds: float
    bytes_needed: int
    bytes_free: int
    seconds_per_process: float | None

    def __str__(self) -> str:
        takes = "" if self.seconds_per_process is None else f", about {human_seconds(self.seconds_per_process)}"
        return (
            f"{self.items} cuts, {self.audio_seconds / 3600:.2f} h of audio to do: at most "
            f"{human_bytes(self.bytes_needed)} ({human_bytes(self.bytes_free)} free){takes}"
        )

    def require_space(self, directory: str | Path) -> None:
        """Refuses to start what the disk cannot hold.

        Raises:
            DataError: not enough free bytes; gives both numbers.
        """
        if self.bytes_needed + _SPARE_BYTES > self.bytes_free:
            raise DataError(
                f"{human_bytes(self.bytes_free)} free on the disk of {directory}",
                f"{human_bytes(self.bytes_needed + _SPARE_BYTES)}",
                "free some space, or choose an --output on another disk",
            )


def estimate(
    units: Sequence[Unit],
    streams: Sequence[Stream],
    directory: str | Path,
    *,
    world_size: int = 1,
    measure: bool = True,
) -> Estimate:
    """Estimates what is left to do (finished units cost nothing).

    Args:
        units: all units.
        streams: to be made.
        directory: the output.
        world_size: processes that share the work.
        measure: time the teachers and quantizers on a few seconds of noise.
    """
    items = total_bytes = 0
    audio_seconds = 0.0
    for unit in units:
        pending = pending_streams(unit, streams)
        items += len(unit.items) if pending else 0
        audio_seconds += unit.seconds if pending else 0.0
        total_bytes += sum(_shard_bytes(unit, stream) for stream in pending)
    total_bytes += _BLOCK * len(streams) if items else 0  # their locks
    rate = measured_rate(streams) if measure and items else None
    seconds = audio_seconds / rate / world_size if rate else None
    return Estimate(items, audio_seconds, total_bytes, free_bytes(directory), seconds)


def _shard_bytes(unit: Unit, stream: Stream) -> int:
    items = [item for item in unit.items if stream.takes(item)]
    rows = sum(item_frames(item, stream.teacher) for item in items)
    index = _INDEX_BYTES_OF_UNIT + sum(len(item.id.encode()) + _INDEX_BYTES_OF_ITEM for item in items)
    sizes = (128 + rows * stream.width * stream.dtype.itemsize, index)
    return sum(-(-size // _BLOCK) * _BLOCK for size in sizes)


def measured_rate(streams: Sequence[Stream], seconds: float = 4.0) -> float:
    """Seconds of audio that one process does in a second: every teacher and quantizer on noise, after a warm-up."""
    spent = 0.0
    teachers = {id(stream.teacher): stream.teacher for stream in streams}
    for key, teacher in teachers.items():
        noise = numpy_rng(0, "rate_measurement").standard_normal(int(seconds * teacher.sample_rate)) * 0.1
        noise = noise.astype(np.float32)
        for timed in (False, True):
            start = time.monotonic()
            frames = embed(teacher, [noise if timed else noise[: len(noise) // 4]])[0]
            for stream in streams:
                if id(stream.teacher) == key:
                    stream.rows(frames)
            spent += (time.monotonic() - start) * timed
    return seconds / max(spent, 1e-9)
