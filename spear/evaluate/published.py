"""Tables of scores under published protocols, with others' numbers below ours, marked as published."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.evaluate.arch.layouts import CORPORA
from spear.evaluate.esc50 import BEST, LAST
from spear.evaluate.hear.summary import hear_lines, is_whole, references


def published_lines(runs: Sequence[dict]) -> list[str]:
    """The tables of all suites that have some, and what must be known of them."""
    return [*hear_lines(runs), *esc50_lines(runs), *arch_lines(runs)]


def esc50_lines(runs: Sequence[dict]) -> list[str]:
    """Ways to report ESC-50 in columns of their own: they are never to be mixed."""
    ours = [run for run in runs if run.get("protocol") == run.get("task") == "esc50" and is_whole(run, 1500)]
    if not ours:
        return []
    lines = ["| ESC-50, in percent | clean | last epoch | best on test | HEAR's predictor |", "|" + " --- |" * 5]
    for run in ours:
        values = [run["score"], *(run["extra_scores"].get(name, float("nan")) for name in (LAST, BEST))]
        lines.append(" | ".join([f"| {run['upstream']['name']}", *(f"{100 * v:.1f}" for v in values), "- |"]))
    known = references()
    place = [task["short"] for task in known["tasks"]].index("ESC")
    for row in known["rows"]:
        if row["values"][place] is not None:
            lines.append(f"| published ({row['source']}): {row['name']} | - | - | - | {row['values'][place]:.1f} |")
    note = f"Published rows ({known['version']}) are others' numbers, as they were printed; no two columns compare."
    return ["\n".join(lines), note]


@functools.cache
def _arch_rows() -> dict:
    return fs.read_json(Path(__file__).with_name("arch") / "reference.json")


def arch_lines(runs: Sequence[dict]) -> list[str]:
    """Our scores on ARCH, clean and as published apart, with the published rows below."""
    short = {corpus.name: corpus.short for corpus in CORPORA}
    ours: dict[str, dict[str, float]] = {}
    for run in runs:
        if run.get("protocol") in ("arch", "arch_legacy") and run["task"] in short and is_whole(run, 10**9):
            row = f"{run['upstream']['name']} ({'clean' if run['protocol'] == 'arch' else 'as published'})"
            ours.setdefault(row, {})[short[run["task"]]] = 100 * run["score"]
    if not ours:
        return []
    known = _arch_rows()
    columns = [name for name in known["columns"] if any(name in row for row in ours.values())]
    published = {f"published: {row['name']}": dict(zip(known["columns"], row["values"])) for row in known["rows"]}
    lines = ["| " + " | ".join(["ARCH, in percent", *columns, f"mean of {len(columns)}"]) + " |"]
    lines.append("|" + " --- |" * (len(columns) + 2))
    for name, values in (ours | published).items():
        found = [values.get(column) for column in columns]
        mean = "-" if None in found else f"{np.mean(found):.1f}"
        lines.append("| " + " | ".join([name, *("-" if v is None else f"{v:.1f}" for v in found), mean]) + " |")
    note = f"Published rows ({known['version']}) are others' numbers, as they were printed, of the published protocol."
    return ["\n".join(lines), note]
