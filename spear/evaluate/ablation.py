"""Several checkpoints of several variants, scored on all tasks of a recipe: mean and deviation over training seeds."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spear.evaluate.doubts import doubt_lines
from spear.evaluate.metrics import HIGHER_IS_BETTER, shown, unit
from spear.evaluate.results import markdown_table, task_names
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.suites import RecipeTasks


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


def ablation_table(runs: Sequence[dict]) -> str:
    """Markdown: one row for each task, one column for each variant, mean ± standard deviation over training seeds.

    Args:
        runs: from `evaluate_checkpoints`; the deviation is that of the sample (n - 1), left out for a single seed.
    """
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    rows = []
    for task in task_names(runs):
        scores = {v: [r["score"] for r in runs if r["task"] == task and r["variant"] == v] for v in variants}
        metric = next(run["metric"] for run in runs if run["task"] == task)
        means = {v: float(np.mean(s)) for v, s in scores.items() if s}
        winner = (max if HIGHER_IS_BETTER[metric] else min)(means, key=means.get)
        cells = []
        for variant in variants:
            if variant not in means:
                cells.append("-")
                continue
            text = f"{shown(metric, means[variant]):.1f}"
            if len(scores[variant]) > 1:
                text += f" ± {shown(metric, np.std(scores[variant], ddof=1)):.1f}"
            cells.append(f"**{text}**" if variant == winner else text)
        rows.append([task, f"{metric} {unit(metric)}", *cells])
    seeds = sorted({run["training_seed"] for run in runs})
    note = f"Mean ± standard deviation over training seeds {', '.join(map(str, seeds))}; best mean in bold."
    return "\n\n".join([markdown_table(["task", "metric", *variants], rows), note, *doubt_lines(runs)])
