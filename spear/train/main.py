"""The entry point behind every recipe's train.py and `spear train`."""

import logging
import os
import sys
from pathlib import Path

from spear import config as configuration
from spear import dist, log
from spear.errors import ConfigError
from spear.train import scales
from spear.train.config import ALIASES, TrainConfig
from spear.train.estimate import estimate
from spear.train.loop import Stopped, Trainer
from spear.train.signals import EXIT_CODE
from spear.train.watch import Watch

DESCRIPTION = """Trains a SPEAR encoder. One process, or several under torchrun; run it again to resume.
Settings: --config FILE.yaml (repeat it; later files win) and --some.key VALUE. --estimate does a few steps in a
temporary place and prints time, memory and disk of the whole run. --health prints how large the activations of every
module are at the newest checkpoint; the run may be going on. A recipe's train.py without --config
takes the recipe's conf/student.yaml; its relative data_dir and exp_dir are below the recipe."""


def main(argv: list[str] | None = None, recipe_dir: str | Path | None = None) -> int:
    """Trains as the arguments say.

    Args:
        argv: arguments; None means those of the process.
        recipe_dir: where a recipe's conf/ is, and what its relative `data_dir` and `exp_dir` are below.

    Returns:
        exit status: 0, or 85 when a signal asked to stop and the state was saved.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    modes = [argument for argument in argv if argument in ("--estimate", "--health")]
    if len(set(modes)) > 1:
        raise ConfigError("--estimate and --health together", "one of them", "run the command twice")
    argv = [argument for argument in argv if argument not in modes]
    if recipe_dir is not None:
        argv = _with_recipe(argv, Path(recipe_dir))
    config = configuration.parse(TrainConfig, argv, ALIASES, DESCRIPTION)
    if recipe_dir is not None:
        stated = {argument.split("=")[0].replace("_", "-") for argument in argv}
        for name in ("exp_dir", "data_dir"):
            # A directory on the command line is relative to the caller; one from a file or a default, to the recipe.
            if f"--{name.replace('_', '-')}" not in stated:
                setattr(config, name, str(Path(recipe_dir) / getattr(config, name)))
    world = dist.start(config.device, config.timeout_minutes)
    logs = Path(config.exp_dir) / "logs"
    log.setup(rank=world.rank)
    watch = Watch(world, logs, config.timeout_minutes * 30).start()
    code = 0
    try:
        if "--health" in modes:
            found = scales.report(config, world)
            if world.is_main:
                print(found)
        elif modes:
            found = estimate(config, world)
            if world.is_main:
                print(found.table(config.exp_dir))
        else:
            with dist.hold(config.exp_dir, "spear train"):
                log.setup(logs / "train.log", world.rank)  # held by another run, nothing of it is touched
                Trainer(config, world, watch).run()
    except Stopped as reason:
        log.get_logger(__name__).warning("stopped by %s; saved; run the same command to go on", reason)
        code = EXIT_CODE
    except Exception as error:
        if world.size == 1:
            raise
        watch.report(error)
        logging.shutdown()
        os._exit(1)  # leaving the process group in order would wait for ranks that will not come
    finally:
        watch.stop()
    dist.stop()
    return code


def _with_recipe(argv: list[str], recipe_dir: Path) -> list[str]:
    """Finds configuration files in the recipe, from whatever directory it is called; adds the default one."""
    found = []
    for position, argument in enumerate(argv):
        follows = position > 0 and argv[position - 1] == "--config"
        path = argument.removeprefix("--config=") if argument.startswith("--config=") else argument if follows else ""
        if path and not Path(path).exists() and (recipe_dir / path).exists():
            argument = argument.replace(path, str(recipe_dir / path))
        found.append(argument)
    if not any(argument == "--config" or argument.startswith("--config=") for argument in argv):
        default = recipe_dir / "conf" / "student.yaml"
        found = (["--config", str(default)] if default.exists() else []) + found
    return found
