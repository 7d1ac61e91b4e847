"""Losses of transducers (Graves, arXiv 1211.3711), exact and pruned (Kuang et al., arXiv 2206.13236), in plain torch.

Letters of shapes: B utterances, T frames, U target units (U1 = U + 1 states of the prediction network), V outputs of
which 0 is the blank, R states in the pruning range of a frame.

A path goes from (frame 0, state 0) to the blank of the last frame and the last state; an arc is a unit, which goes on
to the next state, or a blank, which goes on to the next frame. The exact loss has logits for every frame and state, so
that its memory grows with T x U x V. The pruned one has them for R states of each frame, which a simple loss chooses:
one whose logits are sums of a frame's and a state's, so that all it needs is a matrix product.

The sums over paths run over anti-diagonals in float64, for all utterances at once, without a graph: their gradients are
the arcs' posterior probabilities, which come from one more pass backwards.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

BLANK = 0


class SimpleLoss(NamedTuple):
    """What `simple_loss` gives.

    Attributes:
        loss_B: of each utterance, in nats.
        unit_BTU, blank_BTU1: posterior probability of each arc, detached; `prune_ranges` takes them.
    """

    loss_B: Tensor
    unit_BTU: Tensor
    blank_BTU1: Tensor


def full_loss(logits_BTUV: Tensor, targets_BU: Tensor, frame_lens_B: Tensor, target_lens_B: Tensor) -> Tensor:
    """The exact loss.

    Args:
        logits_BTUV: (B, T, U + 1, V), any floating dtype.
        targets_BU: units, anything past an utterance's length.
        frame_lens_B: valid frames, at least 1.
        target_lens_B: units of each utterance; 0 is allowed.

    Returns:
        (B,) negative log-likelihoods in float32, not averaged.
    """
    symbols_BTU1 = functional.pad(targets_BU.clamp(min=0), (0, 1))[:, None].expand(logits_BTUV.shape[:3])
    unit_BTU1, blank_BTU1 = _ArcScores.apply(logits_BTUV, symbols_BTU1)
    return _PathSum.apply(unit_BTU1[:, :, :-1], blank_BTU1, frame_lens_B, target_lens_B)[0]


def simple_loss(
    am_BTV: Tensor,
    lm_BUV: Tensor,
    targets_BU: Tensor,
    frame_lens_B: Tensor,
    target_lens_B: Tensor,
    lm_only_scale: float = 0.0,
    am_only_scale: float = 0.0,
) -> SimpleLoss:
    """The loss of logits that are am + lm, whose arcs are smoothed by what frames and states say alone.

    Args:
        am_BTV: logits of the frames.
        lm_BUV: (B, U + 1, V) logits of the states.
        targets_BU, frame_lens_B, target_lens_B: see `full_loss`.
        lm_only_scale: weight of the log-probabilities of states alone; those of both get what is left.
        am_only_scale: weight of those of frames, whose prior is the mean over the utterance's own states: the loss of
            an utterance does not depend on others in the batch (k2 takes the mean over the batch).
    """
    am_BTV, lm_BUV = am_BTV.float(), lm_BUV.float()
    tiny = torch.finfo(torch.float32).tiny
    am_top_BT1, lm_top_BU1 = am_BTV.amax(2, keepdim=True).detach(), lm_BUV.amax(2, keepdim=True).detach()
    am_exp_BTV, lm_exp_BUV = (am_BTV - am_top_BT1).exp(), (lm_BUV - lm_top_BU1).exp()
    total_BTU = (am_exp_BTV @ lm_exp_BUV.transpose(1, 2) + tiny).log() + am_top_BT1 + lm_top_BU1.transpose(1, 2)
    symbols_BU1 = targets_BU.clamp(min=0)[:, :, None]
    am_unit_BTU = am_BTV.gather(2, symbols_BU1.transpose(1, 2).expand(-1, am_BTV.shape[1], -1))
    lm_unit_B1U = lm_BUV[:, :-1].gather(2, symbols_BU1).transpose(1, 2)
    am_blank_BT1, lm_blank_B1U = am_BTV[:, :, :1], lm_BUV[:, :, BLANK][:, None]
    both = 1.0 - lm_only_scale - am_only_scale
    unit_BTU = both * (am_unit_BTU + lm_unit_B1U - total_BTU[:, :, :-1])
    blank_BTU1 = both * (am_blank_BT1 + lm_blank_B1U - total_BTU)
    lm_total_BU1 = lm_exp_BUV.sum(2, keepdim=True)
    if lm_only_scale:
        log_total_B1U = (lm_total_BU1.log() + lm_top_BU1).transpose(1, 2)
        unit_BTU = unit_BTU + lm_only_scale * (lm_unit_B1U - log_total_B1U[:, :, :-1])
        blank_BTU1 = blank_BTU1 + lm_only_scale * (lm_blank_B1U - log_total_B1U)
    if am_only_scale:
        valid_BU1 = torch.arange(lm_BUV.shape[1], device=lm_BUV.device) <= target_lens_B[:, None]
        shares_BUV = lm_exp_BUV / lm_total_BU1 * valid_BU1[:, :, None]
        prior_BV = shares_BUV.sum(1) / (target_lens_B + 1)[:, None] + tiny
        log_total_BT1 = (am_exp_BTV @ prior_BV[:, :, None]).log() + am_top_BT1
        prior_unit_B1U = prior_BV.log().gather(1, symbols_BU1[:, :, 0])[:, None]
        unit_BTU = unit_BTU + am_only_scale * (am_unit_BTU + prior_unit_B1U - log_total_BT1)
        blank_BTU1 = blank_BTU1 + am_only_scale * (am_blank_BT1 + prior_BV.log()[:, None, :1] - log_total_BT1)
    return SimpleLoss(*_PathSum.apply(unit_BTU, blank_BTU1, frame_lens_B, target_lens_B))


@torch.no_grad()
def prune_ranges(
    unit_BTU: Tensor, blank_BTU1: Tensor, frame_lens_B: Tensor, target_lens_B: Tensor, num_states: int
) -> Tensor:
    """The states of each frame that the pruned loss takes: those through which most of the probability goes.

    First states never fall from one frame to the next and rise by less than `num_states`, so that paths can follow; the
    first frame begins with state 0, and the last one ends with an utterance's last state.

    Args:
        unit_BTU, blank_BTU1: posteriors of arcs, from `simple_loss`.
        frame_lens_B, target_lens_B: see `full_loss`.
        num_states: of a frame, at least 2; all states where there are fewer.

    Returns:
        (B, T, R) numbers of states, consecutive.
    """
    num_frames, all_states = blank_BTU1.shape[1:]
    num_states = min(num_states, all_states)
    device, frames_T = blank_BTU1.device, torch.arange(num_frames, device=blank_BTU1.device)
    # What leaves a frame from one of the states, without what came into the first of them from below.
    inside_BTS = blank_BTU1.unfold(2, num_states, 1).sum(3)
    inside_BTS = inside_BTS - functional.pad(unit_BTU, (1, 0))[:, :, : inside_BTS.shape[2]]
    first_BT = inside_BTS.argmax(2)
    last_B1 = (target_lens_B - num_states + 1).clamp(min=0)[:, None]
    first_BT = torch.where(frames_T < frame_lens_B[:, None] - 1, first_BT, last_B1)
    first_BT = _smallest_from(first_BT)
    steepest_T = (num_states - 1) * frames_T
    first_BT = steepest_T - _smallest_from(steepest_T - first_BT).clamp(min=0)
    return first_BT[:, :, None] + torch.arange(num_states, device=device)


def _smallest_from(x_BT: Tensor) -> Tensor:
    """The smallest value at or after each place."""
    return x_BT.flip(1).cummin(1).values.flip(1)


def at_ranges(x_BUD: Tensor, ranges_BTR: Tensor) -> Tensor:
    """(B, T, R, D): rows of the states in the ranges, and gradients for (B, U + 1, D) alone."""
    starts_B11 = torch.arange(len(x_BUD), device=x_BUD.device)[:, None, None] * x_BUD.shape[1]
    # An embedding's backward pass is deterministic on every device; those of gather and indexing are not, or are slow.
    return functional.embedding(ranges_BTR + starts_B11, x_BUD.flatten(0, 1))


def pruned_loss(
    logits_BTRV: Tensor, ranges_BTR: Tensor, targets_BU: Tensor, frame_lens_B: Tensor, target_lens_B: Tensor
) -> Tensor:
    """The loss over the paths inside the ranges; never below that over all paths.

    Args:
        logits_BTRV: of the states in the ranges.
        ranges_BTR: of `prune_ranges`.
        targets_BU, frame_lens_B, target_lens_B: see `full_loss`.

    Returns:
        (B,) negative log-likelihoods in float32; infinite where no path stays inside the ranges.
    """
    num_states = targets_BU.shape[1] + 1
    symbols_BU1 = functional.pad(targets_BU.clamp(min=0), (0, 1))
    symbols_BTR = symbols_BU1.gather(1, ranges_BTR.flatten(1)).view(ranges_BTR.shape)
    scores = _ArcScores.apply(logits_BTRV, symbols_BTR)
    outside_BTU = logits_BTRV.new_full((*ranges_BTR.shape[:2], num_states), -torch.inf, dtype=torch.float32)
    unit_BTU1, blank_BTU1 = (outside_BTU.scatter(2, ranges_BTR, values_BTR) for values_BTR in scores)
    return _PathSum.apply(unit_BTU1[:, :, :-1], blank_BTU1, frame_lens_B, target_lens_B)[0]


class _ArcScores(torch.autograd.Function):
    """Log-probabilities of a unit and of the blank at each place of logits (..., V), in float32.

    Beside the logits only their log-sums are kept, and the gradient is made in one tensor of the logits' size.
    """

    @staticmethod
    def forward(ctx, logits, symbols):
        total = torch.stack([part.float().logsumexp(-1) for part in logits]) if len(logits) else logits.float().sum(-1)
        unit = logits.gather(-1, symbols[..., None])[..., 0].float() - total
        ctx.save_for_backward(logits, symbols, total)
        return unit, logits[..., BLANK].float() - total

    @staticmethod
    def backward(ctx, unit_grad, blank_grad):
        logits, symbols, total = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for row in range(len(logits)):  # one utterance after the other, so that temporary copies are small
            part = torch.exp(logits[row].float() - total[row, ..., None])
            part *= -(unit_grad[row] + blank_grad[row])[..., None]
            part.scatter_add_(-1, symbols[row, ..., None], unit_grad[row, ..., None])
            part[..., BLANK] += blank_grad[row]
            grad[row] = part
        return grad, None


class _PathSum(torch.autograd.Function):
    """Minus the log of the sum over all paths, (B,), and the posteriors of the arcs, which are its gradients."""

    @staticmethod
    def forward(ctx, unit_BTU, blank_BTU1, frame_lens_B, target_lens_B):
        with torch.no_grad():
            loss_B, unit_post_BTU, blank_post_BTU1 = _path_sum(unit_BTU, blank_BTU1, frame_lens_B, target_lens_B)
        ctx.save_for_backward(unit_post_BTU, blank_post_BTU1)
        ctx.mark_non_differentiable(unit_post_BTU, blank_post_BTU1)
        return loss_B, unit_post_BTU, blank_post_BTU1

    @staticmethod
    def backward(ctx, loss_grad_B, _unit, _blank):
        unit_post_BTU, blank_post_BTU1 = ctx.saved_tensors
        grad_B11 = -loss_grad_B[:, None, None]
        return unit_post_BTU * grad_B11, blank_post_BTU1 * grad_B11, None, None


def _path_sum(unit_BTU: Tensor, blank_BTU1: Tensor, frame_lens_B: Tensor, target_lens_B: Tensor):
    """(-log of the sum over paths (B,), posteriors of unit arcs (B, T, U), of blank arcs (B, T, U + 1)) in float32."""
    batch, num_frames, num_states = blank_BTU1.shape
    device = blank_BTU1.device
    frames_T1, states_U = torch.arange(num_frames, device=device)[:, None], torch.arange(num_states, device=device)
    frame_lens_B11, target_lens_B11 = frame_lens_B[:, None, None], target_lens_B[:, None, None]
    is_end_BTU = (frames_T1 == frame_lens_B11 - 1) & (states_U == target_lens_B11)
    exists_BTU = (frames_T1 < frame_lens_B11) & (states_U <= target_lens_B11)
    blank_BTU = blank_BTU1.double().masked_fill(~exists_BTU, -torch.inf)
    # Within an utterance the blank of the last frame leads nowhere, but from the last state to the end.
    to_end_BTU = blank_BTU.masked_fill(~is_end_BTU, -torch.inf)
    blank_BTU = blank_BTU.masked_fill(frames_T1 >= frame_lens_B11 - 1, -torch.inf)
    unit_BTU = functional.pad(unit_BTU.double(), (0, 1), value=-torch.inf)
    unit_BTU = unit_BTU.masked_fill(~(exists_BTU & (states_U < target_lens_B11)), -torch.inf)

    # Row d of a skewed array holds the places whose frame and state add up to d, by state.
    diagonals_D1 = torch.arange(num_frames + num_states - 1, device=device)[:, None]
    index_DU = diagonals_D1 - states_U
    there_DU = (index_DU >= 0) & (index_DU < num_frames)
    index_BDU = index_DU.clamp(0, num_frames - 1).expand(batch, -1, -1)

    def skew(x_BTU: Tensor) -> Tensor:
        return x_BTU.gather(1, index_BDU).masked_fill(~there_DU, -torch.inf).transpose(0, 1).contiguous()

    unit_DBU, blank_DBU, to_end_DBU = skew(unit_BTU), skew(blank_BTU), skew(to_end_BTU)
    from_start_DBU = _forward(unit_DBU, blank_DBU)
    to_finish_DBU, after_unit_DBU, after_blank_DBU = _backward(unit_DBU, blank_DBU, to_end_DBU)
    total_B = to_finish_DBU[0, :, 0]
    reached_B1 = torch.isfinite(total_B)[:, None]

    def posterior(arc_DBU: Tensor) -> Tensor:
        value_DBU = torch.where(reached_B1, (from_start_DBU + arc_DBU - total_B[:, None]).exp(), 0.0)
        frame_index_BTU = (frames_T1 + states_U).expand(batch, -1, -1)
        return value_DBU.transpose(0, 1).gather(1, frame_index_BTU).float()

    blank_post_BTU1 = posterior(torch.logaddexp(after_blank_DBU, to_end_DBU))
    return -total_B.float(), posterior(after_unit_DBU)[:, :, :-1], blank_post_BTU1


def _forward(unit_DBU: Tensor, blank_DBU: Tensor) -> Tensor:
    """Log-sums over the paths from the start to each place."""
    sums_DBU = torch.full_like(unit_DBU, -torch.inf)
    sums_DBU[0, :, 0] = 0.0
    for d in range(1, len(sums_DBU)):
        before_BU = sums_DBU[d - 1]
        by_unit_BU = functional.pad((before_BU + unit_DBU[d - 1])[:, :-1], (1, 0), value=-torch.inf)
        torch.logaddexp(before_BU + blank_DBU[d - 1], by_unit_BU, out=sums_DBU[d])
    return sums_DBU


def _backward(unit_DBU: Tensor, blank_DBU: Tensor, to_end_DBU: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sums over the paths from each place to the end: all of them, those by a unit, those by a blank."""
    by_unit_DBU, by_blank_DBU = torch.full_like(unit_DBU, -torch.inf), torch.full_like(unit_DBU, -torch.inf)
    sums_DBU = to_end_DBU.clone()
    for d in range(len(sums_DBU) - 2, -1, -1):
        after_BU = sums_DBU[d + 1]
        torch.add(unit_DBU[d, :, :-1], after_BU[:, 1:], out=by_unit_DBU[d, :, :-1])
        torch.add(blank_DBU[d], after_BU, out=by_blank_DBU[d])
        arcs_BU = torch.logaddexp(by_unit_DBU[d], by_blank_DBU[d])
        torch.logaddexp(arcs_BU, sums_DBU[d], out=sums_DBU[d])
    return sums_DBU, by_unit_DBU, by_blank_DBU
