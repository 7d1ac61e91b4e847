"""Sums of what happens between two log lines, and where they go: log, metrics.jsonl, TensorBoard."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from spear import dist, fs
from spear.errors import DataError
from spear.log import get_logger, human_seconds
from spear.train.objectives import Objective

logger = get_logger(__name__)
PARTS = ("masked", "unmasked")


class Sums:
    """Statistics of heads, summed; they stay on the device until `reduce`.

    Args:
        objectives: by stream.
        device: where the sums live.
    """

    def __init__(self, objectives: Mapping[str, Objective], device: torch.device):
        self.objectives = objectives
        self._columns = [2 + len(objective.measures) for objective in objectives.values()]
        self._sums = torch.zeros(2, sum(self._columns), dtype=torch.float64, device=device)

    def add(self, stats: dict[str, Tensor]) -> None:
        """Adds the statistics of a batch, see `spear.models.heads.HeadOutput`."""
        self._sums += torch.cat([stats[name] for name in self.objectives], dim=1)

    def reduce(self) -> dict[str, float]:
        """Means over all ranks, `loss/<stream>/masked` and so on; kinds of frames that did not occur are left out."""
        row = {}
        by_stream = dist.sum_(self._sums).cpu().split(self._columns, dim=1)
        for (name, objective), sums in zip(self.objectives.items(), by_stream):
            for part, (loss, count, *measures) in zip(PARTS, sums.tolist()):
                if count:
                    row[f"loss/{name}/{part}"] = loss / count
                    row |= {f"{of}/{name}/{part}": value / count for of, value in zip(objective.measures, measures)}
        return row


class Window:
    """Statistics of the steps since the last log line.

    Args:
        objectives: by stream.
        device: where the sums live.
    """

    def __init__(self, objectives: Mapping[str, Objective], device: torch.device):
        self.device, self.sums = device, Sums(objectives, device)
        self.start = time.perf_counter()
        self.host = dict.fromkeys(("audio_seconds", "wait_seconds", "padded_seconds"), 0.0)
        self.loading: Counter = Counter()
        self.batches = 0

    def add(self, stats: dict[str, Tensor], loading: dict[str, float], **host: float) -> None:
        """Adds a batch's statistics per stream, seconds of loading by part, and numbers known on the host."""
        self.batches += 1
        self.loading.update(loading)
        self.sums.add(stats)
        for name, value in host.items():
            self.host[name] += value

    @property
    def elapsed(self) -> float:
        """Seconds since the window began."""
        return max(time.perf_counter() - self.start, 1e-9)

    def reduce(self) -> dict[str, float]:
        """Means over all ranks: loss and measures per stream, masked and unmasked frames apart."""
        elapsed = self.elapsed
        host = torch.tensor([self.host["audio_seconds"], self.host["wait_seconds"], elapsed], dtype=torch.float64)
        host = dist.sum_(host.to(self.device)).tolist()
        row = {"audio_seconds_per_second": host[0] / elapsed, "data_wait_share": host[1] / host[2]}
        return row | self.sums.reduce()


class MetricsLog:
    """Writes rows of numbers; on ranks other than 0 it does nothing.

    Args:
        objectives: by stream; they know what their numbers are.
        exp_dir: `metrics.jsonl` and `tensorboard/` go here.
        is_main: whether this process writes.
        num_steps: for the remaining time.
        resume_step: rows of later steps, from a run that was killed, are dropped.
        tensorboard: write event files too.
        run_id: stands in every row; rows of other runs are dropped.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        exp_dir: str | Path,
        is_main: bool,
        num_steps: int,
        resume_step: int,
        tensorboard: bool,
        run_id: str = "",
    ):
        self.objectives = objectives
        self.run = {"run_id": run_id} if run_id else {}
        self.is_main, self.num_steps, self.resume_step = is_main, num_steps, resume_step
        self.start = time.perf_counter()
        self.writer = None
        if not is_main:
            return
        self.path = Path(exp_dir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_rows(self.path, resume_step, run_id)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

            self.writer = SummaryWriter(str(Path(exp_dir) / "tensorboard"), purge_step=resume_step)

    def write(self, step: int, row: dict[str, float], prefix: str = "", words: str = "") -> None:
        """Appends a row; `prefix` is put before its names (`valid/`), and `words` say it to readers of the log."""
        if not self.is_main:
            return
        named = {f"{prefix}{name}": value for name, value in row.items()}
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **self.run, **named}) + "\n")
        for name, value in named.items():
            if self.writer and isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)
        logger.info("step %d/%d: %s", step, self.num_steps, words or self._words(step, row, prefix))

    def close(self) -> None:
        """Flushes the event files."""
        if self.writer:
            self.writer.close()

    def _words(self, step: int, row: dict[str, float], prefix: str) -> str:
        done = max(step - self.resume_step, 1)
        left = (time.perf_counter() - self.start) / done * (self.num_steps - step)
        words = []
        for name, objective in self.objectives.items():
            for part in PARTS:
                if f"loss/{name}/{part}" in row:
                    means = [f"{of} {row[f'{of}/{name}/{part}']:.3g}" for of in objective.measures]
                    told = f" ({', '.join(means)})" if means else ""
                    loss = f"{row[f'loss/{name}/{part}']:.3f} {objective.unit}".rstrip()
                    words.append(f"{prefix}{name}/{part} {loss}{told}")
            judged = [number for number in objective.judged if f"{number}/{name}" in row]
            words += [f"{prefix}{number}/{name} {row[f'{number}/{name}']:.4g}" for number in judged]
        line = ", ".join(words)
        if "lr" in row:
            line += (
                f", lr {row['lr']:.4f}, {row['audio_seconds_per_second']:.0f} audio-s/s, "
                f"data wait {100 * row['data_wait_share']:.0f}%, "
                + (f"{100 * row['mfu']:.0f}% of the matmul peak, " if "mfu" in row else "")
                + f"{human_seconds(left)} left"
            )
        return line


def _drop_rows(path: Path, last_step: int, run_id: str) -> None:
    """Removes rows of steps that will be done again, of other runs, and what is no row: half a last line."""
    if not path.exists():
        return
    kept = []
    for number, line in fs.iter_lines(path, escape=True):
        try:
            line.encode()  # of a damaged file, too, the good lines stay
            row = fs.parse_json(line, f"line {number} of {path}")
        except (DataError, UnicodeEncodeError):
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if isinstance(step, int) and step <= last_step and row.get("run_id", run_id) == run_id:
            kept.append(line)
    fs.write_text(path, "".join(line + "\n" for line in kept))
