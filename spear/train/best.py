"""Which checkpoints are averaged: those of the last steps, or those with the best number of the validation.

Every checkpoint of a step that was validated carries the number, so that a run that was resumed knows all of them.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from spear import seal
from spear.errors import ConfigError, SpearError
from spear.log import get_logger
from spear.train import checkpoint
from spear.train.config import LAST, TrainConfig
from spear.train.metrics import PARTS
from spear.train.objectives import Objective

logger = get_logger(__name__)
_PREFIX = "valid/"


class Best:
    """The checkpoints of a run by a number of its validation.

    Args:
        config: of the run.
        objectives: by stream; they know which of their numbers fall.
        run: whose checkpoints count.
        has_validation: whether there are held-out cuts.

    Raises:
        ConfigError: the validation gives no such number.
    """

    def __init__(self, config: TrainConfig, objectives: Mapping[str, Objective], run, has_validation: bool):
        self.config, self.run, self.name = config, run, config.average_by
        self.wanted = self.name != LAST
        if not self.wanted:
            return
        known = {}
        for stream, objective in objectives.items():
            falling = {"loss", *objective.falling}
            for number in ("loss", *objective.measures):
                known |= {f"{_PREFIX}{number}/{stream}/{part}": number in falling for part in PARTS}
            known |= {f"{_PREFIX}{number}/{stream}": number in falling for number in objective.judged}
        if self.name not in known or not has_validation:
            raise ConfigError(
                f"average_by: {self.name}" + ("" if has_validation else ", without held-out cuts"),
                f"{LAST}, or one of {', '.join(known)}",
                "correct average_by, or hold out cuts (valid_fraction, or held_out of a source)",
            )
        self.falls = known[self.name]

    def is_due(self, step: int) -> bool:
        """Whether the checkpoint of a step is wanted because it is validated."""
        return self.wanted and (step % self.config.valid_every_steps == 0 or step == self.config.num_steps)

    def entry(self, step: int, validated: tuple[int, dict]) -> dict:
        """What the checkpoint of a step carries: the number, if this step was validated."""
        value = validated[1].get(self.name.removeprefix(_PREFIX)) if validated[0] == step else None
        known = value is not None and math.isfinite(value)  # no number where nothing could be judged
        return {"judged": {self.name: value}} if self.wanted and known else {}

    def steps(self) -> dict[int, float]:
        """The steps of the best checkpoints with their numbers, the best first; equal ones, the later first."""
        if not self.wanted:
            return {}
        found = {}
        for step in checkpoint.steps(self.config.exp_dir, self.run):
            try:
                meta = seal.read_json(checkpoint.directory_of(self.config.exp_dir, step) / "checkpoint.json")
                value = meta.get("judged", {}).get(self.name)
            except SpearError:
                continue
            if value is not None:
                found[step] = float(value)
        ordered = sorted(found, key=lambda step: (found[step] if self.falls else -found[step], -step))
        return {step: found[step] for step in ordered[: self.config.average_best]}

    def mean(self) -> tuple[dict[str, Tensor], dict]:
        """The mean of the parameters of the best checkpoints that are whole, and what it was made of.

        Both are empty when there is none.
        """
        total: dict[str, Tensor] = {}
        used = {}
        for step, value in self.steps().items():
            directory = checkpoint.directory_of(self.config.exp_dir, step)
            try:
                checkpoint.verify(directory)
            except SpearError as error:
                logger.warning("checkpoint %s is not averaged:\n%s", directory.name, error)
                continue
            tensors = checkpoint.read_tensors(directory, "model")
            for name, tensor in tensors.items():
                total[name] = tensor.double() if name not in total else total[name].add_(tensor)
            used[step] = value
        if not used:
            return {}, {}
        logger.info(
            "final model: the mean of %d checkpoints by %s: %s",
            *(len(used), self.name, ", ".join(f"step {step} ({value:.4g})" for step, value in used.items())),
        )
        mean = {name: (tensor / len(used)).to(torch.float32) for name, tensor in total.items()}
        return mean, {"averaged": {"by": self.name, "steps": {str(step): value for step, value in used.items()}}}
