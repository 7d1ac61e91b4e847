"""Collapse: a model that predicts the same token everywhere, or whose representations lie in a few directions.

Both show on one batch of cuts that never changes, long before anybody looks at downstream tasks. The number of tokens
in use is the perplexity exp(entropy) of the predicted tokens of a codebook, to be compared with that of the targets;
the number of directions in use is the effective rank exp(entropy of the covariance's normalised eigenvalues) (Roy and
Vetterli, 2007).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spear import compat
from spear.data import Batch, Plan, PlanLimits, PretrainDataset, Sources
from spear.log import get_logger
from spear.models.heads import IGNORE
from spear.models.mask import apply_masks
from spear.seeds import numpy_rng

logger = get_logger(__name__)
PROBE_CUTS = 16
# A token that is predicted so often stands for a collapsed codebook, unless the targets are as uneven.
TOP_SHARE = 0.9
_LOGITS_FRAMES = 512


@dataclass(frozen=True)
class Usage:
    """How the tokens of one codebook are used: their perplexity, and the most frequent one with its share."""

    perplexity: float
    top_token: int
    top_share: float


def token_usage(tokens_MC: Tensor, codebook_size: int) -> list[Usage]:
    """Usage of each codebook.

    Args:
        tokens_MC: M frames of C tokens; `IGNORE` entries do not count.
        codebook_size: number of different tokens.
    """
    usages = []
    for tokens_M in tokens_MC.T:
        counts = torch.bincount(tokens_M[tokens_M != IGNORE], minlength=codebook_size).double()
        shares = counts / counts.sum().clamp(min=1)
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
        usages.append(Usage(float(entropy.exp()), int(shares.argmax()), float(shares.max())))
    return usages


def effective_rank(x_ND: Tensor) -> float:
    """exp(entropy) of the normalised eigenvalues of the covariance of N vectors: 1 (a line) to D (white)."""
    x_ND = x_ND.double()
    x_ND = x_ND - x_ND.mean(0)
    eigenvalues = torch.linalg.eigvalsh(x_ND.T @ x_ND).clamp(min=0)
    shares = eigenvalues / eigenvalues.sum().clamp(min=1e-300)
    return float(torch.exp(-(shares * shares.clamp(min=1e-300).log()).sum()))


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
        patience_steps: before this step a codebook that predicts one token is only reported when it was better before:
            at first every model predicts the most frequent token.
        quiet: measure without warnings, on ranks that take part because the model is sharded.
    """

    def __init__(self, patience_steps: int, quiet: bool = False):
        self.patience_steps, self.quiet = patience_steps, quiet
        self._best: dict = {}
        self._reported: set[str] = set()

    @torch.no_grad()
    def look(self, model, inputs: tuple, dtype: torch.dtype, step: int) -> dict[str, float]:
        """Numbers for the log; what they mean is logged as warnings, each once until it is over.

        Args:
            model: `SpearPretrainModel`; its mode is restored.
            inputs: arguments of its forward pass for the probe batch, with masks.
            dtype: of autocast.
            step: optimizer steps done.
        """
        features_BTF, lens_B, targets, weights, time_mask_BT, channel_mask_BF = inputs
        training = model.training
        model.eval()
        with compat.autocast(features_BTF.device.type, dtype):
            masked_BTF = apply_masks(features_BTF, time_mask_BT, channel_mask_BF, model.mask_emb)
            encoded = model.encode(masked_BTF, lens_B, with_hidden_states=False)
        model.train(training)
        hidden_BTD = encoded.encoder_out.float()
        frames = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)
        rank = effective_rank(hidden_BTD[frames < encoded.encoder_out_lens[:, None]])
        row = {"effective_rank": rank}
        warnings = self._judge_rank(rank, hidden_BTD.shape[-1])
        for name, head in model.heads.items():
            used_BT = (targets[name] != IGNORE).any(dim=2) & (weights[name] > 0)[:, None]
            hidden_MD = hidden_BTD[used_BT]
            if not len(hidden_MD):
                continue
            predicted_MC = torch.cat([head.logits(part).argmax(-1) for part in hidden_MD.split(_LOGITS_FRAMES)])
            predicted = token_usage(predicted_MC, head.linear2_bias.shape[1])
            wanted = token_usage(targets[name][used_BT], head.linear2_bias.shape[1])
            row[f"perplexity/{name}/predicted"] = float(np.mean([usage.perplexity for usage in predicted]))
            row[f"perplexity/{name}/target"] = float(np.mean([usage.perplexity for usage in wanted]))
            warnings += self._judge_tokens(name, predicted, wanted, step)
        self._report(warnings, step)
        return row

    def _judge_rank(self, rank: float, dim: int) -> list[tuple[str, str]]:
        best = self._best["rank"] = max(self._best.get("rank", 0.0), rank)
        if rank > 0.25 * best or rank > 0.1 * dim:
            return []
        words = f"the encoder's output uses {rank:.1f} of {dim} directions, down from {best:.1f}"
        return [("rank", f"{words}: representations collapse; look at the loss, and lower optimizer.base_lr")]

    def _judge_tokens(self, name: str, predicted: list[Usage], wanted: list[Usage], step: int) -> list[tuple[str, str]]:
        found, worst = [], []
        for number, (mine, theirs) in enumerate(zip(predicted, wanted)):
            best = self._best[name, number] = max(self._best.get((name, number), 0.0), mine.perplexity)
            if theirs.top_share > TOP_SHARE:
                found.append(
                    f"codebook {number}: the targets are token {theirs.top_token} {100 * theirs.top_share:.0f} % of "
                    "the time, so there is nothing to learn; look at the quantizer's report"
                )
                worst.append(2.0)
            elif (
                mine.top_share > TOP_SHARE
                and 2 * mine.perplexity < theirs.perplexity
                and (step >= self.patience_steps or best > 2 * mine.perplexity)
            ):
                found.append(
                    f"codebook {number} predicts one token ({mine.top_token}) {100 * mine.top_share:.0f} % of the "
                    f"time; the most frequent target has {100 * theirs.top_share:.0f} %"
                )
                worst.append(mine.top_share - theirs.top_share)
        if not found:
            return []
        found.insert(0, found.pop(int(np.argmax(worst))))
        more = f"; and {len(found) - 1} more of its {len(predicted)} codebooks" if len(found) > 1 else ""
        return [(name, f"stream '{name}', {found[0]}{more}")]

    def _report(self, warnings: list[tuple[str, str]], step: int) -> None:
        for key, text in warnings:
            if key not in self._reported and not self.quiet:
                logger.warning("collapse watch at step %d: %s", step, text)
        self._reported = {key for key, _ in warnings}


def probe_rng() -> np.random.Generator:
    """The masks of the probe batch."""
    return numpy_rng(0, "probe_mask")
