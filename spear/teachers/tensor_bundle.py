"""TensorFlow checkpoints read without TensorFlow: an index, which is a LevelDB table, and a file of values.

The index holds one record for each variable: type, shape, place and checksum. Only plain tables of one shard in little
endian are read, as `tf.train.Saver` writes them; sizes are compared with the files before anything is made.
"""

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from spear import weights

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES, _TRAILER_BYTES = 48, 5
_LARGEST_INDEX_BYTES = 16 << 20
_MOST_VARIABLES, _MOST_AXES = 100_000, 16
_DTYPES = {1: torch.float32, 2: torch.float64, 3: torch.int32, 4: torch.uint8, 6: torch.int8, 9: torch.int64}
_DTYPES |= {5: torch.int16, 10: torch.bool, 14: torch.bfloat16, 19: torch.float16}


class _Damaged(ValueError):
    """Bytes that are no table, or values that do not lie in the file."""


def read(index: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The variables of a checkpoint, on CPU.

    Args:
        index: the file that ends in `.index`; `.data-00000-of-00001` lies beside it.
        wanted: says of a name whether its values are read; optimizers keep two more for each.

    Raises:
        WeightsError: a file is missing or damaged, or of a form that is not read.
    """
    index = weights.check_file(index, "the index of a TensorFlow checkpoint")
    data = weights.check_file(f"{str(index).removesuffix('.index')}.data-00000-of-00001", "values beside the index")
    try:
        if index.stat().st_size > _LARGEST_INDEX_BYTES:
            raise _Damaged("an index of a size that none has")
        records = list(_records(index.read_bytes()))
        if not records or records[0][0] != b"":
            raise _Damaged("an index without a header")
        _check_header(records[0][1])
        left, found = data.stat().st_size, {}
        with open(data, "rb") as file:
            for key, value in records[1:]:
                name = key.decode()
                if wanted(name):
                    place = _Place(name, value, data.stat().st_size)
                    left -= place.size
                    if left < 0:
                        raise _Damaged("variables that share their values")
                    found[name] = place.load(file)
        return found
    except (ValueError, IndexError, TypeError, RuntimeError, struct.error) as error:
        raise weights.WeightsError(
            f"{index} cannot be read ({weights.shown(str(error))})",
            "a complete TensorFlow checkpoint of one shard",
            "copy or download it again",
        ) from error


class _Place:
    """Where a variable's values are, from its record."""

    def __init__(self, name: str, record: bytes, data_bytes: int):
        self.name, values, self.shape = name, {}, ()
        for number, value in _fields(record):
            if number == 2:
                self.shape = _shape(value)
            else:
                values[number] = value
        self.dtype = _DTYPES.get(values.get(1, 0))
        self.offset, self.size, self.crc = values.get(4, 0), values.get(5, 0), values.get(6)
        if self.dtype is None or values.get(3, 0) != 0 or 7 in values or not isinstance(self.crc, bytes):
            raise _Damaged(f"variable {name[:80]} of a type that is not read")
        if math.prod(self.shape) * self.dtype.itemsize != self.size or self.offset + self.size > data_bytes:
            raise _Damaged(f"variable {name[:80]} of {self.size} bytes, which are not there")

    def load(self, file) -> Tensor:
        """The values, compared with their checksum."""
        file.seek(self.offset)
        content = file.read(self.size)
        if _masked_crc(content) != struct.unpack("<I", self.crc)[0]:
            raise _Damaged(f"variable {self.name[:80]} with another checksum")
        if not content:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(bytearray(content), dtype=self.dtype).view(self.shape)


def _check_header(record: bytes) -> None:
    values = dict(_fields(record))
    if values.get(1, 0) != 1 or values.get(2, 0) != 0:
        raise _Damaged("several shards, or numbers in big endian")


def _shape(message: bytes) -> tuple[int, ...]:
    axes = [dict(_fields(value)).get(1, 0) for number, value in _fields(message) if number == 2]
    if len(axes) > _MOST_AXES or not all(isinstance(axis, int) and axis < 2**40 for axis in axes):
        raise _Damaged("a shape that no variable has")
    return tuple(axes)


# Protocol buffers ---------------------------------------------------------------------------------------------------


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for place in range(start, min(start + 10, len(content))):
        value |= (content[place] & 127) << (7 * (place - start))
        if content[place] < 128:
            return value, place + 1
    raise _Damaged("a number that does not end")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields; those of fixed length as bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind, number = key & 7, key >> 3
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _varint(message, place)
        if size is None or place + size > len(message):
            raise _Damaged("a record that ends early")
        yield number, message[place : place + size]
        place += size


# Tables -------------------------------------------------------------------------------------------------------------


def _records(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, in order."""
    if len(table) < _FOOTER_BYTES or struct.unpack("<Q", table[-8:])[0] != _MAGIC:
        raise _Damaged("no index of a TensorFlow checkpoint")
    footer, place = table[-_FOOTER_BYTES:], 0
    for _ in range(2):  # of the block of blocks about the table, which is empty
        _, place = _varint(footer, place)
    count, last_end = 0, 0
    for _, handle in _entries(_block(table, footer[place:])):
        start, _ = _varint(handle, 0)
        if start < last_end:  # blocks that overlap could hold any number of records
            raise _Damaged("blocks that overlap")
        last_end = start + 1
        for record in _entries(_block(table, handle)):
            count += 1
            if count > _MOST_VARIABLES:
                raise _Damaged(f"more than {_MOST_VARIABLES} variables")
            yield record


def _block(table: bytes, handle: bytes) -> bytes:
    """A block, compared with its checksum."""
    start, place = _varint(handle, 0)
    size, _ = _varint(handle, place)
    block, trailer = table[start : start + size], table[start + size : start + size + _TRAILER_BYTES]
    if len(trailer) != _TRAILER_BYTES or trailer[0] != 0:
        raise _Damaged("a block that is compressed or ends early")
    if _masked_crc(block + trailer[:1]) != struct.unpack("<I", trailer[1:])[0]:
        raise _Damaged("a block with another checksum")
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; each key says how much of it is that of the key before."""
    if len(block) < 4:
        raise _Damaged("an empty block")
    (restarts,) = struct.unpack("<I", block[-4:])
    end, place, key = len(block) - 4 - 4 * restarts, 0, b""
    if end < 0:
        raise _Damaged("a block that ends early")
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        size, place = _varint(block, place)
        if shared > len(key) or shared + own > 4096 or place + own + size > end:
            raise _Damaged("an entry beyond its block")
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + size]
        place += own + size


# Checksums ----------------------------------------------------------------------------------------------------------


def _table_of(polynomial: int) -> tuple[int, ...]:
    numbers = []
    for number in range(256):
        for _ in range(8):
            number = (number >> 1) ^ (polynomial if number & 1 else 0)
        numbers.append(number)
    return tuple(numbers)


_CASTAGNOLI = _table_of(0x82F63B78)


def _masked_crc(content: bytes) -> int:
    """CRC-32C in the form in which these files hold it."""
    table, crc = _CASTAGNOLI, 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
