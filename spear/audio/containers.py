"""How long a recording is: what the headers of a file promise, and what the file holds.

libsndfile believes some headers and silently adapts others to what it finds. So halves of a file look like whole ones,
and of several files written one after the other only the first is heard. Here the structure is read first: a file that
holds less than it promises is refused, and so is one that holds more and does not say what. Lengths that a program
could not know, since it wrote to a pipe, are no promises: the file is read to its end.

A `Layout` says which bytes libsndfile is to see, where those of the file would mislead it. IRCAM, PAF and PVF promise
nothing: cut ones cannot be told from whole ones.
"""

import bisect
import itertools
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from spear.errors import DataError

Part = bytes | tuple[int, int]
_MAX_CHUNKS = 4096  # of a file; more are no recording
_NEAR = 1 << 20  # placeholders are the largest numbers of 31, 32, 63 or 64 bits, less the size of a header


@dataclass(frozen=True)
class Layout:
    """What is known of a file before it is decoded.

    Attributes:
        promised: bytes of samples that the header promises; 0 where it promises none.
        extra: bytes behind them that nothing in the file explains.
        parts: the bytes that libsndfile is to see: new ones, or (start, stop) in the file; empty for the file itself.
    """

    promised: int = 0
    extra: int = 0
    parts: tuple[Part, ...] = ()


