"""What is shown of SUPERB runs: the table for the terminal, the section of RESULTS.md, and a page of plots."""

from collections.abc import Sequence
from pathlib import Path

from spear.evaluate import report
from spear.evaluate.results import results_markdown, terminal_table, write_results
from spear.evaluate.score import overall_lines


def protocol_lines(runs: Sequence[dict]) -> list[str]:
    """What a reader must know about the numbers: protocol, legacy rules, rows left out."""
    lines = []
    protocols = sorted({run["protocol"] for run in runs})
    if "mini" in protocols:
        lines.append("Protocol mini: small heads and few steps; not comparable with published SUPERB numbers.")
    rules = {run["task"]: run["legacy"]["rule"] for run in runs if run.get("legacy")}
    if rules:
        said = "; ".join(f"{task}: {rule}" for task, rule in rules.items())
        lines.append(f"Scores are selected on dev; `legacy` follows the published protocol ({said}).")
    left_out = {run["task"]: len(run["skipped"]) for run in runs if run["skipped"]}
    if left_out:
        said = ", ".join(f"{task} {count}" for task, count in left_out.items())
        lines.append(f"Rows left out, listed with reasons in the run files: {said}.")
    return lines


def terminal_text(runs: Sequence[dict]) -> str:
    """The table of all tasks and upstreams, with intervals and notes."""
    return "\n".join([terminal_table(runs), *overall_lines(runs), *protocol_lines(runs)])


def write_section(path: str | Path, runs: Sequence[dict], section: str, title: str, notes: str = "") -> None:
    """Puts the table and its provenance into a RESULTS.md."""
    text = "\n\n".join(part for part in (notes, *overall_lines(runs), *protocol_lines(runs)) if part)
    write_results(path, section, results_markdown(runs, title, text))


def write_superb_page(runs: Sequence[dict], output: str | Path, title: str = "SUPERB on frozen encoders") -> Path:
    """A self-contained page: scores, layer weights of every task, learning-rate curves, provenance."""
    runs = list(runs)
    trained = [run for run in runs if run["steps"]]
    notes = "".join(f'<p class="note">{line}</p>' for line in [*overall_lines(runs), *protocol_lines(runs)])
    parts = [
        report.heading(runs, title) + notes,
        report.section("Scores", report.scores_part, runs, "the head of each task"),
        report.section("Layer weights", report.layers_part, trained),
        report.section("Learning rates", report.learning_rates_part, trained),
        report.section("Provenance", report.provenance_part, runs),
    ]
    return report.write_page(Path(output), title, parts)
