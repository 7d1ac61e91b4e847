"""Files of `torch.save`, of both its formats, read without torch.load: nothing in them is executed.

Tensors stay in the file until they are asked for, so of a training checkpoint only the model is read, and sizes are
compared with the file before anything is made. Beside tensors and plain values the classes that icefall, fairseq and
lhotse put into checkpoints are known (paths, namespaces, numpy values...), as inert stand-ins; all others are refused.
"""

import functools
import mmap
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from spear import pickles
from spear.pickles import Foreign, Maker, Malformed, Record, record

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_PICKLE_BYTES = 256 << 20
_PIECE_BYTES = 16 << 20
_DEEPEST = 50
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
_NUMPY = {"f8": torch.float64, "f4": torch.float32, "f2": torch.float16, "i8": torch.int64, "i4": torch.int32}
_NUMPY |= {"i2": torch.int16, "i1": torch.int8, "u1": torch.uint8, "b1": torch.bool}


@dataclass
class _Storage:
    """Bytes in a file that tensors are views of; read once, when the first of them is."""

    numel: int
    dtype: torch.dtype
    read: Callable[[int], Tensor] | None = None  # gives so many bytes; None where the file ends before them
    start: int = 0  # of a view of another storage, in elements
    of: "_Storage | None" = None
    content: Tensor | None = field(default=None, repr=False)

    def load(self) -> Tensor:
        """All elements in one dimension."""
        if self.of is not None:
            whole = self.of.load()
            if not 0 <= self.start <= self.start + self.numel <= len(whole):
                raise Malformed("a view beyond its storage")
            return whole[self.start : self.start + self.numel]
        if self.content is None:
            if self.read is None:
                raise Malformed("a tensor without values")
            self.content = self.read(self.numel * self.dtype.itemsize).view(self.dtype)
        return self.content


@dataclass
class _Stored:
    """A tensor in a file: a view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype | None = None  # where it is not the storage's

    @property
    def num_bytes(self) -> int:
        """Of the values, were they in one piece."""
        count = 1
        for length in self.shape:
            count *= length
        return count * (self.dtype or self.storage.dtype).itemsize

    def load(self) -> Tensor:
        """The tensor."""
        values = self.storage.load()
        values = values if self.dtype is None else values.view(self.dtype)
        if 0 in self.shape:
            return values.new_empty(self.shape)
        last = self.offset + sum((length - 1) * step for length, step in zip(self.shape, self.stride))
        if last >= len(values):
            raise Malformed("a tensor beyond its storage")
        return torch.as_strided(values, self.shape, self.stride, self.offset)


def read(path: str | Path, wanted: Iterable[str] = ()) -> Any:
    """The content of a file of `torch.save`, on CPU.

    Args:
        wanted: of a dict, only these entries are read, unless the first of them is no dict there: then all of it.

    Raises:
        OSError: it cannot be read.
        spear.pickles.Foreign: it holds an object of a class that is not known.
        ValueError: it is damaged, or no such file.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = _read_zip(file, size) if file.read(2) == b"PK" else _read_legacy(file)
            wanted = tuple(wanted)
            if wanted and isinstance(content, dict) and isinstance(content.get(wanted[0]), dict):
                content = {key: content[key] for key in wanted if key in content}
            return _Loader(2 * size).load(content)
        except (Malformed, Foreign, OSError):
            raise
        except Exception as error:  # zipfile alone raises seven kinds for damaged archives
            raise Malformed(f"{str(error).partition(chr(10))[0][:200]}, {type(error).__name__}") from error