class View:
    """A file made of parts, for libsndfile to read. Takes the open file and the parts of a `Layout`."""

    def __init__(self, file: BinaryIO, parts: Sequence[Part]):
        self._file, self._parts, self._position = file, parts, 0
        lengths = [len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts]
        self._starts = [0, *itertools.accumulate(lengths)]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        return self._position

    def tell(self) -> int:
        """As of any file."""
        return self._position

    def readinto(self, buffer) -> int:
        """As of any file: fewer bytes than asked for only at the end."""
        target, done = memoryview(buffer), 0
        while done < len(target) and self._position < self._starts[-1]:
            number = bisect.bisect_right(self._starts, self._position) - 1
            part, inside = self._parts[number], self._position - self._starts[number]
            count = min(len(target) - done, self._starts[number + 1] - self._position)
            if isinstance(part, bytes):
                target[done : done + count] = part[inside : inside + count]
            else:
                piece = read_at(self._file, part[0] + inside, count)
                if not piece:
                    break
                target[done : done + len(piece)] = piece
                count = len(piece)
            done += count
            self._position += count
        return done


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Some bytes of a file, fewer at its end; none from before its start."""
    if position < 0:
        return b""
    file.seek(position)
    return file.read(max(0, count))


def truncated(path: str | Path, found: str, promised: str) -> DataError:
    """The error for a file that has lost its end."""
    return DataError(
        f"{path} is truncated: {found}, where its header promises {promised}",
        "the whole file",
        "fetch or make the file again",
    )


def joined(path: str | Path, promised: str, found: str) -> DataError:
    """The error for a file in which something follows the recording that its header speaks of."""
    return DataError(
        f"{path} holds more than its header says: {found}, where the header speaks of {promised}",
        "one recording, as long as its header says",
        "write it anew (for example: ffmpeg -ignore_length 1 -i IN OUT.flac), or store the recordings apart",
    )


def behind_id3(file: BinaryIO, position: int, size: int) -> int:
    """The place behind the ID3v2 tags that start at a position."""
    while position < size:
        head = read_at(file, position, 10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        length = 0
        for byte in head[6:]:
            length = length << 7 | byte & 0x7F
        position += 10 + length + (10 if head[5] & 0x10 else 0)
    return min(position, size)


def container_layout(file: BinaryIO, path: str | Path, size: int) -> Layout:
    """Compares the header of a file that stores samples one after the other with what is there.

    Raises:
        DataError: the file holds less than its header promises.
    """
    head = read_at(file, 0, 40)
    for matches, read in _KINDS:
        if matches(head):
            try:
                return read(file, path, size)
            except (struct.error, ValueError, IndexError):
                return Layout()  # no such header after all; libsndfile says what is wrong
    return Layout()


def is_placeholder(length: int) -> bool:
    """Whether a length stands for "unknown": 0, the largest number there is, or a round one that no file reaches."""
    largest = any(-_NEAR < length - (1 << bits) <= _NEAR for bits in (31, 32, 63, 64))
    round_number = length >= 10**9 and min(length % 10**8, -length % 10**8) < 128
    return length <= 0 or largest or round_number or length >= 1 << 56


# Files of chunks: WAV, RF64, AIFF, 8SVX, CAF, Wave64 ---------------------------------------------------------------


class _Chunks(NamedTuple):
    """How chunks are written: where the first is, an id, a length (with or without the chunk's header), alignment."""

    first: int
    length: str
    samples: tuple[bytes, ...]
    id_bytes: int = 4
    counts_header: bool = False
    alignment: int = 2

    @property
    def header(self) -> int:
        return self.id_bytes + struct.calcsize(self.length)


_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
_RIFF = _Chunks(12, "<I", (b"data",))
_RIFX = _Chunks(12, ">I", (b"data",))
_FORM = _Chunks(12, ">I", (b"SSND", b"BODY"))
_CAFF = _Chunks(8, ">q", (b"data",), alignment=1)
_W64 = _Chunks(40, "<q", (_W64_DATA,), id_bytes=16, counts_header=True, alignment=8)
_OUTER = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff")


def _walk(file: BinaryIO, kind: _Chunks, position: int, size: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yields (id, first byte, length, place of the next) of chunks until one is none or reaches beyond the end."""
    for _ in range(_MAX_CHUNKS):
        head = read_at(file, position, kind.header)
        if len(head) < kind.header or not all(32 <= byte < 127 for byte in head[:4]):
            return
        length = struct.unpack(kind.length, head[kind.id_bytes :])[0] - kind.counts_header * kind.header
        start = position + kind.header
        position = start + length + -length % kind.alignment
        yield head[: kind.id_bytes], start, length, position
        if length < 0 or position > size + 1:
            return


def _chunked(kind: _Chunks) -> Callable[[BinaryIO, str | Path, int], Layout]:
    def read(file: BinaryIO, path: str | Path, size: int) -> Layout:
        long_at, start, length, following = 0, 0, 0, 0
        for name, *where in _walk(file, kind, kind.first, size):
            long_at = where[0] + 8 if name == b"ds64" else long_at
            if name in kind.samples:
                start, length, following = where
                break
        if not start:
            return Layout()
        at, field = start - struct.calcsize(kind.length), kind.length
        if long_at and length == 0xFFFFFFFF:  # the length of 64 bits stands elsewhere
            at, field = long_at, "<Q"
            length = struct.unpack(field, read_at(file, at, 8))[0]
            following = start + length + length % 2
        present = size - start
        if is_placeholder(length) and not 0 < length <= present:
            if length == 0 and _unexplained(file, kind, following, size) == 0:
                return Layout()
            largest = (1 << 8 * struct.calcsize(field) - (field[1] == "q")) - 1
            told = min(present + kind.counts_header * kind.header, largest)
            return Layout(parts=_patched(file, start, size, {at: struct.pack(field, told)}))
        if present < length:
            raise truncated(path, f"{present} bytes of samples", f"{length} bytes")
        extra = min(_unexplained(file, kind, place, size) for place in {following, start + length})
        end = start + length if kind is _W64 else size - extra  # of Wave64, libsndfile reads all that follows
        parts: tuple[Part, ...] = ((0, end),) if end < size else ()
        if read_at(file, 0, 4) == b"BW64":
            parts = _patched(file, start, end, {})
        return Layout(length, extra, parts)

    return read


def _patched(file: BinaryIO, start: int, size: int, changes: dict[int, bytes]) -> tuple[Part, ...]:
    """The file with some bytes of its header, which ends at `start`, replaced; BW64 is RF64 by another name."""
    head = bytearray(read_at(file, 0, start))
    for place, new in changes.items():
        head[place : place + len(new)] = new
    head[:4] = head[:4].replace(b"BW64", b"RF64")
    return bytes(head), (start, size)


def _unexplained(file: BinaryIO, kind: _Chunks, position: int, size: int) -> int:
    """Bytes from `position` on that are neither whole chunks nor a tag nor zeros."""
    for name, _, length, following in _walk(file, kind, position, size):
        if name[:4] in _OUTER or name in kind.samples or length < 0 or following > size + 1:
            break
        position = following
    return _unpadded(file, position, size)


def _unpadded(file: BinaryIO, position: int, size: int) -> int:
    """Bytes from `position` on, or 0 when they are a tag or all zero."""
    head = read_at(file, position, min(max(0, size - position), 1 << 20))
    if head[:3] in (b"ID3", b"TAG") or head[:8] == b"APETAGEX" or not head.strip(b"\0"):
        return 0
    return size - position


# Files with a single header ----------------------------------------------------------------------------------------


def _plain(file: BinaryIO, path: str | Path, size: int, start: int, promised: int) -> Layout:
    """Compares the bytes from `start` to the end of the file with those promised."""
    if is_placeholder(promised) and not 0 < promised <= size - start:
        return Layout()
    if promised > size - start:
        raise truncated(path, f"{max(0, size - start)} bytes of samples", f"{promised} bytes")
    end = start + promised
    return Layout(promised, _unpadded(file, end, size), ((0, end),) if end < size else ())


def _au(file: BinaryIO, path: str | Path, size: int) -> Layout:
    order = ">" if read_at(file, 0, 4) == b".snd" else "<"
    start, promised = struct.unpack(f"{order}II", read_at(file, 4, 8))
    if is_placeholder(promised) and promised > size - start or promised == 0:
        return Layout(parts=_patched(file, start, size, {8: b"\xff\xff\xff\xff"}))  # the one that libsndfile knows
    return _plain(file, path, size, start, promised)


def _nist(file: BinaryIO, path: str | Path, size: int) -> Layout:
    start = int(read_at(file, 8, 8))
    header = read_at(file, 0, min(start, 1 << 16)).partition(b"end_head")[0].decode("latin-1")
    fields = dict(re.findall(r"^(\w+) -\w+ (\S.*?)\s*$", header, re.MULTILINE))
    promised = int(fields.get("sample_count", 0)) * int(fields.get("channel_count", 1))
    return _plain(file, path, size, start, promised * int(fields["sample_n_bytes"]))


def _voc(file: BinaryIO, path: str | Path, size: int) -> Layout:
    """A file of blocks; libsndfile takes the headers of all but the first for samples, so they are left out."""
    first = position = struct.unpack("<H", read_at(file, 20, 2))[0]
    pieces, promised = [], 0
    for _ in range(_MAX_CHUNKS):
        head = read_at(file, position, 4)
        if len(head) < 4 or not 0 < head[0] < 10:
            break
        length = int.from_bytes(head[1:], "little")
        skipped = {1: 2, 2: 0, 9: 12}.get(head[0])
        if skipped is not None:
            if pieces and skipped:
                raise DataError(f"{path} holds several recordings, one after the other", "one", "store them apart")
            if position + 4 + length > size:
                promised += length - skipped
                raise truncated(path, f"{size - first} bytes", f"{promised} bytes of samples")
            pieces.append((position + 4 + skipped, position + 4 + length))
            promised += length - skipped
        position += 4 + length
    if not pieces:
        return Layout()
    end = position + (read_at(file, position, 1) == b"\0")
    extra = _unpadded(file, end, size) if end < size else 0
    return Layout(promised, extra, (read_at(file, 0, pieces[0][0]), *pieces, b"\0"))


def _avr(file: BinaryIO, path: str | Path, size: int) -> Layout:
    stereo, bits = struct.unpack(">HH", read_at(file, 12, 4))
    frames = struct.unpack(">I", read_at(file, 26, 4))[0]
    return _plain(file, path, size, 128, frames * (2 if stereo else 1) * (bits // 8))


def _mpc2k(file: BinaryIO, path: str | Path, size: int) -> Layout:
    channels, frames = read_at(file, 21, 1)[0] + 1, struct.unpack("<I", read_at(file, 26, 4))[0]
    return _plain(file, path, size, 42, frames * channels * 2)


def _wve(file: BinaryIO, path: str | Path, size: int) -> Layout:
    return _plain(file, path, size, 32, struct.unpack(">I", read_at(file, 18, 4))[0])


def _mat4(file: BinaryIO, path: str | Path, size: int) -> Layout:
    order = "<" if read_at(file, 0, 2) == b"\0\0" else ">"
    position = start = count = 0
    for _ in range(2):  # the rate, then the samples
        kind, rows, columns, _, name = struct.unpack(f"{order}5I", read_at(file, position, 20))
        start, count = position + 20 + name, rows * columns * (8, 4, 4, 2, 2, 1)[kind // 10 % 10]
        position = start + count
    return _plain(file, path, size, start, count)


def _mat5(file: BinaryIO, path: str | Path, size: int) -> Layout:
    order = "<" if read_at(file, 126, 2) == b"IM" else ">"
    rate = struct.unpack(f"{order}II", read_at(file, 128, 8))[1]
    samples = 136 + rate
    promised = struct.unpack(f"{order}II", read_at(file, samples, 8))[1]
    return _plain(file, path, size, samples + 8, promised - 8)  # padding, which is not always written


_KINDS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, str | Path, int], Layout]], ...] = (
    (lambda head: head[:4] in (b"RIFF", b"RF64", b"BW64"), _chunked(_RIFF)),
    (lambda head: head[:4] == b"RIFX", _chunked(_RIFX)),
    (lambda head: head[:4] == b"FORM", _chunked(_FORM)),
    (lambda head: head[:4] == b"caff", _chunked(_CAFF)),
    (lambda head: head[:16] == _W64_RIFF, _chunked(_W64)),
    (lambda head: head[:4] in (b".snd", b"dns."), _au),
    (lambda head: head[:7] == b"NIST_1A", _nist),
    (lambda head: head[:19] == b"Creative Voice File", _voc),
    (lambda head: head[:4] == b"2BIT", _avr),
    (lambda head: head[:2] == b"\x01\x04", _mpc2k),
    (lambda head: head[:15] == b"ALawSoundFile**", _wve),
    (lambda head: head[20:30] == b"samplerate", _mat4),
    (lambda head: head[:10] == b"MATLAB 5.0", _mat5),
)
