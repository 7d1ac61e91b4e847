"""Files model.bin of CTranslate2, read without it: a list of variables, each with name, shape, type and values."""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spear import weights

_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_VERSIONS = (5, 6)  # of the file format; both store the same
_MOST_VARIABLES, _MOST_AXES, _LONGEST_NAME = 100_000, 8, 1024


class _Damaged(ValueError):
    """Bytes that are no such file."""


def read(path: str | Path, kind: str) -> dict[str, Tensor]:
    """The variables of a model, on CPU, with those that stand for others under both names.

    Args:
        path: of model.bin.
        kind: of the model, such as WhisperSpec.

    Raises:
        WeightsError: no such file, damaged, or a model of another kind.
    """
    path = weights.check_file(path, "the model.bin of a CTranslate2 model")
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).model(kind)
    except (ValueError, RuntimeError, struct.error, OSError) as error:
        raise weights.WeightsError(
            f"{path} cannot be read ({weights.shown(str(error))})",
            f"a complete CTranslate2 model of kind {kind}",
            "copy or download it again",
        ) from error


class _Reader:
    def __init__(self, content: Any):
        self.content, self.place = content, 0

    def model(self, kind: str) -> dict[str, Tensor]:
        """All variables."""
        version = self.number("<I")
        if version not in _VERSIONS:
            raise _Damaged(f"version {version} of the format, or no such file")
        found = self.text()
        if found != kind:
            raise _Damaged(f"a model of kind {found[:60]}")
        self.number("<I")  # revision of the kind
        tensors: dict[str, Tensor] = {}
        for _ in range(self.count()):
            name = self.text()
            if name in tensors:
                raise _Damaged(f"variable {name[:80]} twice")
            tensors[name] = self.tensor(name)
        for _ in range(self.count()):
            alias, name = self.text(), self.text()
            if name not in tensors:
                raise _Damaged(f"{alias[:80]} for {name[:80]}, which is not there")
            tensors[alias] = tensors[name]
        if self.place != len(self.content):
            raise _Damaged("more bytes than variables")
        return tensors

    def take(self, size: int) -> bytes:
        """The next bytes."""
        start, self.place = self.place, self.place + size
        if self.place > len(self.content):
            raise _Damaged("it ends early")
        return self.content[start : self.place]

    def number(self, form: str) -> int:
        """The next number."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self) -> int:
        """How many follow."""
        count = self.number("<I")
        if count > _MOST_VARIABLES:
            raise _Damaged(f"{count} variables")
        return count

    def text(self) -> str:
        """The next name, which ends in a zero."""
        size = self.number("<H")
        if not 1 <= size <= _LONGEST_NAME:
            raise _Damaged(f"a name of {size} bytes")
        return self.take(size)[:-1].decode()

    def tensor(self, name: str) -> Tensor:
        """The values of the next variable."""
        axes = self.number("<B")
        if axes > _MOST_AXES:
            raise _Damaged(f"variable {name[:80]} of {axes} axes")
        shape = [self.number("<I") for _ in range(axes)]
        kind, size = self.number("<B"), self.number("<I")
        if kind >= len(_DTYPES) or math.prod(shape) * _DTYPES[kind].itemsize != size:
            raise _Damaged(f"variable {name[:80]} of {size} bytes for {shape}")
        content = self.take(size)
        if not content:
            return torch.empty(shape, dtype=_DTYPES[kind])
        return torch.frombuffer(bytearray(content), dtype=_DTYPES[kind]).view(shape)
