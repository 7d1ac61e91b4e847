"""Attention weights computed once for a layer, and the two modules that consume them (Zipformer, 3.5).

Weights are softmax(q.k + p.position(key - query)) without a 1/sqrt(d) factor. The positional term has few dimensions
(4 a head) and depends on the offset only: see `spear.nn.relative`.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spear import compat
from spear.nn.balancer import Balancer
from spear.nn.linear import Linear, small
from spear.nn.relative import add_relative_scores, relative_scores_backward
from spear.nn.schedule import ScheduledFloat, happens
from spear.nn.whiten import Whiten, whitening_limit

_PADDED_SCORE = -1000.0
_SCORE_LIMIT = 25.0
_SCORE_PENALTY = 1e-4


def _hide_padding(scores_BHTT: Tensor, padding_BT: Tensor) -> None:
    """Sets the scores of padded keys to -1000, after which their weights and gradients are exactly zero."""
    if scores_BHTT.device.type != "cpu":
        scores_BHTT.masked_fill_(padding_BT[:, None, None], _PADDED_SCORE)
        return
    # Padding is a suffix, and filling it costs less than passing over all scores.
    for scores_HTT, length in zip(scores_BHTT, (~padding_BT).sum(1).tolist()):
        scores_HTT[:, :, length:] = _PADDED_SCORE


class _AttentionWeights(torch.autograd.Function):
    """Scores and softmax in one node: neither the scores nor their positional term are kept for backward."""

    @staticmethod
    def forward(ctx, q_NTD, k_NTD, p_NTC, position_HCR, padding_BT, num_heads, penalise, hidden_TT=None):
        # On a GPU autocast would make the weights float32, and every consumer would convert them back.
        with compat.disabled_autocast(q_NTD.device.type):
            scores = torch.bmm(q_NTD, k_NTD.mT)
            add_relative_scores(scores, p_NTC, position_HCR)
            over = None
            if penalise:
                over = scores.sign() * (scores.abs() > _SCORE_LIMIT)
                over = over * _SCORE_PENALTY if over.any() else None
            if hidden_TT is not None:
                scores.masked_fill_(hidden_TT, _PADDED_SCORE)
            if padding_BT is not None:
                _hide_padding(scores.unflatten(0, (-1, num_heads)), padding_BT)
            weights = torch.softmax(scores, dim=-1)
        first_head = weights.unflatten(0, (-1, num_heads))[:, 0].contiguous()
        ctx.save_for_backward(q_NTD, k_NTD, p_NTC, position_HCR, weights, over)
        ctx.num_heads = num_heads
        return weights, first_head

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_weights, grad_first):
        q, k, p, position, weights, over = ctx.saved_tensors
        grad = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        # Softmax's backward is linear, so the extra consumer of head 0 can be added after it.
        first = weights.unflatten(0, (-1, ctx.num_heads))[:, 0]
        grad.unflatten(0, (-1, ctx.num_heads))[:, 0].add_(
            torch._softmax_backward_data(grad_first, first, -1, weights.dtype)
        )
        if over is not None:
            grad.add_(over)
        grad_q, grad_k = torch.bmm(grad, k), torch.bmm(grad.mT, q)
        grad_p, grad_position = relative_scores_backward(grad, p, position)
        return grad_q, grad_k, grad_p, grad_position, None, None, None, None


class AttentionWeights(nn.Module):
    """Multi-head attention weights with compressed relative positions.

    Args:
        dim: input channels; position_dim: width of the positional features; num_heads: heads;
        query_head_dim, position_head_dim: per-head widths of content and positional queries.
    """

    def __init__(self, dim: int, position_dim: int, num_heads: int, query_head_dim: int, position_head_dim: int):
        super().__init__()
        self.num_heads = num_heads
        query_dim = num_heads * query_head_dim
        self.widths = [query_dim, query_dim, num_heads * position_head_dim]
        self.in_proj = small(Linear(dim, sum(self.widths)), query_head_dim**-0.25)
        self.linear_pos = small(Linear(position_dim, self.widths[2], bias=False), 0.05)
        self.whiten_keys = Whiten(whitening_limit(3.0), grad_scale=0.025, num_groups=num_heads)
        self.balance_keys = Balancer(0.4, 0.6, 0.0, 100.0, probability=0.025)
        self.position_skip_rate = ScheduledFloat((0.0, 0.5), (4000.0, 0.0))

    def split_heads(self, x_BTC: Tensor) -> Tensor:
        """(B, T, H*C) -> (B*H, T, C)."""
        return x_BTC.unflatten(2, (self.num_heads, -1)).transpose(1, 2).flatten(0, 1)

    def forward(
        self, x_BTD: Tensor, position_RP: Tensor, padding_BT: Tensor | None, hidden_TT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights of all heads (B*H, T, T) and of the first head alone (B, T, T).

        Args:
            x_BTD: the layer's input.
            position_RP: (2T-1, position_dim) features of the offsets.
            padding_BT: True at padded frames; None without padding.
            hidden_TT: True where a frame may not attend to another; None where it may attend to all.
        """
        q, k, p = self.in_proj(x_BTD).split(self.widths, dim=-1)
        k = self.whiten_keys(self.balance_keys(k))
        if self.training and happens(float(self.position_skip_rate)):
            p = p * 0.0
        position_HCR = self.linear_pos(position_RP).unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
        return _AttentionWeights.apply(
            self.split_heads(q),
            self.split_heads(k),
            self.split_heads(p),
            position_HCR,
            padding_BT,
            self.num_heads,
            self.training and happens(0.1),
            hidden_TT,
        )