class _Loader:
    """Replaces stored tensors inside plain values by tensors, each container once.

    Args:
        most_bytes: of all tensors together. Views that overlap could ask for any number of times the file's size.
    """

    def __init__(self, most_bytes: int):
        self.left = most_bytes
        self.done: dict[int, Any] = {}

    def load(self, value: Any, depth: int = 0) -> Any:
        """The value with tensors; records and the like stay as they are."""
        if depth > _DEEPEST:
            raise Malformed(f"values inside more than {_DEEPEST} others")
        if not isinstance(value, dict | list | tuple | _Stored | Record):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._new(value, depth + 1)
        return self.done[id(value)]

    def _new(self, value: Any, depth: int) -> Any:
        if isinstance(value, _Stored):
            self.left -= value.num_bytes
            if self.left < 0:
                raise Malformed("tensors with more values than the file holds")
            return value.load()
        if isinstance(value, Record):
            return self._array(value) if value.name == "numpy.ndarray" else value
        self.done[id(value)] = None  # what contains itself contains None instead
        if isinstance(value, dict):
            return {key: self.load(item, depth) for key, item in value.items()}
        return type(value)(self.load(item, depth) for item in value)

    def _array(self, value: Record) -> Tensor:
        """A tensor with the values of a numpy array."""
        _, shape, dtype, columns_first, data = value.state
        if isinstance(data, Record):  # bytes, in the protocol that torch writes
            data = data.arguments[0].encode("latin1")
        self.left -= len(data)
        if self.left < 0 or columns_first or dtype.name != "numpy.dtype" or dtype.state[1] == ">":
            raise Malformed("a numpy array that is not plain")
        return torch.frombuffer(bytearray(data), dtype=_NUMPY[dtype.arguments[0]]).view(shape)


