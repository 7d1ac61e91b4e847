"""Writes small checkpoints of TensorFlow and models of CTranslate2, as these programs do, and folders of teachers."""

import json
import struct
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def _crc(content: bytes) -> int:
    """CRC-32C by its definition, masked as LevelDB does."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    out, last = b"", b""
    for key, value in entries:
        shared = next((n for n, (a, b) in enumerate(zip(key, last)) if a != b), min(len(key), len(last)))
        out += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        last = key
    out += struct.pack("<II", 0, 1) + b"\0"
    return out + struct.pack("<I", _crc(out))


def write_bundle(folder, tensors: dict[str, torch.Tensor], name: str = "model"):
    """A checkpoint as TensorFlow writes it, its index in two blocks."""
    numbers = {torch.float32: 1, torch.int64: 9, torch.float16: 19}
    entries, data = [(b"", _field(1, 1) + _field(3, _field(1, 1)))], b""
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        content = tensor.numpy().tobytes()
        shape = b"".join(_field(2, _field(1, size)) for size in tensor.shape)
        record = _field(1, numbers[tensor.dtype]) + _field(2, shape) + (_field(4, len(data)) if data else b"")
        record += _field(5, len(content)) + bytes([6 << 3 | 5]) + struct.pack("<I", _crc(content))
        entries.append((key.encode(), record))
        data += content
    half = len(entries) // 2
    table, handles = b"", []
    for part in (entries[:half], entries[half:]):
        block = _block(part)
        handles.append((part[-1][0] + b"~", _varint(len(table)) + _varint(len(block) - 5)))
        table += block
    places = []
    for block in (_block([]), _block(handles)):
        places.append(_varint(len(table)) + _varint(len(block) - 5))
        table += block
    table += b"".join(places).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / f"{name}.index").write_bytes(table)
    (folder / f"{name}.data-00000-of-00001").write_bytes(data)
    return folder / f"{name}.index"


def write_ctranslate2(path, tensors: dict[str, torch.Tensor], kind: str, aliases=()):
    """A model.bin of version 6."""
    numbers = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", 6) + text(kind) + struct.pack("<II", 3, len(tensors))
    for name, tensor in tensors.items():
        content = tensor.contiguous().numpy().tobytes()
        out += text(name) + bytes([tensor.dim()]) + struct.pack(f"<{tensor.dim()}I", *tensor.shape)
        out += bytes([numbers[tensor.dtype]]) + struct.pack("<I", len(content)) + content
    out += struct.pack("<I", len(aliases)) + b"".join(text(alias) + text(name) for alias, name in aliases)
    path.write_bytes(out)
    return path


def installed(folder: Path, network: nn.Module) -> Path:
    """A folder as `spear teachers install` writes it, with random weights; its card alone is made up."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(value.shape) * 0.3 for name, value in network.state_dict().items() if value.dim()}
    tensors |= {name: value.abs() + 0.5 for name, value in tensors.items() if name.endswith("running_var")}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "card.json").write_text(json.dumps({"package": "made up"}))
    return folder
