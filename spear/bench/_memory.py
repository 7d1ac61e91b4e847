"""Peak memory of this process, from the kernel (Linux); None elsewhere."""

import re
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes() -> int | None:
    """Memory in use now."""
    return _status("VmRSS")


def reset_peak() -> None:
    """Lets the peak begin again at the memory in use now."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        pass  # not Linux, or not allowed: the peak is then that of the whole life of the process


def peak_bytes() -> int | None:
    """Most memory in use since `reset_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
