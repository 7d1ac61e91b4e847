"""Differences between torch versions live here and nowhere else (supported: 2.6 and later)."""

import contextlib

import torch


def autocast(device_type: str, dtype: torch.dtype | None):
    """`torch.autocast` for a device; a null context when `dtype` is None or float32."""
    if dtype is None or dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.amp.autocast(device_type, dtype=dtype)


def disabled_autocast(device_type: str):
    """A context in which autocast is off, for parts that need float32."""
    return torch.amp.autocast(device_type, enabled=False)


def load_pickle(path) -> dict:
    """`torch.load` of tensors only, on CPU: foreign files cannot run code."""
    return torch.load(path, map_location="cpu", weights_only=True)
