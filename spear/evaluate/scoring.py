"""One task on one store: all folds trained, the learning rate selected on dev, test scored once."""

import dataclasses

import numpy as np

from spear.evaluate import engine
from spear.evaluate.cache import FeatureStore
from spear.evaluate.ctc import BEAM
from spear.evaluate.estimate import estimate
from spear.evaluate.legacy import NAME as LEGACY
from spear.evaluate.legacy import near_legacy
from spear.evaluate.metrics import interval_of_folds, score_folds
from spear.evaluate.problems import Problem
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task
from spear.log import get_logger

LONG_STEPS = 5000
"""From so many steps on, the hours that the heads will take are measured and told before they train."""

logger = get_logger(__name__)


def score_task(
    task: Task, table: Table, store: FeatureStore, settings: Settings, seed: int = 0, label: str = ""
) -> dict:
    """Trains, selects on dev and scores one task on one store.

    Returns:
        score, interval, scores, extra_scores, dev_score, learning_rate, variant, layer_weights, grid, counts, details,
        `point` where points are more than learning rates, and `rows`, the predictions on test.
    """
    metric = task.metrics[0]
    problems = task.problems(table, store, settings)
    if settings.max_steps >= LONG_STEPS and not settings.patience:
        logger.info("%s", estimate(problems, settings, label).text)
    small: dict[str, Problem] = {}
    if settings.patience:
        grids, choice = _grid_on_the_first_fold(problems, metric, settings, label)
        deciding = grids
    else:
        grids = engine.run_grids(problems, metric, settings, label)
        small = task.selection_problems(table, store, settings)
        deciding = engine.run_grids(small, metric, settings, f"{label}, selection") if small else grids
        choice = engine.select(deciding, metric, settings.default_rate)
    rows = _test_rows(grids, choice, metric, settings)
    scores = {name: score_folds(name, rows) for name in task.metrics}
    extra = {name: scores[name] for name in task.metrics[1:]}
    if BEAM in grids[0].hypotheses["test"][0]:
        decoded = engine.gather(grids, "test", choice.point, BEAM)
        extra |= {f"{name} with {BEAM}": score_folds(name, decoded) for name in task.metrics}
    legacy = near_legacy(task, table, store, settings, grids, choice.learning_rate, label)
    if legacy is not None:
        extra[f"{LEGACY} {metric}"] = legacy["score"]
    extra |= task.more_scores(table, store, settings, choice.learning_rate, label)
    chosen = [head for grid in grids for head in grid.heads if engine.point_of(head) == choice.point]
    weights = [head["layer_weights"] for head in chosen if head["layer_weights"]]
    return {
        "score": scores[metric],
        "scores": scores,
        "interval": list(interval_of_folds(metric, rows, seed)),
        "selected_on": f"{len(small)} folds of train and dev" if small else "dev",
        "dev_score": choice.score,
        "dev_standard_error": choice.standard_error,
        "extra_scores": extra,
        "legacy": legacy,
        "learning_rate": choice.learning_rate,
        "variant": choice.variant,
        "variants": _variant_scores(grids, metric, choice.point),
        "layer_weights": np.mean(weights, axis=0).round(5).tolist() if weights else [],
        "steps": grids[0].steps,
        "grid": _grid_rows(grids, deciding, metric),
        "num_items": {name: len(table.of(name)) for name in ("train", "dev", "test")},
        "folds": {fold: {n: len(rows) for n, rows in s.items()} for fold, s in task.folds(table).items()},
        "details": {fold: problem.details for fold, problem in problems.items()},
        "rows": rows,
    } | ({"point": choice.point} if settings.point_names else {})


def _grid_on_the_first_fold(
    problems: dict[str, Problem], metric: str, settings: Settings, label: str
) -> tuple[list[engine.Grid], engine.Choice]:
    """The grid on the first fold alone; the point that is best on its dev is trained on the others (HEAR)."""
    (first, problem), *others = problems.items()
    grids = engine.run_grids({first: problem}, metric, settings, label)
    choice = engine.select(grids, metric, None)
    for _, other in others:
        other.settings = other.settings.at(choice.point)
    return grids + (engine.run_grids(dict(others), metric, settings, label) if others else []), choice


def _test_rows(grids: list[engine.Grid], choice: engine.Choice, metric: str, settings: Settings) -> list[dict]:
    """Predictions of the chosen candidate; where each fold has heads of its own, under the best variant of its dev."""
    if not settings.patience:
        return engine.gather(grids, "test", choice.point, choice.variant)
    variants = [engine.best_variant([grid], metric, choice.point)[0] for grid in grids]
    return [row for grid, name in zip(grids, variants) for row in grid.predictions("test", choice.point, name)]


def _variant_scores(grids: list, metric: str, point: engine.Point) -> dict[str, dict[str, float]]:
    """Dev and test score of every variant at the chosen rate; nothing when there is but one."""
    names = grids[0].variants
    if len(names) < 2:
        return {}
    return {
        name: {split: score_folds(metric, engine.gather(grids, split, point, name)) for split in ("dev", "test")}
        for name in names
    }


def _grid_rows(grids: list, deciding: list, metric: str) -> list[dict]:
    """Every head: its dev score is the best over variants, its test score that of the same variant.

    Args:
        deciding: the grids that the selection looked at; a head's dev score is over those of them that are its own.
    """
    rows = []
    for grid in grids:
        for number, head in enumerate(grid.heads):
            own = _one_head(grid, number)
            judges = [own] if deciding is grids else [_one_head(other, number) for other in deciding]
            point = engine.point_of(head)
            variant, dev_score, _ = engine.best_variant(judges, metric, point)
            test = own.predictions("test", point, variant)
            rows.append(
                {**head, "fold": grid.fold, "variant": variant, "dev_score": dev_score}
                | {"test_score": score_folds(metric, test)}
            )
    return rows


def _one_head(grid: engine.Grid, number: int) -> engine.Grid:
    hypotheses = {split: [values[number]] for split, values in grid.hypotheses.items()}
    return dataclasses.replace(grid, heads=[grid.heads[number]], hypotheses=hypotheses)
