"""report.html: one self-contained page with curves, codebook use, layer weights, scores and provenance.

No external links, no scripts; on a phone figures and tables scroll inside the page. A part whose input is missing says
so and names the command that makes it.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import spear
from spear import env, fs
from spear.errors import SpearError
from spear.evaluate import figures
from spear.evaluate.confusions import confusions_part
from spear.evaluate.doubts import doubt_lines
from spear.evaluate.results import (
    by_suite,
    comparison_lines,
    load_runs,
    protocol_lines,
    table_cells,
    upstream_names,
)
from spear.evaluate.score import overall_lines
from spear.log import human_seconds

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d2228; margin: 0 auto;
  max-width: 1060px; padding: 24px 20px 60px; background: #fff; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 34px 0 8px; padding-top: 10px;
  border-top: 1px solid #d9dde2; }
h3 { font-size: 15px; margin: 18px 0 4px; } p { margin: 6px 0 10px; } .note { color: #59636e; font-size: 13px; }
.missing { color: #8a4b08; background: #fff6e8; border-left: 3px solid #d9822b; padding: 6px 10px; font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; margin: 8px 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid #e6e9ec; vertical-align: top; }
th { color: #59636e; font-weight: 600; } td.best { font-weight: 700; color: #1c5797; }
code { font: 12px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; } .wide { overflow-x: auto; max-width: 100%; }
.matrix { font-size: 12px; } .matrix th, .matrix td { padding: 3px 7px; text-align: right; border-bottom: 0; }
.matrix td { min-width: 2.2em; } summary { cursor: pointer; padding: 4px 0; }
@media (max-width: 700px) { body { padding: 14px 12px 40px; } .wide svg { max-width: none; } }
.lead { font-size: 16px; background: #f1f6fb; border-left: 3px solid #2563a8; padding: 8px 12px; }
"""


