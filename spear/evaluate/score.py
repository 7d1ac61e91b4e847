"""superb_s, the overall score of the SUPERB board (SUPERB@SLT2022), and how it is said of runs.

The mean over tasks of how far an upstream has come from the filterbank (0) to the best of 2021 (1), times 1000. The
reference rows are in `reference.json` beside this file; `version` changes when one of them does.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.errors import ConfigError
from spear.evaluate.doubts import cut_short


@functools.cache
def references() -> dict:
    """The content of reference.json: version, metrics of each task, rows in percent, which rows are floor and top."""
    return fs.read_json(Path(__file__).with_name("reference.json"))


def superb_s(row: Mapping[str, Sequence[float]], floor: str | None = None, top: str | None = None) -> float:
    """The score of an upstream over the tasks of its row.

    Args:
        row: task -> values in percent, in the order of `references()["metrics"]`; comparable with published totals only
            when it holds all ten tasks.
        floor, top: names of reference rows; those of the board by default.

    Raises:
        ConfigError: no task, an unknown one, or another number of values than the task has metrics.
    """
    known = references()
    low = known["rows"][floor or known["reference"]["floor"]]
    high = known["rows"][top or known["reference"]["top"]]
    wrong = [task for task in row if task not in low or len(row[task]) != len(known["metrics"][task])]
    if wrong or not row:
        raise ConfigError(
            f"superb_s of the tasks {', '.join(row) or 'none'}",
            "; ".join(f"{task}: {', '.join(names)}" for task, names in known["metrics"].items()),
            "give every task all its metrics",
        )
    shares = [np.mean([(value - a) / (b - a) for value, a, b in zip(row[task], low[task], high[task])]) for task in row]
    return 1000 * float(np.mean(shares))


def overall_lines(runs: Sequence[dict]) -> list[str]:
    """superb_s of every upstream scored under the published protocol, clean and legacy, and over how many tasks.

    A task that was cut short (fewer steps or items) does not count, and the line says so.
    """
    index = {(run["task"], run["upstream"]["name"]): run for run in runs}
    known, lines = references(), []
    for name in dict.fromkeys(run["upstream"]["name"] for run in runs):
        row, legacy, cut = {}, {}, []
        for task, metrics in known["metrics"].items():
            run = index.get((task, name))
            if run is None or run["protocol"] != "superb":
                continue
            if cut_short(run):
                cut.append(task)
                continue
            row[task] = [100 * run["scores"][metric] for metric in metrics]
            legacy[task] = [100 * run["legacy"]["score"]] if run.get("legacy") else row[task]
        short = f" ({', '.join(cut)} cut short by --max-steps or --max-items)" if cut else ""
        if row:
            whole = "" if len(row) == len(known["metrics"]) else f" over {', '.join(row)} alone: not comparable"
            lines.append(f"superb_s of {name}: {superb_s(row):.1f}, near-legacy {superb_s(legacy):.1f}{whole}{short}")
        elif cut:
            lines.append(f"superb_s of {name}: none{short}")
    return lines
