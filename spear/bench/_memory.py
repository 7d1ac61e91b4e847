"""Peak memory of this process, from the kernel (Linux; None elsewhere), or of its tensors on a GPU."""

import re
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes(device: str = "cpu") -> int | None:
    """Memory in use now."""
    return torch.cuda.memory_allocated() if device == "cuda" else _status("VmRSS")


def reset_peak(device: str = "cpu") -> None:
    """Lets the peak begin again at the memory in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        _CLEAR.write_text("5")
    except OSError:
        pass  # not Linux, or not allowed: the peak is then that of the whole life of the process


def peak_bytes(device: str = "cpu") -> int | None:
    """Most memory in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def wait_for(device: str) -> None:
    """Returns when the device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
