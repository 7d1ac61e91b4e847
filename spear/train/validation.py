"""Validation: the held-out cuts, each once, under masks that are the same every time."""

import torch

from spear import compat, dist
from spear.data import make_validation_loader
from spear.seeds import numpy_rng
from spear.train.metrics import Sums


@torch.no_grad()
def validate(trainer) -> dict[str, float] | None:
    """Means of the statistics over all held-out cuts, and what objectives judge; None when a signal broke off.

    Args:
        trainer: a `spear.train.loop.Trainer` with validation cuts; all ranks call this together.
    """
    world, model = trainer.world, trainer.model
    model.eval()
    sums, scores = Sums(trainer.objectives, world.device), {name: [] for name in trainer.objectives}
    loader = make_validation_loader(
        trainer.data.valid,
        world.rank,
        world.size,
        trainer.config.num_workers,
        timeout_seconds=trainer.loader_seconds,
    )
    row = None
    for step, batch in enumerate(loader):
        trainer.watch.beat(f"in batch {step + 1} of the validation at step {trainer.step}")
        if dist.any_(bool(trainer.stop)):
            break
        number = loader.plan.global_batch(step, world.rank)
        inputs = trainer.inputs(batch.to(world.device), numpy_rng(0, "valid_mask", number))
        with compat.autocast(world.device.type, trainer.dtype):
            output = model(*inputs)
        sums.add(output.stats)
        for name, found in output.scores.items():
            scores[name].append(tuple(each.float().cpu() for each in found))
    else:
        row = {**sums.reduce(), **_judged(trainer.objectives, scores)}
    model.train()
    return row


def _judged(objectives: dict, scores: dict[str, list]) -> dict[str, float]:
    """`<number>/<stream>` of every objective that judges, from the scores of all ranks."""
    row = {}
    for name, objective in objectives.items():
        if objective.judged:
            everywhere = [found for of_rank in dist.gather_objects(scores[name]) for found in of_rank]
            row |= {f"{number}/{name}": value for number, value in objective.judge(everywhere).items()}
    return row
