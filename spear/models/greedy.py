"""The most likely unit at every step, for a batch at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spear.models.heads import IGNORE
from spear.nn.transducer import BLANK


@dataclass
class Hypothesis:
    """What was said in an utterance, by unit.

    Attributes:
        units: numbers of a vocabulary.
        starts, ends: first and last frame of each unit.
        probabilities: of each unit where it is most certain, 0 to 1.
        score: log-probability of the whole, as the decoder counts it.
    """

    units: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    score: float = 0.0

    def add(self, unit: int, start: int, end: int, probability: float) -> None:
        """Appends a unit."""
        self.units.append(unit)
        self.starts.append(start)
        self.ends.append(end)
        self.probabilities.append(probability)


@torch.no_grad()
def ctc_greedy(
    log_probs_BTV: Tensor, lens_B: Tensor, found: list[Hypothesis] | None = None, first_frame: int = 0
) -> list[Hypothesis]:
    """The best unit of every frame, repeats taken together and blanks away.

    Args:
        log_probs_BTV: of the units; 0 is the blank.
        lens_B: valid frames.
        found: of the frames before these, which are continued; None at the beginning.
        first_frame: number of the first of these frames.
    """
    best = log_probs_BTV.max(2)
    picks_BT, scores_BT = best.indices.tolist(), best.values.tolist()
    found = [Hypothesis() for _ in picks_BT] if found is None else found
    for hypothesis, picks, scores, length in zip(found, picks_BT, scores_BT, lens_B.tolist()):
        hypothesis.score += sum(scores[:length])
        is_said = bool(hypothesis.ends) and hypothesis.ends[-1] == first_frame - 1
        last = hypothesis.units[-1] if is_said else BLANK
        for frame, unit in enumerate(picks[:length], first_frame):
            probability = min(1.0, math.exp(scores[frame - first_frame]))
            if unit != BLANK and unit == last:
                hypothesis.ends[-1] = frame
                hypothesis.probabilities[-1] = max(hypothesis.probabilities[-1], probability)
            elif unit != BLANK:
                hypothesis.add(unit, frame, frame, probability)
            last = unit
    return found


@torch.no_grad()
def transducer_greedy(
    head: nn.Module,
    hidden_BTD: Tensor,
    lens_B: Tensor,
    most_units: int = 5,
    found: list[Hypothesis] | None = None,
    first_frame: int = 0,
) -> list[Hypothesis]:
    """The best arc at every step.

    Args:
        head: a `spear.models.transducer_head.TransducerHead`.
        hidden_BTD: what `head.read` gives.
        lens_B: valid frames.
        most_units: of a frame.
        found, first_frame: see `ctc_greedy`.
    """
    batch, device = len(hidden_BTD), hidden_BTD.device
    found = [Hypothesis() for _ in range(batch)] if found is None else found
    frames_BTD = head.from_encoder(hidden_BTD)
    context = head.prediction.context
    before = [([BLANK] * context + hypothesis.units)[-context:] for hypothesis in found]
    context_BC = torch.tensor(before, dtype=torch.int64, device=device).view(batch, context)
    states_BD = head.from_prediction(head.prediction(context_BC))[:, 0]
    for frame in range(int(lens_B.max()) if batch else 0):
        active_B = frame < lens_B.to(device)
        for _ in range(most_units):
            log_probs_BV = head.joined(frames_BTD[:, frame], states_BD).float().log_softmax(-1)
            best = log_probs_BV.max(1)
            active_B = active_B & (best.indices != BLANK)
            if not active_B.any():
                break
            rows = active_B.nonzero()[:, 0]
            units, scores = best.indices[rows], best.values[rows]
            for row, unit, score in zip(rows.tolist(), units.tolist(), scores.tolist()):
                found[row].add(unit, first_frame + frame, first_frame + frame, min(1.0, math.exp(score)))
                found[row].score += score
            context_BC[rows] = torch.cat([context_BC[rows, 1:], units[:, None]], dim=1)
            states_BD[rows] = head.from_prediction(head.prediction(context_BC[rows]))[:, 0]
    return found


def padded(found: Sequence[Hypothesis]) -> Tensor:
    """(B, U) int64 units of hypotheses, -100 past the end of each."""
    units_BU = torch.full((len(found), max((len(each.units) for each in found), default=0)), IGNORE)
    for row, each in zip(units_BU, found):
        row[: len(each.units)] = torch.tensor(each.units, dtype=torch.int64)
    return units_BU
