"""Several checkpoints of several variants, scored on all tasks of a recipe: mean and deviation over training seeds."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from spear.evaluate.doubts import doubt_lines
from spear.evaluate.figures import read_training
from spear.evaluate.metrics import HIGHER_IS_BETTER, shown, unit, written
from spear.evaluate.results import markdown_table, task_names
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.suites import RecipeTasks
from spear.log import human_flops

# Student's t at 0.975 for 1, 2, ... degrees of freedom; for more, the last one is a little too wide.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
# Key of a cost: what it is, its unit, how a mean is shown.
COSTS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "audio_hours": ("audio trained on", "h, padding included", "{:.3f}".format),
    "model_flops": ("compute of encoder and heads", "forward and backward", human_flops),
    "target_flops": ("compute of targets in the loop", "forward", human_flops),
    "hours": ("training time", "h", "{:.3f}".format),
}


def evaluate_checkpoints(
    groups: Mapping[str, Mapping[int, str | Path]],
    data_dir: str | Path,
    exp_dir: str | Path,
    tasks: Sequence[str] | None = None,
    config: EvaluateConfig | None = None,
    command: str = "",
) -> list[dict]:
    """Scores several checkpoints of several variants (an ablation) on all tasks, those of ablations included.

    Args:
        groups: variant -> training seed -> checkpoint.

    Returns:
        Run contents; `run["variant"]` and `run["training_seed"]` are added.
    """
    named = {
        re.sub(r"[^\w.+-]+", "_", f"{variant}-seed{seed}"): (variant, seed, path)
        for variant, checkpoints in groups.items()
        for seed, path in checkpoints.items()
    }
    specs = [f"{name}={path}" for name, (_, _, path) in named.items()]
    runs = evaluate(RecipeTasks(data_dir), tasks or ["every"], specs, exp_dir, config, command)
    for run in runs:
        run["variant"], run["training_seed"], _ = named[run["upstream"]["name"]]
    return runs


def training_costs(groups: Mapping[str, Mapping[int, str | Path]]) -> dict[str, list[dict]]:
    """What each training took, from its metrics.jsonl: see `training_cost`.

    Args:
        groups: variant -> training seed -> directory of the training.
    """
    paths = {variant: [Path(path) / "metrics.jsonl" for path in of.values()] for variant, of in groups.items()}
    return {variant: [training_cost(path) for path in of if path.is_file()] for variant, of in paths.items()}


def training_cost(path: str | Path) -> dict[str, float]:
    """Cost of one training: `hours` of all its processes up to what they saved, and what its last row has of `COSTS`.

    Args:
        path: metrics.jsonl.
    """
    rows = [row for row in read_training(path) if "seconds" in row]
    seconds = [float(row["seconds"]) for row in rows]
    # The clock of a training that was resumed begins again.
    ends = [now for now, later in zip(seconds, [*seconds[1:], 0.0]) if later < now]
    return {"hours": sum(ends) / 3600} | {key: rows[-1][key] for key in COSTS if rows and key in rows[-1]}


def ablation_table(runs: Sequence[dict], costs: Mapping[str, Sequence[dict]] | None = None) -> str:
    """Markdown: one row for each task, one column for each variant, mean ± standard deviation over training seeds.

    What the trainings cost stands below the scores, and a second table has the differences from the first variant.

    Args:
        runs: from `evaluate_checkpoints`; the deviation is that of the sample (n - 1), left out for a single seed.
        costs: from `training_costs`.
    """
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    rows, differences = [], []
    for task in task_names(runs):
        scores = {
            v: {r["training_seed"]: r["score"] for r in runs if (r["task"], r["variant"]) == (task, v)}
            for v in variants
        }
        metric = next(run["metric"] for run in runs if run["task"] == task)
        means = {v: float(np.mean([*s.values()])) for v, s in scores.items() if s}
        winner = (max if HIGHER_IS_BETTER[metric] else min)(means, key=means.get)
        cells = []
        for variant in variants:
            if variant not in means:
                cells.append("-")
                continue
            text = written(metric, means[variant])
            if len(scores[variant]) > 1:
                text += f" ± {written(metric, np.std([*scores[variant].values()], ddof=1))}"
            cells.append(f"**{text}**" if variant == winner else text)
        rows.append([task, f"{metric} {unit(metric)}".rstrip(), *cells])
        first, *others = (scores[variant] for variant in variants)
        differences.append([task, *(_difference(metric, first, other) for other in others)])
    for key, (what, of, show) in COSTS.items():
        values = {v: [cost[key] for cost in (costs or {}).get(v, ()) if key in cost] for v in variants}
        if any(map(any, values.values())):
            rows.append([what, of, *(show(float(np.mean(values[v]))) if values[v] else "-" for v in variants)])
    seeds = sorted({run["training_seed"] for run in runs})
    parts = [markdown_table(["task", "metric", *variants], rows)]
    parts.append(f"Mean ± standard deviation over training seeds {', '.join(map(str, seeds))}; best mean in bold.")
    if len(seeds) > 1 and len(variants) > 1:
        parts.append(markdown_table([f"less {variants[0]}", *variants[1:]], differences))
        parts.append("Mean difference of the trainings with the same seed, with its 95 % interval (Student's t).")
    return "\n\n".join([*parts, *doubt_lines(runs)])


def _difference(metric: str, first: Mapping[int, float], other: Mapping[int, float]) -> str:
    """Mean and interval of what a variant has more than the first one, over the seeds of both."""
    pairs = np.asarray([shown(metric, other[seed]) - shown(metric, first[seed]) for seed in first if seed in other])
    if len(pairs) < 2:
        return "-"
    half = T_975[min(len(pairs) - 2, len(T_975) - 1)] * pairs.std(ddof=1) / len(pairs) ** 0.5
    mean, digits = pairs.mean(), 1 if unit(metric) else 3
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"
