"""What is said of HEAR as a whole: means over tasks, the leaderboard's standardised score, and published rows.

The rows are in `reference.json`; they are others' numbers, shown beside ours and marked as published.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spear import fs


@functools.cache
def references() -> dict:
    """The content of reference.json: version, tasks with the leaderboard's mean and deviation, rows in percent."""
    return fs.read_json(Path(__file__).with_name("reference.json"))


def short_name(folder: str) -> str:
    """The column of a task of the benchmark by its folder, such as ESC; empty for another one."""
    task, _, rest = folder.partition("-")
    task = task.partition("_fold")[0]
    found = [t for t in references()["tasks"] if t["task"] == task and t["mode"] in ("", rest.rpartition("-")[2])]
    return found[0]["short"] if found else ""


def standardised(scores: Mapping[str, float]) -> float:
    """The mean over tasks of how many deviations a score is above the mean of the leaderboard's 34 rows, within 1.

    The leaderboard fills in tasks that a row lacks; here they do not count.

    Args:
        scores: in percent by column.
    """
    tasks = {task["short"]: task for task in references()["tasks"]}
    parts = [(value - tasks[name]["mean"]) / tasks[name]["deviation"] for name, value in scores.items()]
    return float(np.mean(np.clip(parts, -1, 1))) if parts else float("nan")


def is_whole(run: dict, max_steps: int) -> bool:
    """Whether a run is of all rows and steps, and of a whole corpus: only then others' numbers stand beside it."""
    partial = any("partial copy" in doubt for doubt in run.get("doubts") or ())
    return not (run.get("max_items") or partial or run.get("settings", {}).get("max_steps", 0) < max_steps)


def hear_lines(runs: Sequence[dict]) -> list[str]:
    """A table of our scores under the published protocol with the published rows below; nothing where there are none.

    A run of fewer items or steps than published, or of a partial copy, is left out.
    """
    ours: dict[str, dict[str, float]] = {}
    for run in runs:
        name = short_name(run["task"])
        if run.get("protocol") == "hear" and name and is_whole(run, 10**9):
            row = f"{run['upstream']['name']} ({run['settings'].get('states', 'last')})"
            ours.setdefault(row, {})[name] = 100 * run["score"]
    if not ours:
        return []
    known = references()
    columns = [task["short"] for task in known["tasks"] if any(task["short"] in row for row in ours.values())]
    shorts = [task["short"] for task in known["tasks"]]
    rows = list(ours.items())
    for row in known["rows"]:
        values = {name: v for name, v in zip(shorts, row["values"]) if v is not None and name in columns}
        rows.append((f"published ({row['source']}): {row['name']}", values))
    lines = ["| " + " | ".join(["HEAR, in percent", *columns, f"mean of {len(columns)}", "standardised"]) + " |"]
    lines.append("|" + " --- |" * (len(columns) + 3))
    for name, values in rows:
        whole = len(values) == len(columns)
        cells = [f"{values[c]:.1f}" if c in values else "-" for c in columns]
        means = [f"{np.mean(list(values.values())):.1f}", f"{standardised(values):.2f}"] if whole else ["-", "-"]
        lines.append("| " + " | ".join([name, *cells, *means]) + " |")
    note = f"Published rows ({known['version']}) are others' numbers, as they were printed."
    if len(columns) < len(shorts):
        note += f" Means over {len(columns)} of 19 tasks are no mean of HEAR."
    return ["\n".join(lines), "\n".join(_domain_lines(rows, columns)), note]


def _domain_lines(rows: Sequence[tuple[str, Mapping[str, float]]], columns: Sequence[str]) -> list[str]:
    """Means over the tasks of each domain, of rows that have every column; published means below."""
    known = references()
    of = {domain: [] for domain in ("environment", "speech", "music")}
    for task in known["tasks"]:
        of[task["domain"]] += [task["short"]] * (task["short"] in columns)
    of = {domain: names for domain, names in of.items() if names}
    header = [f"{domain}, mean of {', '.join(names)}" for domain, names in of.items()]
    lines = ["| " + " | ".join(["HEAR by domain, in percent", *header]) + " |", "|" + " --- |" * (len(of) + 1)]
    found = [
        (name, [np.mean([v[c] for c in names]) for names in of.values()]) for name, v in rows if len(v) == len(columns)
    ]
    if len(columns) == len(known["tasks"]):  # others' means are over whole domains
        found += [
            (f"published ({row['source']}, its own domains): {row['name']}", [row["values"][domain] for domain in of])
            for row in known["domain_rows"]
        ]
    return lines + ["| " + " | ".join([name, *(f"{value:.1f}" for value in values)]) + " |" for name, values in found]
