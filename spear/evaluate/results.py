"""Run files to tables: the terminal and RESULTS.md."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spear import fs, records
from spear.errors import DataError
from spear.evaluate.doubts import MARK, doubt_lines, doubts_of
from spear.evaluate.metrics import HIGHER_IS_BETTER, is_better, unit, written
from spear.evaluate.published import published_lines
from spear.evaluate.runs import FOLDER
from spear.evaluate.score import overall_lines
from spear.log import get_logger

logger = get_logger(__name__)
KIND_ORDER = {"checkpoint": 0, "random": 1, "fbank": 2}


@dataclass
class _Upstream:
    name: str
    kind: str
    hash: str


@dataclass
class _NumItems:
    train: int
    dev: int
    test: int


@dataclass
class _Run:
    """What tables read of a run file."""

    suite: str
    task: str
    metric: Literal[tuple(HIGHER_IS_BETTER)]
    score: float
    interval: tuple[float, float]
    upstream: _Upstream
    num_items: _NumItems
    skipped: list
    learning_rate: float
    seeds: list[int]
    command: str
    commit: str
    hardware: str
    inputs_sha256: str


def load_runs(exp_dir: str | Path) -> list[dict]:
    """All run files below `exp_dir/evaluate`, sorted by suite, task and upstream; an empty list when there are none.

    A damaged one is left out, with a warning that names it.
    """
    runs = []
    for path in fs.finished(Path(exp_dir) / FOLDER, "*/*/*.json"):
        try:
            run = fs.read_json(path)
            records.convert(run, _Run, str(path))
            runs.append(run)
        except DataError as error:
            logger.warning("no score of %s: expected %s", error.found, error.expected)
    return runs


def task_names(runs: Iterable[dict]) -> list[str]:
    """Tasks in the order of their first run."""
    return list(dict.fromkeys(run["task"] for run in runs))


def upstream_names(runs: Iterable[dict]) -> list[str]:
    """Upstreams: checkpoints first, then random encoders, then the filterbank."""
    found = {run["upstream"]["name"]: KIND_ORDER.get(run["upstream"]["kind"], 3) for run in runs}
    return sorted(found, key=lambda name: (found[name], name))


def index_runs(runs: Iterable[dict]) -> dict[tuple[str, str], dict]:
    """(task, upstream) -> run."""
    return {(run["task"], run["upstream"]["name"]): run for run in runs}


def best_upstream(runs: Sequence[dict]) -> dict | None:
    """The run with the best score among those of one task; None without any."""
    best = None
    for run in runs:
        if best is None or is_better(run["metric"], run["score"], best["score"]):
            best = run
    return best


def format_score(run: dict, with_interval: bool = True) -> str:
    """'87.5 [84.1, 90.2]', in the metric's unit; with a mark where `doubt_lines` say something about it."""
    text = written(run["metric"], run["score"])
    if with_interval and np.isfinite(run["interval"]).all():
        text += f" [{', '.join(written(run['metric'], value) for value in run['interval'])}]"
    return f"{text} {MARK}" if doubts_of(run) else text


