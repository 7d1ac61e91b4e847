"""Figures of the report, as SVG text: small, sharp at any size, no external parts."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.evaluate.metrics import HIGHER_IS_BETTER, shown, unit
from spear.evaluate.results import index_runs, task_names, upstream_names
from spear.shards import ShardStore

PALETTE = ("#2563a8", "#d9822b", "#3a8f5c", "#a8437c", "#6b5bb5", "#8a6d3b")
GREY = "#8a8f98"
_MAX_POINTS = 400
_MAX_TOKEN_BYTES = 200_000_000


_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def _styled(make):
    """Draws under the report's style, whatever the user's matplotlibrc says."""

    @functools.wraps(make)
    def styled(*arguments, **options):
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return make(*arguments, **options)

    return styled


def _new(rows: int, columns: int, width: float, height: float):
    """A figure off any display: (figure, array of axes)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def to_svg(figure) -> str:
    """The figure as an `<svg>` element without XML header; the same figure gives the same text."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "spear"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def upstream_colours(names: Sequence[str], kinds: dict[str, str]) -> dict[str, str]:
    """Checkpoints in strong colours, the filterbank orange, random encoders grey."""
    strong = iter([PALETTE[0], *PALETTE[2:]] * len(names))
    return {n: {"random": GREY, "fbank": PALETTE[1]}.get(kinds[n]) or next(strong) for n in names}


def _kinds(runs: Sequence[dict]) -> dict[str, str]:
    return {run["upstream"]["name"]: run["upstream"]["kind"] for run in runs}


def read_training(path: str | Path) -> list[dict]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is dropped."""
    import json

    rows = []
    for _, line in fs.iter_lines(path, escape=True):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [row for row in rows if isinstance(row, dict) and _is_number(row.get("step"))]


def _is_number(value) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300