# The two formats ----------------------------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, size: int) -> Any:
    archive = zipfile.ZipFile(file)
    records = {info.filename: info for info in archive.infolist()}
    # Compressed or overlapping records could hold any number of times the file's size.
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in records.values()):
        raise Malformed("compressed or encrypted records, which torch.save never writes")
    if len(records) != len(archive.infolist()) or sum(info.file_size for info in records.values()) > size:
        raise Malformed(f"records of more than the file's {size} bytes")
    programs = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
    if len(programs) != 1:
        raise Malformed("a zip archive without data.pkl, not written by torch.save")
    folder = programs[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in records:
        raise Malformed("TorchScript, which is a program: save its state_dict() with torch.save")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in records else sys.byteorder.encode()
    if order != sys.byteorder.encode():
        raise Malformed(f"numbers of byte order {order[:8]!r}")
    if records[programs[0]].file_size > _LARGEST_PICKLE_BYTES:
        raise Malformed(f"a data.pkl of more than {_LARGEST_PICKLE_BYTES} bytes")
    storages: dict[Any, _Storage] = {}

    def persistent(identifier: Any) -> _Storage:
        dtype, key, numel, _ = _storage_id(identifier)
        if key not in storages:
            info = records.get(f"{folder}data/{key}")
            if info is None or numel * dtype.itemsize > info.file_size:
                raise Malformed(f"no whole record data/{key}")
            storages[key] = _Storage(numel, dtype, lambda _: _record(archive, info))
        return storages[key]

    return pickles.read(archive.read(programs[0]), _TABLE, persistent)


def _record(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    """The bytes of a record, compared with its checksum."""
    content = torch.empty(info.file_size, dtype=torch.uint8)
    view, done = memoryview(content.numpy()), 0
    with archive.open(info) as source:
        while piece := source.read(_PIECE_BYTES):
            view[done : done + len(piece)] = piece
            done += len(piece)
    if done != info.file_size:
        raise Malformed(f"a record {info.filename} that ends early")
    return content


def _read_legacy(file: BinaryIO) -> Any:
    """Pickles one after the other (magic number, version, machine, content, keys of storages), then the storages."""
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    storages: dict[Any, _Storage] = {}

    def persistent(identifier: Any) -> _Storage:
        dtype, key, numel, view = _storage_id(identifier)
        whole = storages.setdefault(key, _Storage(numel, dtype))
        if view is None:
            return whole
        _, start, length = view
        return _Storage(_count(length), dtype, start=_count(start), of=whole)

    magic = pickles.read(mapped, {}, persistent) if mapped[:1] == b"\x80" else None
    if magic != _LEGACY_MAGIC:
        raise Malformed("not written by torch.save")
    pickles.read(mapped, {}, persistent), pickles.read(mapped, {}, persistent)
    content = pickles.read(mapped, _TABLE, persistent)
    for key in pickles.read(mapped, {}, persistent):
        storage = storages[key]
        (count,) = struct.unpack("<q", mapped.read(8))
        start, length = mapped.tell(), count * storage.dtype.itemsize
        if count != storage.numel or start + length > len(mapped):
            raise Malformed("storages that end early")
        mapped.seek(length, os.SEEK_CUR)
        storage.read = functools.partial(_copy, mapped, start)
    return content


def _copy(mapped: mmap.mmap, start: int, length: int) -> Tensor:
    content = torch.empty(length, dtype=torch.uint8)
    memoryview(content.numpy())[:] = memoryview(mapped)[start : start + length]
    return content


# What stands for names ----------------------------------------------------------------------------------------------


def _storage_id(identifier: Any) -> tuple[torch.dtype, Any, int, tuple | None]:
    """Type, key, number of elements and view of ('storage', type, key, device, elements[, view])."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise Malformed("a persistent id that is no storage")
    _, dtype, key, _, numel, *view = identifier
    if not isinstance(dtype, torch.dtype) or not isinstance(key, str | int):
        raise Malformed("a storage without type or key")
    return dtype, key, _count(numel), view[0] if view else None


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**60:
        raise Malformed("a size that is none")
    return value


def _tensor(storage, offset, shape, stride, requires_grad=False, hooks=None, *more) -> _Stored:
    if not isinstance(storage, _Storage) or len(shape) != len(stride) or len(shape) > 64:
        raise Malformed("a tensor without storage or shape")
    sizes = [tuple(_count(number) for number in numbers) for numbers in (shape, stride)]
    return _Stored(storage, _count(offset), *sizes)


def _tensor_of_type(storage, offset, shape, stride, requires_grad, hooks, dtype, *more) -> _Stored:
    tensor = _tensor(storage, offset, shape, stride)
    tensor.dtype = dtype if isinstance(dtype, torch.dtype) else None
    return tensor


def _first(value, *more) -> Any:
    return value


def _with_attributes(function, kind, arguments, state) -> Any:
    return function.make(*arguments)


_INERT = [
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local")
      for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    "argparse.Namespace",
    "_codecs.encode",
    "builtins.set", "builtins.frozenset", "builtins.complex", "builtins.bytearray", "builtins.slice",
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
    "numpy.dtype", "numpy.ndarray",
    "torch.device", "torch.serialization._get_layout", "torch.torch_version.TorchVersion",
]  # fmt: skip
_TABLE: dict[str, Any] = {name: record(name) for name in _INERT}
_TABLE |= {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
for _name, _dtype in _DTYPES.items():
    _TABLE |= dict.fromkeys([f"{place}.{_name}Storage" for place in ("torch", "torch.cuda", "torch.storage")], _dtype)
_TABLE |= dict.fromkeys(["collections.OrderedDict", "icefall.utils.AttributeDict", "builtins.dict"], Maker(dict))
_TABLE |= dict.fromkeys([f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")],
                        Maker(lambda *_: Record("numpy.ndarray", ())))  # fmt: skip
_TABLE |= {
    "torch.Size": Maker(_first),
    "torch._utils._rebuild_tensor": Maker(_tensor),
    "torch._utils._rebuild_tensor_v2": Maker(_tensor),
    "torch._utils._rebuild_tensor_v3": Maker(_tensor_of_type),
    "torch._utils._rebuild_parameter": Maker(_first),
    "torch._utils._rebuild_parameter_with_state": Maker(_first),
    "torch._tensor._rebuild_from_type_v2": Maker(_with_attributes),
    "torch.nn.parameter.Parameter": record("torch.nn.parameter.Parameter"),
    "torch.Tensor": record("torch.Tensor"),
}