def write_report(data_dir: str | Path, exp_dir: str | Path, output: str | Path | None = None) -> Path:
    """Writes the page.

    Args:
        data_dir: for the corpus summary and the tokens.
        exp_dir: for training runs and scores.
        output: default `exp_dir/report.html`.

    Returns:
        Where it is.
    """
    data_dir, exp_dir = Path(data_dir), Path(exp_dir)
    output = Path(output) if output else exp_dir / "report.html"
    runs = load_runs(exp_dir)
    parts = [heading(runs)]
    suites = by_suite(runs) or {"": []}
    for suite, mine in suites.items():
        parts.append(section(f"Scores of frozen encoders{_of(suite, suites)}", scores_part, mine))
    parts += [section("Training", _training, exp_dir), section("Codebook use", _codebooks, data_dir)]
    for suite, mine in suites.items():
        trained = [run for run in mine if run["steps"]]
        parts.append(section(f"Layer weights{_of(suite, suites)}", layers_part, trained))
        parts.append(section(f"Learning rates{_of(suite, suites)}", learning_rates_part, trained))
        confused = section(f"Confusions{_of(suite, suites)}", confusions_part, mine, exp_dir)
        parts += [confused] if not confused.endswith("</h2>\n") else []  # there may be no task of one label
    parts += [section("Corpus", _corpus, data_dir), section("Provenance", provenance_part, runs)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>SPEAR report</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    fs.write_text(output, page)
    return output


def _of(suite: str, suites: Mapping[str, list]) -> str:
    return f": {suite}" if len(suites) > 1 else ""


def section(title: str, make, *arguments) -> str:
    """A part of the page; damage in its input is shown instead of losing the page."""
    try:
        content = make(*arguments)
    except (SpearError, KeyError, ValueError, TypeError, IndexError, AttributeError, OSError) as error:
        reason = error.found if isinstance(error, SpearError) else f"{type(error).__name__}: {error}"
        content = _missing(f"This part could not be made: {reason}")
    return f"<h2>{html.escape(title)}</h2>\n{content}"


def _missing(text: str) -> str:
    return f'<p class="missing">{html.escape(text)}</p>'


def _figure(figure) -> str:
    return f'<div class="wide">{figures.to_svg(figure)}</div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[int] = ()) -> str:
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
    body = []
    for number, row in enumerate(rows):
        marked = best[number] if number < len(best) else -1
        cells = (
            f"<td{' class=best' if column == marked else ''}>{html.escape(str(cell))}</td>"
            for column, cell in enumerate(row)
        )
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def heading(runs: list[dict]) -> str:
    """The title, where the numbers come from, and who beats whom."""
    said = [line for mine in by_suite(runs).values() for line in comparison_lines(mine)]
    lines = "".join(f'<p class="lead">{html.escape(line)}</p>' for line in said)
    facts = f"spear {spear.__version__}, commit {env.git_commit()}, {env.describe_hardware()}"
    return f'<h1>SPEAR: training and frozen-encoder evaluation</h1><p class="note">{html.escape(facts)}</p>{lines}'


def scores_part(runs: list[dict]) -> str:
    """Table and figure of all scores."""
    if not runs:
        return _missing("No scores yet. Run: spear evaluate")
    header, rows, best = table_cells(runs)
    folded = ", ".join(dict.fromkeys(run["task"] for run in runs if "folds" in run.get("selected_on", "")))
    selection = "on dev" + (f", of {folded} by folds of train and dev" if folded else "")
    note = (
        "Frozen encoder, softmax-weighted sum of all hidden states, the head of each task; learning rate selected "
        f"{selection}. With the 95 % bootstrap interval over test items; best of a row in bold."
    )
    notes = "".join(
        f'<p class="note">{html.escape(line)}</p>' for line in [*overall_lines(runs), *protocol_lines(runs)]
    )
    doubts = notes + "".join(_missing(line) for line in doubt_lines(runs))
    return f'<p class="note">{note}</p>' + _table(header, rows, best) + doubts + _figure(figures.scores_figure(runs))


def _training(exp_dir: Path) -> str:
    parts = []
    for path in sorted(exp_dir.glob("*/metrics.jsonl")) + sorted(exp_dir.glob("metrics.jsonl")):
        rows = figures.read_training(path)
        figure = figures.training_figure(rows, path.parent.name)
        if figure is None:
            parts.append(_missing(f"{path.parent.name}: metrics.jsonl holds no losses yet."))
            continue
        facts = [f"{max(row['step'] for row in rows)} steps"]
        seconds = [row["seconds"] for row in rows if isinstance(row.get("seconds"), (int, float))]
        if seconds:
            facts.append(human_seconds(max(seconds)))
        waits = [row["data_wait_share"] for row in rows if isinstance(row.get("data_wait_share"), (int, float))]
        if waits:
            facts.append(f"{100 * sum(waits) / len(waits):.0f} % of the time waiting for data")
        note = f'<h3>{html.escape(path.parent.name)}</h3><p class="note">{html.escape(", ".join(facts))}</p>'
        parts.append(note + _figure(figure))
    return "".join(parts) or _missing(f"No metrics.jsonl below {exp_dir}. Run: python train.py")


def _codebooks(data_dir: Path) -> str:
    streams = {}
    for directory in sorted(p for p in (data_dir / "tokens").glob("*") if p.is_dir()):
        if list(directory.glob("*.npy")):
            streams[directory.name] = figures.codebook_use(directory)
    if not streams:
        return _missing(f"No tokens in {data_dir / 'tokens'}. Run: ./prepare.sh --stage 5")
    note = "Perplexity of the codes of each codebook over the whole corpus; the dashed line is the codebook size."
    return f'<p class="note">{note}</p>' + _figure(figures.codebook_figure(streams))


def layers_part(runs: list[dict]) -> str:
    """The learnt layer weights of every upstream with several layers."""
    parts = []
    for name in upstream_names(runs):
        figure = figures.layer_weights_figure(runs, name)
        if figure is not None:
            parts.append(_figure(figure))
    return "".join(parts) or _missing("No encoder with several layers has been scored.")


def learning_rates_part(runs: list[dict]) -> str:
    """Dev scores over the learning rates of the grid."""
    if not runs:
        return _missing("No scores yet. Run: spear evaluate")
    note = "Dev score of every learning rate of the grid (mean over all heads of it); the ring marks the selected one."
    return f'<p class="note">{note}</p>' + _figure(figures.learning_rates_figure(runs))


def _corpus(data_dir: Path) -> str:
    summary = figures.read_optional_json(data_dir / "manifests" / "summary.json")
    if summary is None:
        return _missing(f"No {data_dir / 'manifests' / 'summary.json'}. Run: ./prepare.sh --stage 1")
    return _table(["", ""], _flatten(summary)[:80])


def _flatten(value, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON to (dotted key, text) rows; long lists are counted."""
    if isinstance(value, dict):
        rows = []
        for key, inner in value.items():
            rows += _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        return rows
    if isinstance(value, list):
        text = ", ".join(map(str, value)) if len(value) <= 12 else f"{len(value)} entries"
        return [(prefix, text)]
    return [(prefix, f"{value:.4g}" if isinstance(value, float) else str(value))]


def provenance_part(runs: list[dict]) -> str:
    """Commands, commit and hardware, and a row for each run file."""
    if not runs:
        return _missing("No run files.")
    rows = [
        [
            run["task"],
            run["upstream"]["name"],
            " / ".join(str(run["num_items"][split]) for split in ("train", "dev", "test")),
            len(run["skipped"]),
            f"{run['learning_rate']:g}",
            run["steps"],
            f"{run['seconds']['heads']:.1f} s",
            run["upstream"]["hash"][:12],
            run["inputs_sha256"][:12],
        ]
        for run in runs
    ]
    header = ["task", "upstream", "train / dev / test", "skipped", "rate", "steps", "heads", "encoder", "inputs"]
    where = sorted({(run["command"] or "?", run["commit"], run["hardware"]) for run in runs})
    facts = "".join(
        f"<p><code>{html.escape(command)}</code><br><span class=note>commit {html.escape(commit)}, "
        f"{html.escape(hardware)}</span></p>"
        for command, commit, hardware in where
    )
    return facts + _table(header, rows)
