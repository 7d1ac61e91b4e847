"""Logging to terminal and file, and progress with rate and remaining time."""

import logging
import sys
import time
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s [%(name)s] %(message)s"


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; configure output once with `setup`."""
    return logging.getLogger(name)


def setup(log_file: str | Path | None = None, rank: int = 0, level: int = logging.INFO) -> None:
    """Sends log lines to stderr (rank 0; other ranks only warnings) and, when given, to a file per rank."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setLevel(level if rank == 0 else logging.WARNING)
    if log_file is not None:
        path = Path(log_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path if rank == 0 else path.with_suffix(f".rank{rank}{path.suffix}")
        # File names that are not UTF-8 are written with escapes.
        handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
    logging.basicConfig(level=level, format=FORMAT, datefmt="%H:%M:%S", handlers=handlers, force=True)
    for noisy in ("matplotlib", "numba", "urllib3", "tensorboard"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def human_seconds(seconds: float) -> str:
    """75 -> '1m15s'."""
    seconds = int(round(seconds))
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


def human_flops(count: float) -> str:
    """1234567890 -> '1.23 GFLOP'."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    return f"{count:.3g} EFLOP"


class Progress:
    """Logs `done/total, rate, remaining` at most every `every_seconds`.

    Args:
        total: number of units of work.
        label: what is being done.
        unit: the name of a unit, plural.
    """

    def __init__(self, total: int, label: str, unit: str = "items", every_seconds: float = 10.0):
        self.total, self.label, self.unit, self.every_seconds = total, label, unit, every_seconds
        self.done = 0
        self._start = self._last = time.monotonic()
        self._logger = get_logger("progress")

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more units; `note` is appended to the line (the last id, for example)."""
        self.done += count
        now = time.monotonic()
        if now - self._last >= self.every_seconds or (self.done >= self.total and now - self._start > 1):
            self._last = now
            rate = self.done / max(now - self._start, 1e-9)
            left = human_seconds((self.total - self.done) / rate) if rate else "?"
            self._logger.info(
                "%s: %d/%d %s, %.1f/s, %s left%s",
                self.label,
                self.done,
                self.total,
                self.unit,
                rate,
                left,
                f" ({note})" if note else "",
            )

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start