def _series(rows: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[key]) for row in rows if _is_number(row.get(key))]
    if not points:
        return np.zeros(0), np.zeros(0)
    steps, values = np.asarray(points, dtype=np.float64).T
    stride = max(1, len(steps) // _MAX_POINTS)
    return steps[::stride], values[::stride]


@_styled
def training_figure(rows: list[dict], title: str):
    """Loss and one more measure of every stream, masked and unmasked, and the learning rate; None without lines.

    The measure is the accuracy of what predicts tokens or labels, the cosine of what predicts vectors.
    """
    streams = sorted(
        {key.split("/")[1] for row in rows for key in row if key.startswith("loss/") and key.count("/") == 2}
    )
    if not streams:
        return None
    figure, axes = _new(1, 3, 11, 3.1)
    measured = set()
    for colour, stream in zip(PALETTE * len(streams), streams):
        found = {key.split("/")[0] for row in rows for key in row if key.split("/")[1:2] == [stream]}
        measure = next((name for name in ("accuracy", "cosine") if name in found), "")
        measured |= {measure} - {""}
        for part, line in (("masked", "-"), ("unmasked", ":")):
            for axis, quantity in ((axes[0, 0], "loss"), (axes[0, 1], measure)):
                steps, values = _series(rows, f"{quantity}/{stream}/{part}")
                if len(steps):
                    axis.plot(steps, values, line, color=colour, linewidth=1.4, label=f"{stream}, {part}")
        for axis, quantity in ((axes[0, 0], "loss"), (axes[0, 1], measure)):
            steps, values = _series(rows, f"valid/{quantity}/{stream}/masked")
            if len(steps):
                axis.plot(steps, values, "o", color=colour, markersize=4, label=f"{stream}, masked, held out")
    highest = max((line.get_ydata().max() for line in axes[0, 0].lines), default=9)
    if measured == {"accuracy"} and highest < np.log(512):  # codebooks of 256
        place = (0.99, np.log(256))
        axes[0, 0].axhline(place[1], color=GREY, linewidth=0.8, linestyle="--")
        words = {"ha": "right", "va": "bottom", "fontsize": 8, "color": "#555"}
        axes[0, 0].annotate("ln 256 (chance)", place, xycoords=("axes fraction", "data"), **words)
    axes[0, 0].set_title(f"{title}: loss" + (" (nats per codebook)" if measured == {"accuracy"} else ""))
    axes[0, 1].set_title(" and ".join(sorted(measured)) or "no further measure")
    steps, rates = _series(rows, "lr")
    axes[0, 2].plot(steps, rates, color="#333", linewidth=1.2, label="learning rate")
    axes[0, 2].set_title("learning rate and gradient norm")
    steps, norms = _series(rows, "grad_norm")
    if len(steps):
        twin = axes[0, 2].twinx()
        twin.spines["right"].set_visible(True)
        twin.plot(steps, norms, color=PALETTE[1], linewidth=0.9, alpha=0.8)
        twin.set_ylabel("gradient norm", color=PALETTE[1])
    for axis in axes[0]:
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
    if axes[0, 0].lines:
        axes[0, 0].legend(fontsize=7.5, loc="lower left")
    return figure


def codebook_use(directory: str | Path) -> dict[str, list[float]]:
    """How evenly a token store uses its codebooks, from the tokens themselves (at most 200 MB of them).

    Returns:
        For each codebook `perplexity` (exp of the entropy, at most the codebook size) and `used` (share of codes that
        occur); and `size`, the codebook size. No codebook where the store holds vectors.
    """
    store = ShardStore(directory)
    if store.dtype.kind != "u":
        return {"perplexity": [], "used": [], "size": 0}
    values = np.iinfo(store.dtype).max + 1
    counts_NK = np.zeros((store.width, values), dtype=np.int64)
    seen = 0
    for shard in store.shards:
        rows = store.memory_map(shard)
        for book in range(store.width):
            counts_NK[book] += np.bincount(rows[:, book], minlength=values)
        seen += rows.nbytes
        if seen > _MAX_TOKEN_BYTES:
            break
    share_NK = counts_NK / counts_NK.sum(axis=1, keepdims=True).clip(min=1)
    entropy_N = -(share_NK * np.log(np.where(share_NK > 0, share_NK, 1))).sum(axis=1)
    size = int(store.meta.get("quantizer", {}).get("codebook_size", 256))
    return {
        "perplexity": np.exp(entropy_N).tolist(),
        "used": ((counts_NK > 0).sum(axis=1) / size).tolist(),
        "size": size,
    }


@_styled
def codebook_figure(streams: dict[str, dict]):
    """Perplexity of every codebook of every stream of tokens, as a share of its size."""
    streams = {name: use for name, use in streams.items() if use["size"]}
    figure, axes = _new(1, max(1, len(streams)), min(11, 4.5 * max(1, len(streams))), 2.6)
    for axis, colour, (name, use) in zip(axes[0], PALETTE, streams.items()):
        books = np.arange(1, len(use["perplexity"]) + 1)
        axis.bar(books, use["perplexity"], color=colour, width=0.7)
        axis.axhline(use["size"], color=GREY, linewidth=0.8, linestyle="--")
        axis.set_ylim(0, use["size"] * 1.08)
        axis.set_title(f"{name}: {100 * np.mean(use['used']):.0f} % of codes used")
        axis.set_xlabel("codebook")
        axis.set_xticks(books)
        axis.set_ylabel("perplexity")
    return figure


@_styled
def scores_figure(runs: Sequence[dict]):
    """Every score with its interval, one panel for each task."""
    names, index, kinds = upstream_names(runs), index_runs(runs), _kinds(runs)
    colours = upstream_colours(names, kinds)
    tasks = task_names(runs)
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = _new(lines, columns, 11, (0.65 + 0.26 * len(names)) * lines + 0.2)
    for place, axis in enumerate(axes.flat):
        if place >= len(tasks):
            axis.set_visible(False)
            continue
        for row, name in enumerate(names):
            run = index.get((tasks[place], name))
            if run is None:
                continue
            low, high = (shown(run["metric"], value) for value in run["interval"])
            axis.plot([low, high], [row, row], color=colours[name], linewidth=2, alpha=0.5, solid_capstyle="butt")
            axis.plot(shown(run["metric"], run["score"]), row, "o", color=colours[name], markersize=6)
        metric = next(run["metric"] for run in runs if run["task"] == tasks[place])
        axis.set_title(tasks[place].replace("_", " "))
        axis.set_xlabel(
            f"{metric} {unit(metric)}, {'right' if HIGHER_IS_BETTER[metric] else 'left'} is better", fontsize=8
        )
        axis.set_yticks(range(len(names)), names if place % columns == 0 else [""] * len(names))
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="x", color="#e3e5e8", linewidth=0.7)
        axis.set_axisbelow(True)
    return figure


