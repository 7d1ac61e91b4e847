"""Which tokens a head predicts, beside which it should: a head that says the same everywhere has collapsed.

The number of tokens in use is the perplexity exp(entropy) of the predicted tokens of a codebook, to be compared with
that of the targets.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spear.models.heads import IGNORE, CodebookHead, Encoded, frames_with_targets
from spear.train.objectives.base import Context, Objective, Probe

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


class TokenWatch:
    """Looks at the tokens that the head of a stream predicts.

    Args:
        name: of the stream.
    """

    def __init__(self, name: str):
        self.name = name
        self._best: dict[int, float] = {}

    def look(self, head: CodebookHead, encoded: Encoded, targets_BTC: Tensor, weights_B: Tensor, early: bool) -> Probe:
        """See `Objective.probe`; while it is `early`, a codebook of one token is told when it was better before."""
        used_BT = frames_with_targets(targets_BTC, weights_B)
        hidden_MD = encoded.hidden_BTD[used_BT]
        if not len(hidden_MD):
            return Probe({})
        size = head.linear2_bias.shape[1]
        frames = max(1, min(_LOGITS_FRAMES, head.chunk_frames))
        predicted_MC = torch.cat([head.logits(part).argmax(-1) for part in hidden_MD.split(frames)])
        predicted, wanted = token_usage(predicted_MC, size), token_usage(targets_BTC[used_BT], size)
        means = [float(np.mean([usage.perplexity for usage in usages])) for usages in (predicted, wanted)]
        row = {f"perplexity/{self.name}/predicted": means[0], f"perplexity/{self.name}/target": means[1]}
        words = f"{self.name} predicts {means[0]:.0f} codes where its targets use {means[1]:.0f}"
        return Probe(row, words, tuple(self._judge(predicted, wanted, early)))

    def _judge(self, predicted: list[Usage], wanted: list[Usage], early: bool) -> list[str]:
        found, worst = [], []
        for number, (mine, theirs) in enumerate(zip(predicted, wanted)):
            best = self._best[number] = max(self._best.get(number, 0.0), mine.perplexity)
            if theirs.top_share > TOP_SHARE:
                found.append(
                    f"codebook {number}: the targets are token {theirs.top_token} {100 * theirs.top_share:.0f} % of "
                    "the time, so there is nothing to learn; look at the quantizer's report"
                )
                worst.append(2.0)
            elif (
                mine.top_share > TOP_SHARE
                and 2 * mine.perplexity < theirs.perplexity
                and (not early or best > 2 * mine.perplexity)
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
        return [f"stream '{self.name}', {found[0]}{more}"]


class CodebookObjective(Objective):
    """Base of the objectives whose targets are codes that a `CodebookHead` predicts."""

    unit, measures = "nats", ("accuracy",)

    def __init__(self, context: Context):
        super().__init__(context)
        self._watch = TokenWatch(self.name)

    def probe(self, head: CodebookHead, encoded: Encoded, targets: Tensor, weights_B: Tensor, early: bool) -> Probe:
        """Tokens in use."""
        return self._watch.look(head, encoded, targets, weights_B, early)