def table_cells(runs: Sequence[dict]) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows (task, metric, a score for each upstream), and the column of the best score of each row or -1."""
    upstreams, index = upstream_names(runs), index_runs(runs)
    rows, best = [], []
    for task in task_names(runs):
        found = [index.get((task, name)) for name in upstreams]
        present = [run for run in found if run]
        arrow = "higher is better" if HIGHER_IS_BETTER[present[0]["metric"]] else "lower is better"
        cells = [format_score(run) if run else "-" for run in found]
        rows.append([task, f"{_with_unit(present[0]['metric'])} ({arrow})", *cells])
        best.append(2 + found.index(best_upstream(present)))
        for extra in present[0].get("extra_scores", {}):
            values = [run.get("extra_scores", {}).get(extra) if run else None for run in found]
            cells = ["-" if value is None else written(extra, value) for value in values]
            rows.append(["", f"{_with_unit(extra)} (for information)", *cells])
            best.append(-1)
    return ["task", "metric", *upstreams], rows, best


def _with_unit(metric: str) -> str:
    return f"{metric} {unit(metric)}".rstrip()


def comparison_lines(runs: Sequence[dict]) -> list[str]:
    """For each checkpoint: on how many tasks it beats each baseline, and which it loses."""
    index, lines = index_runs(runs), []
    kinds = {run["upstream"]["name"]: run["upstream"]["kind"] for run in runs}
    baselines = [name for name in upstream_names(runs) if kinds[name] != "checkpoint"]
    for name in [n for n in upstream_names(runs) if kinds[n] == "checkpoint"]:
        parts, lost = [], []
        for baseline in baselines:
            tasks = [t for t in task_names(runs) if (t, name) in index and (t, baseline) in index]
            won = [
                t
                for t in tasks
                if is_better(index[t, name]["metric"], index[t, name]["score"], index[t, baseline]["score"])
            ]
            parts.append(f"{baseline} on {len(won)}/{len(tasks)}")
            lost += [f"{t} (against {baseline})" for t in tasks if t not in won]
        if parts:
            lines.append(f"{name} beats {', '.join(parts)} tasks." + (f" Not on: {', '.join(lost)}." if lost else ""))
    return lines


def terminal_table(runs: Sequence[dict]) -> str:
    """A plain-text table; `*` marks the best of a row; brackets hold the 95 % interval over test items."""
    if not runs:
        return "no scores yet: run `spear evaluate`"
    header, rows, best = table_cells(runs)
    marked = [[cell + (" *" if c == best[r] else "") for c, cell in enumerate(row)] for r, row in enumerate(rows)]
    widths = [max(len(row[c]) for row in [header, *marked]) for c in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *marked]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [
        "* best of the row; [95 % bootstrap interval over test items]",
        *doubt_lines(runs),
        *comparison_lines(runs),
    ]
    return "\n".join([*lines, "", *notes])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def results_markdown(runs: Sequence[dict], title: str, notes: str = "") -> str:
    """A section of RESULTS.md: score table, comparison, and one provenance row for each run file."""
    if not runs:
        raise DataError("no run files", "at least one scored task", "run `spear evaluate` first")
    header, rows, best = table_cells(runs)
    shown = [[f"**{cell}**" if c == best[r] else cell for c, cell in enumerate(row)] for r, row in enumerate(rows)]
    provenance = [
        [
            run["task"],
            run["upstream"]["name"],
            format_score(run, with_interval=False),
            f"{run['learning_rate']:g}",
            ", ".join(map(str, run["seeds"])),
            " / ".join(str(run["num_items"][split]) for split in ("train", "dev", "test")),
            len(run["skipped"]),
            f"`{run['upstream']['hash'][:12]}`",
            f"`{run['inputs_sha256'][:12]}`",
        ]
        for run in runs
    ]
    columns = ["task", "upstream", "score", "learning rate", "seeds", "train / dev / test items", "skipped"]
    where = sorted({(run["command"] or "?", run["commit"], run["hardware"]) for run in runs})
    facts = [f"- command `{command}`, commit `{commit}`, {hardware}" for command, commit, hardware in where]
    parts = [f"## {title}", notes, markdown_table(header, shown)]
    parts.append("Best of a row in bold; 95 % bootstrap interval over test items in brackets.")
    parts += doubt_lines(runs)
    parts += [*comparison_lines(runs), "\n".join(facts), markdown_table([*columns, "encoder", "inputs"], provenance)]
    return "\n\n".join(part for part in parts if part)


def write_results(path: str | Path, section: str, markdown: str) -> None:
    """Puts a section into RESULTS.md between its two marker comments, or appends it; other text stays as it is.

    Args:
        section: the name in the markers, such as `real-mini`.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    begin, end = f"<!-- results: {section} -->", f"<!-- end of results: {section} -->"
    block = f"{begin}\n{markdown}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    fs.write_text(path, text)


def by_suite(runs: Iterable[dict]) -> dict[str, list[dict]]:
    """Suite -> its runs; a table is about one suite, since two may have tasks of one name."""
    found: dict[str, list[dict]] = {}
    for run in runs:
        found.setdefault(run.get("suite", ""), []).append(run)
    return found


def protocol_lines(runs: Sequence[dict]) -> list[str]:
    """What a reader must know about the numbers: protocol, legacy rules, rows left out."""
    lines = []
    protocols = sorted({run["protocol"] for run in runs})
    if "mini" in protocols:
        board = "HEAR" if all(run.get("suite", "").startswith("hear") for run in runs) else "SUPERB"
        lines.append(f"Protocol mini: small heads and few steps; not comparable with published {board} numbers.")
    rules = {run["task"]: run["legacy"]["rule"] for run in runs if run.get("legacy")}
    if rules:
        said = "; ".join(f"{task}: {rule}" for task, rule in rules.items())
        lines.append(f"Scores are selected on dev; `near-legacy` selects as the published protocol does ({said}).")
        still = {run["task"]: run["legacy"].get("differences") or () for run in runs if run.get("legacy")}
        said = "; ".join(f"{task}: {', '.join(parts)}" for task, parts in still.items() if parts)
        lines.append(f"What still parts `near-legacy` from the published code: {said}.")
    left_out = {run["task"]: len(run["skipped"]) for run in runs if run["skipped"]}
    if left_out:
        said = ", ".join(f"{task} {count}" for task, count in left_out.items())
        lines.append(f"Rows left out, listed with reasons in the run files: {said}.")
    return lines


def terminal_text(runs: Sequence[dict]) -> str:
    """The table of each suite, with intervals and notes."""
    parts = []
    for suite, mine in by_suite(runs).items():
        title = [f"== {suite}"] if len(by_suite(runs)) > 1 else []
        lines = [*overall_lines(mine), *published_lines(mine), *protocol_lines(mine)]
        parts.append("\n".join([*title, terminal_table(mine), *lines]))
    return "\n\n".join(parts)


def write_section(path: str | Path, runs: Sequence[dict], section: str, title: str, notes: str = "") -> None:
    """Puts the table of a suite and its provenance into a RESULTS.md."""
    text = "\n\n".join(
        part for part in (notes, *overall_lines(runs), *published_lines(runs), *protocol_lines(runs)) if part
    )
    write_results(path, section, results_markdown(runs, title, text))
