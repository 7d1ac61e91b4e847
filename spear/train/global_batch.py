"""The padded seconds of an optimizer step over all ranks: what learning rates and numbers of steps are made for."""

import math

from spear.errors import ConfigError
from spear.log import get_logger
from spear.train.config import TrainConfig

logger = get_logger(__name__)
_TOLERANCE = 0.01


def settle_accumulation(config: TrainConfig, num_ranks: int) -> None:
    """Works out `accumulation: auto`, says what a step takes, and warns when the configuration was made for another.

    Args:
        config: of the run; `plan.max_seconds` is a number by now.
        num_ranks: processes that share a step.

    Raises:
        ConfigError: accumulation is `auto` and plan.global_seconds is not stated.
    """
    wanted, each = config.plan.global_seconds, float(config.plan.max_seconds) * num_ranks
    nearest = max(1, round(wanted / each))
    if config.accumulation == "auto":
        if not wanted:
            raise ConfigError(
                "accumulation: auto without plan.global_seconds",
                "the padded seconds of a step over all ranks, to work it out from",
                "set plan.global_seconds, or a number of batches",
            )
        config.accumulation = nearest
    made = each * config.accumulation
    product = f"{num_ranks} rank(s) x {config.accumulation} batch(es) x {config.plan.max_seconds:g} s"
    logger.info("a step takes up to %g padded seconds: %s", made, product)
    if not wanted or math.isclose(made, wanted, rel_tol=_TOLERANCE):
        return
    ranks = max(1, round(wanted / float(config.plan.max_seconds)))
    logger.warning(
        "a step takes up to %g padded seconds (%s), but learning rate and steps of this configuration were made for "
        "%g: %d rank(s) with one batch each, or --accumulation %d with the present %d, come closest",
        *(made, product, wanted, ranks, nearest, num_ranks),
    )
