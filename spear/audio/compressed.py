"""How long a compressed recording is, by its frames: FLAC and Ogg (Vorbis, Opus); MP3 is in `spear.audio.mpeg`.

Headers of these are written before the end is known, copied by programs that join or split files, or left out. Frames
say where they stand (FLAC), or can be counted (MP3), and so the length is known without decoding; libsndfile is then
shown a header that agrees. What cannot be read as one recording is refused.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from spear.audio.containers import Layout, behind_id3, joined, read_at, truncated
from spear.audio.mpeg import mpeg_layout
from spear.errors import DataError

_STREAM_START = b"fLaC\0\0\0\x22"  # of FLAC, with the header of its first block
_FLAC_TAIL = 1 << 16
_FLAC_LARGEST_FRAME = 1 << 23


def compressed_layout(file: BinaryIO, path: str | Path, size: int, thorough: bool) -> Layout:
    """Looks for the end of the recording.

    Args:
        file: the open file.
        path: for messages.
        size: its bytes.
        thorough: read all of the file, to see whether something follows where no decoder would look.

    Raises:
        DataError: the file is cut, or holds several recordings that cannot be read as one.
    """
    start = behind_id3(file, 0, size)
    head = read_at(file, start, 4)
    if head == b"fLaC":
        return _flac_layout(file, path, start, size, thorough)
    if head == b"OggS" and thorough:
        return _ogg_layout(file, path, start, size)
    if head[:1] == b"\xff" and len(head) == 4 and head[1] & 0xE0 == 0xE0:
        return mpeg_layout(file, path, start, size)
    return Layout()


# FLAC --------------------------------------------------------------------------------------------------------------


def _crc_table(polynomial: int, bits: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value >> (bits - 1) else 0)) & ((1 << bits) - 1)
        table.append(value)
    return table


_CRC8, _CRC16 = _crc_table(0x07, 8), _crc_table(0x8005, 16)
_BLOCKS = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}


class _Frame(NamedTuple):
    """A FLAC frame: where it is in the bytes looked at, its first sample, and the sample behind it."""

    position: int
    first: int
    last: int


def _flac_layout(file: BinaryIO, path: str | Path, start: int, size: int, thorough: bool) -> Layout:
    stream_info = read_at(file, start + 8, 34)
    if len(stream_info) < 34:
        return Layout()
    packed, rate, promised = _stream_length(stream_info)
    if thorough and size > start + 8:
        seconds = [promised / rate]
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = start
            while (place := data.find(_STREAM_START, place + 8)) >= 0:
                _, other_rate, other = _stream_length(data[place + 8 : place + 42])
                seconds.append(other / other_rate)
        if len(seconds) > 1:
            found = f"{sum(seconds):.3f} s in {len(seconds)} FLAC files, one after the other"
            raise joined(path, f"{seconds[0]:.3f} s", found)
    end = _last_sample(file, start + 42, size, int.from_bytes(stream_info[2:4], "big"), promised)
    if end is None and not promised:
        raise DataError(
            f"{path} is FLAC without a length, and no whole frame was found at its end",
            "frames to the end of the file",
            "fetch or make the file again",
        )
    if end is None or end == promised:
        return Layout()
    if end < promised:
        found = f"its last frame ends at {end} samples, {end / rate:.3f} s"
        raise truncated(path, found, f"{promised} samples, {promised / rate:.3f} s")
    head = bytearray(read_at(file, start, 42))
    head[18:26] = (packed - promised + end).to_bytes(8, "big")
    return Layout(parts=(bytes(head), (start + 42, size)))


def _stream_length(stream_info: bytes) -> tuple[int, int, int]:
    """The word of STREAMINFO that holds rate and length, and both of them."""
    packed = int.from_bytes(stream_info[10:18], "big")
    return packed, max(1, packed >> 44), packed & ((1 << 36) - 1)


def _last_sample(file: BinaryIO, start: int, size: int, block: int, promised: int) -> int | None:
    """The sample behind the last frame of a FLAC file; None when no frame is found near its end."""
    reach = _FLAC_TAIL
    while True:
        tail = read_at(file, max(start, size - reach), reach)
        later: _Frame | None = None
        for frame in _frames_backwards(tail, block):
            # What looks like a header may be sound. Two that follow each other are no coincidence.
            if frame.last == promised or _fits(tail[frame.position :]):
                return frame.last
            if later is not None and frame.last == later.first:
                return later.last
            later = frame
        if reach >= min(size - start, _FLAC_LARGEST_FRAME):
            return None
        reach *= 8


def _fits(frame: bytes) -> bool:
    """Whether a frame with its checksum ends where the bytes do, or before zeros or a tag."""
    frame = frame[:-128] if frame[-128:-125] == b"TAG" else frame
    return any(_crc(_CRC16, 16, each) == 0 for each in {frame, frame.rstrip(b"\0")})


def _frames_backwards(data: bytes, block: int) -> Iterator[_Frame]:
    """Yields what looks like the header of a frame, the last one first."""
    position = len(data)
    while (position := data.rfind(b"\xff", 0, position)) >= 0:
        if data[position + 1 : position + 2] in (b"\xf8", b"\xf9") and (frame := _frame(data, position, block)):
            yield frame


def _frame(data: bytes, position: int, block: int) -> _Frame | None:
    head = data[position : position + 16]
    if len(head) < 6:
        return None
    block_code, rate_code = head[2] >> 4, head[2] & 15
    if not block_code or rate_code == 15 or head[3] >> 4 > 10 or head[3] & 1:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the number is written like a character in UTF-8
    if ones == 1 or ones > 7:
        return None
    number, place = head[4] & (0x7F >> ones), 4 + max(1, ones)
    for byte in head[5:place]:
        number = number << 6 | byte & 0x3F
    length = _BLOCKS.get(block_code, 0)
    if not length:
        width = block_code - 5
        length, place = int.from_bytes(head[place : place + width], "big") + 1, place + width
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(head) or _crc(_CRC8, 8, head[: place + 1]):
        return None
    first = number if head[1] & 1 else number * block
    return _Frame(position, first, first + length)


def _crc(table: list[int], bits: int, data: bytes) -> int:
    """A checksum, which is 0 when the data end with their own."""
    value, mask, shift = 0, (1 << bits) - 1, bits - 8
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> shift ^ byte]
    return value


# Ogg ---------------------------------------------------------------------------------------------------------------


def _ogg_layout(file: BinaryIO, path: str | Path, start: int, size: int) -> Layout:
    """Walks over all pages: the last must be whole, and no second recording may follow the first."""
    position, rate, beginning = start, 0, False
    seconds: list[float] = []  # of each recording so far
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while data[position : position + 4] == b"OggS":
            body = position + 27 + (data[position + 26] if position + 27 <= size else 0)
            following = body + sum(data[position + 27 : body])
            if following > size or body > size:
                raise truncated(path, f"its last page is cut, after {sum(seconds):.3f} s", "whole pages")
            first = bool(data[position + 5] & 2)
            if first and not beginning:
                seconds.append(0.0)
                rate = _ogg_rate(data[body : body + 16]) or rate
            beginning = first
            granule = struct.unpack("<q", data[position + 6 : position + 14])[0]
            if seconds and granule > 0 and rate:
                seconds[-1] = granule / rate
            position = following
    if len(seconds) > 1:
        found = f"{sum(seconds):.3f} s in {len(seconds)} Ogg streams, one after the other"
        raise joined(path, f"{seconds[0]:.3f} s", found)
    return Layout()


def _ogg_rate(head: bytes) -> int:
    if head[:7] == b"\x01vorbis":
        return struct.unpack("<I", head[12:16])[0]
    return 48000 if head[:8] == b"OpusHead" else 0
