"""How long an MP3 is: by counting its frames.

Its header, if it has one, is a first frame with the encoder's counts (Xing, Info, VBRI). Programs that join files copy
that of the first; without one, decoders estimate the length from the first frame's bit rate. Where the header does not
agree with the size of the file, the frames are counted, and libsndfile is shown a header that is right and the frames
without what lies between them. Frame headers alone are read: 0.1 s for an hour.
"""

import functools
import mmap
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from spear.audio.containers import Layout, behind_id3, joined, read_at, truncated

_RATES_HZ = (44100, 48000, 32000)
_BITRATES = {  # kbit/s by (MPEG 1?, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_COUNTS = (b"Xing", b"Info", b"VBRI")
_SYNC = re.compile(rb"\xff[\xe0-\xff][\x10-\xef]", re.DOTALL)
_MAX_RANGES, _MAX_TRIES = 10_000, 100_000  # a file that needs more is no recording


def _frame_table() -> dict[int, tuple[int, int, int]]:
    """(bytes, samples, rate) of a frame by the second and third byte of its header."""
    table = {}
    for key in range(0xE000, 0x10000):
        version, layer = {3: 1.0, 2: 2.0, 0: 2.5}.get(key >> 11 & 3), 4 - (key >> 9 & 3)
        bitrate, rate, padding = key >> 4 & 15, key >> 2 & 3, key >> 1 & 1
        if version is None or layer == 4 or bitrate in (0, 15) or rate == 3:
            continue
        rate_hz = _RATES_HZ[rate] // {1.0: 1, 2.0: 2, 2.5: 4}[version]
        samples = 384 if layer == 1 else 576 if layer == 3 and version > 1 else 1152
        bits_per_second = 1000 * _BITRATES[version == 1, layer][bitrate - 1]
        slot = 4 if layer == 1 else 1
        length = (samples // 8 // slot * bits_per_second // rate_hz + padding) * slot
        table[key] = length, samples, rate_hz
    return table


_FRAMES = _frame_table()


@dataclass
class _Count:
    """What a walk over the frames found; `ranges` are the bytes with frames, without tags and headers of parts."""

    frames: int = 0
    samples: int = 0
    rate_hz: int = 0
    cut: bool = False
    ranges: list[tuple[int, int]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.samples / max(1, self.rate_hz)


def mpeg_layout(file: BinaryIO, path: str | Path, start: int, size: int) -> Layout:
    """Compares the header, if there is one, with the file; counts the frames where they do not agree.

    Args:
        file: the open file.
        path: for messages.
        start: of the first frame.
        size: bytes of the file.

    Raises:
        DataError: the last frame is cut, frames are missing, or the rate changes on the way.
    """
    head = read_at(file, start, 512)
    if int.from_bytes(head[1:3], "big") not in _FRAMES:
        return Layout()  # of a kind that this module does not know, or no MP3
    promised, length = _promise(head)
    tag = 128 if read_at(file, size - 128, 3) == b"TAG" else 0
    frame_bytes = _FRAMES[int.from_bytes(head[1:3], "big")][0]
    if promised and length and abs(size - tag - start - length) <= frame_bytes:
        return Layout()
    return _counted(str(path), os.fstat(file.fileno()).st_mtime_ns, start, size, promised)


def _promise(head: bytes) -> tuple[int, int]:
    """Frames and bytes that the first frame promises; 0 for what it does not say."""
    place = _counts_at(head)
    if place is None or head[place : place + 4] == b"VBRI":
        return (0, 0) if place is None else struct.unpack(">II", head[place + 10 : place + 18])[::-1]
    flags = struct.unpack(">I", head[place + 4 : place + 8])[0]
    numbers = list(struct.unpack(">II", head[place + 8 : place + 16]))
    frames = numbers.pop(0) if flags & 1 else 0
    return frames, numbers.pop(0) if flags & 2 else 0


def _counts_at(head: bytes) -> int | None:
    """Where the encoder's counts are in a frame; None when it is one of sound."""
    if head[36:40] == b"VBRI":
        return 36
    mono, first = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    place = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    for shift in (0, 2):  # a checksum may stand between
        if head[place + shift : place + shift + 4] in _COUNTS:
            return place + shift
    return None


@functools.lru_cache(maxsize=1024)  # segments of a recording are read one by one
def _counted(path: str, changed_ns: int, start: int, size: int, promised: int) -> Layout:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        count = _walk(data, path, start, size)
        first = data[start : start + 512]
    place = _counts_at(first)
    told = f"{promised} frames" if promised else "whole frames"
    if count.cut:
        raise truncated(path, f"its last frame is cut, after {count.frames} frames, {count.seconds:.3f} s", told)
    if count.frames < promised - 1:
        raise truncated(path, f"{count.frames} frames, {count.seconds:.3f} s", told)
    if count.frames == 0:
        return Layout()
    if abs(count.frames - promised) <= 1 and len(count.ranges) == 1:
        return Layout()
    total = sum(stop - begin for begin, stop in count.ranges)
    return Layout(parts=(_header(first, place, count.frames, total), *count.ranges))


def _walk(data: mmap.mmap, path: str | Path, start: int, size: int) -> _Count:
    count, position, begin, mono = _Count(), start, start, data[start + 3] >> 6 == 3

    def leave_out(to: int) -> int:
        if position > begin:
            count.ranges.append((begin, position))
        return to

    while position + 4 <= size and len(count.ranges) < _MAX_RANGES:
        frame = _FRAMES.get(data[position + 1] << 8 | data[position + 2]) if data[position] == 0xFF else None
        if frame is None:
            position = begin = leave_out(_next_frame(data, position, size))
            continue
        length, samples, rate_hz = frame
        if count.rate_hz not in (0, rate_hz):
            changed = f"at byte {position} the rate changes to {rate_hz} Hz"
            raise joined(path, f"{count.seconds:.3f} s at {count.rate_hz} Hz", changed)
        if mono != (data[position + 3] >> 6 == 3):
            changed = f"at byte {position} the number of channels changes"
            raise joined(path, f"{count.seconds:.3f} s with {1 if mono else 2}", changed)
        if position + length > size:
            count.cut = True
            break
        if _counts_at(data[position : position + 44]) is None:
            count.frames, count.samples, count.rate_hz = count.frames + 1, count.samples + samples, rate_hz
            position += length
        else:
            position = begin = leave_out(position + length)
    leave_out(size)
    return count


def _next_frame(data: mmap.mmap, position: int, size: int) -> int:
    """Where the next two frames in a row begin, or the end of the file."""
    position = behind_id3(data, position, size)
    for number, match in enumerate(_SYNC.finditer(data, position)):
        place = match.start()
        frame = _FRAMES.get(data[place + 1] << 8 | data[place + 2])
        following = place + frame[0] if frame else size
        if following + 3 <= size and data[following] == 0xFF:
            second = _FRAMES.get(data[following + 1] << 8 | data[following + 2])
            if second and second[1:] == frame[1:]:
                return place
        if number > _MAX_TRIES:
            break
    return size


def _header(first: bytes, place: int | None, frames: int, num_bytes: int) -> bytes:
    """A first frame of no sound with the right counts; the encoder's delay, if it is known, is kept."""
    header = bytearray(first[:4])
    header[1] |= 1  # no checksum
    for bitrate in range(1, 15):
        header[2] = header[2] & 0x0F | bitrate << 4
        length = _FRAMES[int.from_bytes(header[1:3], "big")][0]
        if length >= 4 + 32 + 16 + 36:
            break
    mono, mpeg1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    side_info = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    counts = b"Xing" + struct.pack(">III", 3, frames, num_bytes + length)
    if place is not None and first[place : place + 4] != b"VBRI":
        flags = struct.unpack(">I", first[place + 4 : place + 8])[0]
        encoder = place + 8 + sum(width for bit, width in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
        lame = bytearray(first[encoder : encoder + 36])
        if len(lame) == 36 and any(lame[:4]):
            lame[22], lame[23] = lame[22] & 0xF0, 0  # what was cut off at the first part's end is no end any more
            counts += lame
    return bytes(header + bytes(side_info) + counts).ljust(length, b"\0")
