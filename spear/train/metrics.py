"""Sums of what happens between two log lines, and where they go: log, metrics.jsonl, TensorBoard."""

import json
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from spear import dist, fs
from spear.errors import DataError
from spear.log import get_logger, human_seconds

logger = get_logger(__name__)


class Window:
    """Statistics of the steps since the last log line; device tensors stay there until `reduce`.

    Args:
        streams: names of the target streams.
        device: where the sums live.
    """

    def __init__(self, streams: list[str], device: torch.device):
        self.streams, self.device = streams, device
        self.start = time.perf_counter()
        self.sums = torch.zeros(len(streams), 2, 3, dtype=torch.float64, device=device)
        self.host = dict.fromkeys(("audio_seconds", "wait_seconds", "padded_seconds"), 0.0)
        self.loading: Counter = Counter()
        self.batches = 0

    def add(self, stats: dict[str, Tensor], loading: dict[str, float], **host: float) -> None:
        """Adds a batch's (2, 3) statistics per stream, seconds of loading by part, and numbers known on the host."""
        self.batches += 1
        self.loading.update(loading)
        self.sums += torch.stack([stats[name] for name in self.streams])
        for name, value in host.items():
            self.host[name] += value

    @property
    def elapsed(self) -> float:
        """Seconds since the window began."""
        return max(time.perf_counter() - self.start, 1e-9)

    def reduce(self) -> dict[str, float]:
        """Means over all ranks: loss and accuracy per stream, masked and unmasked frames apart."""
        elapsed = self.elapsed
        host = torch.tensor([self.host["audio_seconds"], self.host["wait_seconds"], elapsed], dtype=torch.float64)
        host = dist.sum_(host.to(self.device)).tolist()
        sums = dist.sum_(self.sums).cpu()
        row = {"audio_seconds_per_second": host[0] / elapsed, "data_wait_share": host[1] / host[2]}
        row.update(token_metrics(self.streams, sums))
        return row


def token_metrics(streams: list[str], sums: Tensor) -> dict[str, float]:
    """(streams, 2, 3) sums -> `loss/<stream>/masked` and so on; kinds of frames that did not occur are left out."""
    row = {}
    for index, stream in enumerate(streams):
        for part, name in enumerate(("masked", "unmasked")):
            loss, count, correct = sums[index, part].tolist()
            if count:
                row[f"loss/{stream}/{name}"] = loss / count
                row[f"accuracy/{stream}/{name}"] = correct / count
    return row


class MetricsLog:
    """Writes rows of numbers; on ranks other than 0 it does nothing.

    Args:
        exp_dir: `metrics.jsonl` and `tensorboard/` go here.
        is_main: whether this process writes.
        num_steps: for the remaining time.
        resume_step: rows of later steps, from a run that was killed, are dropped.
        tensorboard: write event files too.
        run_id: stands in every row; rows of other runs are dropped.
    """

    def __init__(
        self,
        exp_dir: str | Path,
        is_main: bool,
        num_steps: int,
        resume_step: int,
        tensorboard: bool,
        run_id: str = "",
    ):
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

    def write(self, step: int, row: dict[str, float], prefix: str = "") -> None:
        """Appends a row; `prefix` is put before loss and accuracy names (`valid/`)."""
        if not self.is_main:
            return
        named = {f"{prefix}{name}": value for name, value in row.items()}
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **self.run, **named}) + "\n")
        for name, value in named.items():
            if self.writer and isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)
        logger.info("%s", self._line(step, named))

    def close(self) -> None:
        """Flushes the event files."""
        if self.writer:
            self.writer.close()

    def _line(self, step: int, row: dict[str, float]) -> str:
        done = max(step - self.resume_step, 1)
        left = (time.perf_counter() - self.start) / done * (self.num_steps - step)
        if "probe/effective_rank" in row:
            return f"step {step}/{self.num_steps}: {_probe_words(row)}"
        losses = ", ".join(f"{k.removeprefix('loss/')} {v:.3f}" for k, v in row.items() if "loss/" in k)
        right = ", ".join(f"{100 * v:.0f}%" for k, v in row.items() if "accuracy/" in k)
        line = f"step {step}/{self.num_steps}: {losses} nats (right {right})"
        if "lr" in row:
            line += (
                f", lr {row['lr']:.4f}, {row['audio_seconds_per_second']:.0f} audio-s/s, "
                f"data wait {100 * row['data_wait_share']:.0f}%, "
                + (f"{100 * row['mfu']:.0f}% of the matmul peak, " if "mfu" in row else "")
                + f"{human_seconds(left)} left"
            )
        return line


def _probe_words(row: dict[str, float]) -> str:
    """A row of the collapse watch in words: directions in use, and perplexity of the predicted and target tokens."""
    words = [f"rank of the states {row['probe/effective_rank']:.1f}"]
    for name, predicted in row.items():
        if name.endswith("/predicted"):
            stream = name.removeprefix("probe/perplexity/").removesuffix("/predicted")
            target = row[name.removesuffix("predicted") + "target"]
            words.append(f"{stream} predicts {predicted:.0f} codes where its targets use {target:.0f}")
    return ", ".join(words)


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
