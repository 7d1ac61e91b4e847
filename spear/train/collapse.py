"""Collapse: a model that predicts the same everywhere, or whose representations lie in a few directions.

Both show on one batch of cuts that never changes, long before anybody looks at downstream tasks. What predictions look
like, the objectives say; the number of directions in use is the effective rank exp(entropy of the covariance's
normalised eigenvalues) (Roy and Vetterli, 2007).
"""

from collections.abc import Mapping

import numpy as np
import torch

from spear import compat
from spear.data import Batch, Plan, PlanLimits, PretrainDataset, Sources
from spear.log import get_logger
from spear.seeds import numpy_rng
from spear.train.directions import effective_rank
from spear.train.objectives import Objective

logger = get_logger(__name__)
PROBE_CUTS = 16


def probe_batch(data: PretrainDataset, max_seconds: float = 200.0) -> Batch:
    """A few cuts spread over all sources, unmixed: the same batch in every run and at every step.

    Args:
        data: what to choose from.
        max_seconds: limit of a training batch, padding included. Without gradients four times as much fits.
    """
    plain = PretrainDataset(Sources(data.cuts, None, data.streams, {}), seed=0, limits=PlanLimits())
    durations = data.cuts.durations_seconds
    for count in range(PROBE_CUTS, 0, -1):  # fewer cuts, but always from the first source to the last
        chosen = np.unique(np.linspace(0, len(data.cuts) - 1, count).round().astype(np.int64))
        if durations[chosen].max() * len(chosen) <= 4 * max_seconds:
            break
    plan = Plan(chosen, np.asarray([0, len(chosen)]), np.asarray([float(durations[chosen].sum())]), 1, "probe")
    return plain.batch(plan, 0, 0, 0)


class CollapseWatch:
    """Looks at a trainer's model now and then.

    Args:
        objectives: by stream.
        patience_steps: before this step a head that predicts the same everywhere is only reported when it was better
            before: at first every model predicts what is most frequent.
        quiet: measure without warnings, on ranks that take part because the model is sharded.
    """

    def __init__(self, objectives: Mapping[str, Objective], patience_steps: int, quiet: bool = False):
        self.objectives, self.patience_steps, self.quiet = objectives, patience_steps, quiet
        self._best_rank = 0.0
        self._reported: set[str] = set()

    @torch.no_grad()
    def look(self, model, inputs: tuple, dtype: torch.dtype, step: int) -> tuple[dict[str, float], str]:
        """Numbers for the log, and the same in words; what they mean is logged as warnings, each once until it is over.

        Args:
            model: `SpearPretrainModel`; its mode is restored.
            inputs: arguments of its forward pass for the probe batch, with masks.
            dtype: of autocast.
            step: optimizer steps done.
        """
        features_BTF, lens_B, targets, weights, *masks = inputs
        training = model.training
        model.eval()
        with compat.autocast(features_BTF.device.type, dtype):
            encoded = model.encode_masked(features_BTF, lens_B, *masks)
        model.train(training)
        hidden_BTD = encoded.hidden_BTD.float()
        frames = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)
        rank = effective_rank(hidden_BTD[frames < encoded.lens_B[:, None]])
        row, words = {"effective_rank": rank}, [f"rank of the states {rank:.1f}"]
        warnings = self._judge_rank(rank, hidden_BTD.shape[-1])
        encoded = encoded._replace(hidden_BTD=hidden_BTD, layers=[layer_BTD.float() for layer_BTD in encoded.layers])
        for name, objective in self.objectives.items():
            early = step < self.patience_steps
            found = objective.probe(model.heads[name], encoded, targets[name], weights[name], early)
            row |= found.row
            words += [found.words] if found.words else []
            warnings += [(name, text) for text in found.warnings]
        self._report(warnings, step)
        return row, ", ".join(words)

    def _judge_rank(self, rank: float, dim: int) -> list[tuple[str, str]]:
        best = self._best_rank = max(self._best_rank, rank)
        if rank > 0.25 * best or rank > 0.1 * dim:
            return []
        words = f"the encoder's output uses {rank:.1f} of {dim} directions, down from {best:.1f}"
        return [("rank", f"{words}: representations collapse; look at the loss, and lower optimizer.base_lr")]

    def _report(self, warnings: list[tuple[str, str]], step: int) -> None:
        for key, text in warnings:
            if key not in self._reported and not self.quiet:
                logger.warning("collapse watch at step %d: %s", step, text)
        self._reported = {key for key, _ in warnings}


def probe_rng() -> np.random.Generator:
    """The masks of the probe batch."""
    return numpy_rng(0, "probe_mask")
