"""The number under the selection of the published protocol, beside the clean one, and what still parts the two.

The published protocol selects on a dev set drawn with replacement (KS) or with speakers of training (ER), and reports
the best checkpoint (ASV) or the best way to read the posteriors (SD) on test. The number here follows these rules. It
is called near-legacy, since what else it does in another way (`Task.legacy_differences`) stands in the run file.
"""

from spear.evaluate import engine
from spear.evaluate.cache import FeatureStore
from spear.evaluate.metrics import score_folds
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Table
from spear.evaluate.task import Task

NAME = "near-legacy"


def near_legacy(
    task: Task,
    table: Table,
    store: FeatureStore,
    settings: Settings,
    grids: list[engine.Grid],
    learning_rate: float,
    label: str = "",
) -> dict | None:
    """rule, differences, learning_rate, variant and score; None where the clean selection is the published one.

    Args:
        grids: as trained for the clean number.
        learning_rate: of the clean selection, which test has no say in.
    """
    if not task.legacy:
        return None
    metric = task.metrics[0]
    if task.legacy == "dev":  # checkpoints depend on it: trained again
        problems = task.problems(table, store, settings, legacy=True)
        grids = engine.run_grids(problems, metric, settings, f"{label}, {NAME}")
        choice = engine.select(grids, metric, None)
        learning_rate, variant = choice.learning_rate, choice.variant
        rows = engine.gather(grids, "test", learning_rate, variant)
    else:
        variant, _, rows = engine.best_variant(grids, metric, learning_rate, "test")
    return {
        "rule": task.legacy_rule,
        "differences": list(task.legacy_differences),
        "learning_rate": learning_rate,
        "variant": variant,
        "score": score_folds(metric, rows),
    }