@_styled
def layer_weights_figure(runs: Sequence[dict], upstream: str):
    """Heat map of the learnt layer weights of one upstream: tasks by layers; None when it has one layer."""
    chosen = [run for run in runs if run["upstream"]["name"] == upstream and len(run["layer_weights"]) > 1]
    if not chosen:
        return None
    weights = np.asarray([run["layer_weights"] for run in chosen])
    figure, axes = _new(1, 1, min(10, 3.2 + 0.62 * weights.shape[1]), 0.9 + 0.34 * len(chosen))
    axis = axes[0, 0]
    axis.imshow(weights, cmap="Blues", vmin=0, vmax=max(weights.max(), 2 / weights.shape[1]), aspect="auto")
    for row, values in enumerate(weights):
        for column, value in enumerate(values):
            colour = "white" if value > 0.6 * max(weights.max(), 2 / weights.shape[1]) else "#222"
            axis.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7.5, color=colour)
    axis.set_yticks(range(len(chosen)), [run["task"].replace("_", " ") for run in chosen])
    axis.set_xticks(range(weights.shape[1]), range(1, weights.shape[1] + 1))
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_xlabel("layer")
    axis.set_title(f"{upstream}: softmax weights of the selected heads")
    return figure


@_styled
def learning_rates_figure(runs: Sequence[dict]):
    """Dev score against learning rate for every task and upstream; the selected rate is marked."""
    tasks, names, index = task_names(runs), upstream_names(runs), index_runs(runs)
    colours = upstream_colours(names, _kinds(runs))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = _new(lines, columns, 11, 2.2 * lines + 0.3)
    for place, axis in enumerate(axes.flat):
        if place >= len(tasks):
            axis.set_visible(False)
            continue
        for name in names:
            run = index.get((tasks[place], name))
            if run is None:
                continue
            rates = sorted({row["learning_rate"] for row in run["grid"]})
            found = [[r["dev_score"] for r in run["grid"] if r["learning_rate"] == x] for x in rates]
            means = [shown(run["metric"], float(np.mean(scores))) for scores in found]
            axis.plot(rates, means, ".-", color=colours[name], linewidth=1.2, label=name)
            chosen = rates.index(run["learning_rate"])
            axis.plot(rates[chosen], means[chosen], "o", color=colours[name], markersize=8, fillstyle="none")
        metric = next(run["metric"] for run in runs if run["task"] == tasks[place])
        axis.set_xscale("log")
        axis.set_title(tasks[place].replace("_", " "))
        axis.set_ylabel(f"dev {metric} {unit(metric)}", fontsize=8)
        if metric != "accuracy" and unit(metric) == "%":
            axis.set_ylim(0, min(110, axis.get_ylim()[1]))
        if place == 0:
            axis.legend(fontsize=7.5)
    for axis in axes[-1]:
        axis.set_xlabel("learning rate")
    return figure


def read_optional_json(path: str | Path) -> dict | None:
    """A JSON object, or None when the file is absent."""
    return fs.read_json(path) if Path(path).exists() else None
