"""Several fine-tunings in one table: a row for each task and encoder, with the mean over seeds."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spear.finetuning.run import score_of


def table(exp_dirs: Iterable[Path]) -> str:
    """A Markdown table of finished fine-tunings.

    Args:
        exp_dirs: of `spear finetune`; those of one task, target and start are one row, whatever their seeds.

    Raises:
        CheckpointError: one of them is not finished.
    """
    rows: dict[tuple, list[dict]] = {}
    for path in exp_dirs:
        found = score_of(path)
        rows.setdefault((found["task"], found["target"], _start(found["init_from"])), []).append(found)
    lines = ["| task | target | from | metric | seeds | score % [95 %] | held out |", "| --- " * 4 + "| --: " * 3 + "|"]
    for (task, target, start), runs in sorted(rows.items()):
        words = ", ".join(_words(run) for run in sorted(runs, key=lambda run: run["seed"]))
        known = [run["value"] for run in runs if run["value"] is not None]
        mean = f"mean {100 * np.mean(known):.1f}: " if len(known) > 1 else ""
        what = f"{runs[0]['items']} {runs[0]['of']}"
        lines.append(f"| {task} | {target} | {start} | {runs[0]['metric']} | {len(runs)} | {mean}{words} | {what} |")
    return "\n".join(lines)


def _start(init_from: str) -> str:
    """The encoder in a word: places differ between machines."""
    kind, _, path = init_from.rpartition(":")
    return f"{kind}:{Path(path).name}" if kind == "random" else Path(init_from).name


def _words(run: dict) -> str:
    if run["value"] is None:
        return "none"
    low, high = (f"{100 * bound:.1f}" for bound in run["interval_95"])
    return f"{100 * run['value']:.1f} [{low}, {high}]"
