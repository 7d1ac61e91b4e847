"""Beam searches: CTC over prefixes, and transducers with one unit a frame; a model of units may have a say in both."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spear.models.greedy import Hypothesis
from spear.nn.transducer import BLANK
from spear.recognise.unit_model import UnitModel

BEAM = 8
_SURE = math.log(0.999)  # a blank of this probability lets nothing else through


@dataclass(eq=False)
class _Prefix:
    """A sequence of units: one more than its parent, and what a model says of it. There is one object for each."""

    unit: int = BLANK
    parent: "_Prefix | None" = None
    frame: int = 0
    log_prob: float = -math.inf
    children: dict[int, "_Prefix"] = field(default_factory=dict)
    model: UnitModel | None = None
    state: Any = None
    said: float = 0.0

    def child(self, unit: int) -> "_Prefix":
        if unit not in self.children:
            child = self.children[unit] = _Prefix(unit, self)
            if self.model is not None:
                child.model = self.model
                child.state, more = self.model.after(self.state, unit)
                child.said = self.said + more
        return self.children[unit]

    def heard(self, frame: int, log_prob: float) -> None:
        """Notes where the last unit is most certain."""
        if log_prob > self.log_prob:
            self.frame, self.log_prob = frame, log_prob

    def hypothesis(self, score: float) -> Hypothesis:
        """All units, the first one first."""
        nodes, node = [], self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        found = Hypothesis(score=score)
        for node in reversed(nodes):
            found.add(node.unit, node.frame, node.frame, min(1.0, math.exp(node.log_prob)))
        return found


@torch.no_grad()
def ctc_prefix_beam(
    log_probs_BTV: Tensor, lens_B: Tensor, beam: int = BEAM, model: UnitModel | None = None
) -> list[Hypothesis]:
    """The most likely sequence of units, over all its alignments that stay in the beam.

    Args:
        log_probs_BTV: of the units; 0 is the blank.
        lens_B: valid frames.
        beam: sequences that are kept, and units that are looked at in a frame.
        model: whose opinion is added to that of the head.
    """
    best = log_probs_BTV.float().topk(min(beam, log_probs_BTV.shape[2]), dim=2)
    blanks_BT = log_probs_BTV[:, :, BLANK].float().cpu().numpy()
    values_BTK, units_BTK = best.values.cpu().numpy(), best.indices.cpu().numpy()
    rows = zip(blanks_BT, values_BTK, units_BTK, lens_B.tolist())
    return [
        _ctc_beam(blanks_T[:n], values_TK[:n], units_TK[:n], beam, model) for blanks_T, values_TK, units_TK, n in rows
    ]


def _ctc_beam(
    blanks_T: np.ndarray, values_TK: np.ndarray, units_TK: np.ndarray, beam: int, model: UnitModel | None
) -> Hypothesis:
    empty = _Prefix(model=model, state=model.start() if model else None)
    # Of each sequence: log-probability of the alignments that end with a blank, and of those that end with its unit.
    kept: dict[_Prefix, tuple[float, float]] = {empty: (0.0, -math.inf)}
    for frame, (blank, values, units) in enumerate(zip(blanks_T.tolist(), values_TK.tolist(), units_TK.tolist())):
        if blank > _SURE:
            kept = {prefix: (_add(*ends) + blank, -math.inf) for prefix, ends in kept.items()}
            continue
        found: dict[_Prefix, list[float]] = {}
        for prefix, (by_blank, by_unit) in kept.items():
            total = _add(by_blank, by_unit)
            _collect(found, prefix, 0, total + blank)
            for value, unit in zip(values, units):
                if unit == BLANK:
                    continue
                child = prefix.child(unit)
                if unit == prefix.unit:
                    _collect(found, prefix, 1, by_unit + value)
                    prefix.heard(frame, value)
                    _collect(found, child, 1, by_blank + value)
                else:
                    _collect(found, child, 1, total + value)
                child.heard(frame, value)
        best = sorted(found.items(), key=lambda entry: -_add(*entry[1]) - entry[0].said)[:beam]
        kept = {prefix: (ends[0], ends[1]) for prefix, ends in best}
    totals = {
        prefix: _add(*ends) + prefix.said + (model.end(prefix.state) if model else 0.0) for prefix, ends in kept.items()
    }
    best = max(totals, key=totals.get)
    return best.hypothesis(totals[best])


def _collect(found: dict[_Prefix, list[float]], prefix: _Prefix, which: int, value: float) -> None:
    ends = found.setdefault(prefix, [-math.inf, -math.inf])
    ends[which] = _add(ends[which], value)


def _add(first: float, second: float) -> float:
    """log(exp(first) + exp(second))."""
    high, low = (first, second) if first > second else (second, first)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


@torch.no_grad()
def transducer_beam(
    head: nn.Module, hidden_BTD: Tensor, lens_B: Tensor, beam: int = 4, model: UnitModel | None = None
) -> list[Hypothesis]:
    """Modified beam search: at most one unit a frame, and sequences that are equal are added up.

    All sequences of all utterances go through the network together.

    Args:
        head: a `spear.models.transducer_head.TransducerHead`.
        hidden_BTD: what its `read` gives.
        lens_B: valid frames.
        beam: sequences of an utterance that are kept.
        model: whose opinion is added to that of the head, for twice as many sequences as are kept.

    Returns:
        for each utterance the sequence of the largest log-probability over its number of units.
    """
    opinions = _Opinions(model) if model else None
    frames_BTD, device = head.from_encoder(hidden_BTD), hidden_BTD.device
    lens, context = lens_B.tolist(), head.prediction.context
    kept: list[dict[tuple[int, ...], Hypothesis]] = [{(): Hypothesis()} for _ in lens]
    for frame in range(max(lens, default=0)):
        active = [row for row, length in enumerate(lens) if frame < length]
        flat = [(row, found) for row in active for found in kept[row].values()]
        contexts = [([BLANK] * context + found.units)[-context:] for _, found in flat]
        states_ND = head.from_prediction(head.prediction(torch.tensor(contexts, device=device)))[:, 0]
        rows_N = torch.tensor([row for row, _ in flat], device=device)
        arcs_NV = head.joined(frames_BTD[rows_N, frame], states_ND).float().log_softmax(-1)
        totals_NV = arcs_NV + torch.tensor([found.score for _, found in flat], device=device)[:, None]
        start = 0
        for row in active:
            hypotheses = list(kept[row].values())
            part = totals_NV[start : start + len(hypotheses)].flatten()
            best = part.topk(min(beam if model is None else 2 * beam, len(part)))
            arcs = arcs_NV[start : start + len(hypotheses)].flatten()[best.indices].tolist()
            kept[row] = _extended(
                hypotheses, best.values.tolist(), best.indices.tolist(), arcs, frame, totals_NV.shape[1], opinions
            )
            if model is not None:
                likely = sorted(kept[row].items(), key=lambda entry: -entry[1].score)
                kept[row] = dict(likely[:beam])
            start += len(hypotheses)
        if opinions:
            opinions.keep(kept)
    if opinions:
        for found in kept:
            for units, each in found.items():
                each.score += model.end(opinions.state(units))
    return [max(found.values(), key=lambda each: each.score / (len(each.units) + context)) for found in kept]


class _Opinions:
    """What a model says of sequences that may go on."""

    def __init__(self, model: UnitModel):
        self.model, self._known = model, {(): (model.start(), 0.0)}

    def keep(self, kept: list[dict[tuple[int, ...], Hypothesis]]) -> None:
        """Forgets all other sequences, which would take memory by the square of a recording's length."""
        self._known = {units: self._known[units] for found in kept for units in found}

    def state(self, units: tuple[int, ...]) -> Any:
        """Behind a sequence."""
        return self._known[units][0]

    def of_last(self, units: tuple[int, ...]) -> float:
        """Of the last unit of a sequence, after those before it."""
        if units not in self._known:
            self._known[units] = self.model.after(self.state(units[:-1]), units[-1])
        return self._known[units][1]


def _extended(
    hypotheses: list[Hypothesis], scores, places, arcs, frame: int, num_outputs: int, opinions: _Opinions | None
) -> dict:
    """The sequences after a frame; equal ones are added up, and keep the frames of the likelier."""
    found: dict[tuple[int, ...], Hypothesis] = {}
    for score, place, arc in zip(scores, places, arcs):
        old, unit = hypotheses[place // num_outputs], place % num_outputs
        new = Hypothesis([*old.units], [*old.starts], [*old.ends], [*old.probabilities], score)
        if unit != BLANK:
            new.add(unit, frame, frame, min(1.0, math.exp(arc)))
            new.score += opinions.of_last(tuple(new.units)) if opinions else 0.0
        same = found.get(key := tuple(new.units))
        if same is not None:
            same.score = _add(same.score, new.score)  # the first one was likelier
        else:
            found[key] = new
    return found
