"""Memory of a process that computes on a CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt(3)
_LIMIT_BYTES = 2**31 - 1
_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tells glibc to reuse large blocks rather than to hand them back to the kernel at once.

    A training step, or a batch through a frozen encoder, allocates and frees the same hundreds of megabytes each time;
    by default the kernel takes them back and clears every page again, up to a fifth of the time. Called before work on
    a CPU begins: in training, extraction, codebook training, and by `spear.executor` for every unit of work. The
    process then stays as large as it was at its largest.

    Returns:
        Whether it took effect: False on systems without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_TRIM_THRESHOLD, _LIMIT_BYTES), (_TOP_PAD, _PAD_BYTES), (_MMAP_MAX, 0))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
