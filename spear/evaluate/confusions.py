"""What a head takes for what: the most confused classes of a task of one label, as a table of the report."""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from spear import fs
from spear.evaluate.results import index_runs, task_names, upstream_names
from spear.evaluate.runs import run_path

MOST_CLASSES = 10


def confusions(rows: Sequence[dict]) -> dict[tuple[str, str], float]:
    """(label, answer) -> how many items, the mean over head seeds; nothing for rows that are no single labels."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for answer in row["hypotheses"]:
            if not (isinstance(row["reference"], list) and len(row["reference"]) == len(answer) == 1):
                return {}
            counts[row["reference"][0], answer[0]] += 1
    seeds = max((len(row["hypotheses"]) for row in rows), default=1)
    return {pair: count / seeds for pair, count in counts.items()}


def most_confused(counts: dict[tuple[str, str], float], most: int = MOST_CLASSES) -> list[str]:
    """The classes in the most wrong answers, on either side, sorted by name; all where there are no more."""
    wrong: Counter[str] = Counter()
    for (label, answer), count in counts.items():
        for name in (label, answer):
            wrong[name] += count if label != answer else 0
    return sorted(sorted(wrong, key=lambda name: (-wrong[name], name))[:most])


def confusions_part(runs: Sequence[dict], exp_dir: str | Path) -> str:
    """A matrix for every task of one label and every upstream; the first upstream of each task is unfolded."""
    index, parts = index_runs(runs), []
    for task in task_names(runs):
        found = []
        for name in upstream_names(runs):
            run = index.get((task, name))
            if run is None or run["metric"] != "accuracy":
                continue
            folder = run_path(exp_dir, run["suite"], task, name).parent
            counts = confusions(fs.read_jsonl(folder / run["predictions"]))
            if counts:
                found.append(_matrix(counts, name, unfolded=not found))
        parts += [f"<h3>{html.escape(task.replace('_', ' '))}</h3>", *found] if found else []
    note = (
        f"Rows are labels, columns answers; the {MOST_CLASSES} classes in the most wrong answers, items of test (the "
        "mean over head seeds). The last column counts answers of other classes."
    )
    return f'<p class="note">{note}</p>' + "".join(parts) if parts else ""


def _matrix(counts: dict[tuple[str, str], float], upstream: str, unfolded: bool) -> str:
    names = most_confused(counts)
    header = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *names, "others"])
    body = []
    for label in names:
        row = [counts.get((label, answer), 0.0) for answer in names]
        total = sum(count for (said, _), count in counts.items() if said == label)
        cells = [f"<th>{html.escape(label)}</th>"]
        for answer, count in zip([*names, ""], [*row, total - sum(row)]):
            share = count / total if total else 0.0
            # Right answers are blue and wrong ones orange, the stronger the more of the label's items they are.
            colour = f"rgba({'37,99,168' if answer == label else '217,130,43'},{0.75 * share:.2f})"
            cells.append(f'<td style="background:{colour}">{f"{count:g}" if count else ""}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = f'<div class="wide"><table class="matrix"><tr>{header}</tr>{"".join(body)}</table></div>'
    return f"<details{' open' if unfolded else ''}><summary>{html.escape(upstream)}</summary>{table}</details>"