def constant_weights(weights: Tensor) -> Tensor:
    """Attention spread evenly over the keys that `weights` (..., T, T) can see."""
    visible = (weights > 0).to(weights.dtype)
    return visible / visible.sum(-1, keepdim=True)


class SelfAttention(nn.Module):
    """Narrow values (12 a head) mixed over time by given attention weights."""

    def __init__(self, dim: int, num_heads: int, value_head_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = Linear(dim, num_heads * value_head_dim)
        self.out_proj = small(Linear(num_heads * value_head_dim, dim), 0.05)
        self.whiten = Whiten(whitening_limit(7.5, ratio=3.0))

    def forward(self, x_BTD: Tensor, weights_NTT: Tensor) -> Tensor:
        """(B, T, D) and weights (B*H, T, T) -> (B, T, D)."""
        batch = x_BTD.shape[0]
        v_NTC = self.in_proj(x_BTD).unflatten(2, (self.num_heads, -1)).transpose(1, 2).flatten(0, 1)
        mixed_NTC = torch.bmm(weights_NTT, v_NTC)
        mixed_BTC = mixed_NTC.unflatten(0, (batch, self.num_heads)).transpose(1, 2).flatten(2)
        return self.whiten(self.out_proj(mixed_BTC))


class NonlinAttention(nn.Module):
    """Gated wide values mixed by one head: y * (weights @ (x * tanh(s)))."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = 3 * dim // 4
        self.in_proj = Linear(dim, 3 * hidden)
        self.balancer = Balancer(
            ScheduledFloat((0.0, 0.25), (20000.0, 0.05)), ScheduledFloat((0.0, 0.75), (20000.0, 0.95)), 0.5, 5.0
        )
        self.whiten1 = Whiten(whitening_limit(5.0))
        self.out_proj = small(Linear(hidden, dim), 0.05)
        self.whiten2 = Whiten(whitening_limit(5.0, ratio=3.0))

    def forward(self, x_BTD: Tensor, weights_BTT: Tensor) -> Tensor:
        """(B, T, D) and one head's weights (B, T, T) -> (B, T, D)."""
        s, x, y = self.in_proj(x_BTD).chunk(3, dim=-1)
        gated = self.whiten1(x) * torch.tanh(self.balancer(s))
        return self.whiten2(self.out_proj(torch.bmm(weights_BTT, gated) * y))
