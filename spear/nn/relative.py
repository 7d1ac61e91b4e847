"""The positional term of attention scores, p[i] . position[j - i], and its gradients.

The term has few dimensions (4 a head), so it is all memory traffic. Two ways to compute it:

- by offset: scores for all 2T-1 offsets, read as T x T through strides. Few large products: for GPUs and small batches.
- by frame: positions do not depend on the utterance, so for each query frame the batch shares one (4, T) matrix. Half
  the memory and no skewed copies: for batches on a CPU.
"""

import torch
from torch import Tensor

_MIN_BATCH_BY_FRAME = 4


def add_relative_scores(scores_NTT: Tensor, p_NTC: Tensor, position_HCR: Tensor) -> None:
    """Adds the positional term in place.

    Args:
        scores_NTT: (B*H, T, T), contiguous. p_NTC: (B*H, T, C) queries. position_HCR: (H, C, 2T-1), column r is offset
            (key - query) r - (T-1).
    """
    if _by_frame(p_NTC, position_HCR):
        term_QBT = torch.bmm(_frames_first(p_NTC, len(position_HCR)), _per_query(position_HCR))
        scores_NTT.view(-1, *term_QBT.shape[::2]).add_(term_QBT.transpose(0, 1))
    else:
        scores_NTT.add_(_windows(torch.bmm(p_NTC, _for_each_utterance(position_HCR, p_NTC))))


def relative_scores_backward(grad_NTT: Tensor, p_NTC: Tensor, position_HCR: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `p_NTC` and `position_HCR` from the gradient of the scores."""
    heads, channels, offsets = position_HCR.shape
    frames = p_NTC.shape[1]
    if not _by_frame(p_NTC, position_HCR):
        by_offset = grad_NTT.new_zeros(*grad_NTT.shape[:2], offsets)
        _windows(by_offset).copy_(grad_NTT)
        grad_p = torch.bmm(by_offset, _for_each_utterance(position_HCR, p_NTC).mT)
        return grad_p, torch.bmm(p_NTC.mT, by_offset).view(-1, heads, channels, offsets).sum(0)
    grad_QBT = grad_NTT.view(-1, heads * frames, frames).transpose(0, 1)
    grad_p_QBC = torch.bmm(grad_QBT, _per_query(position_HCR).mT)
    grad_p = grad_p_QBC.view(heads, frames, -1, channels).permute(2, 0, 1, 3).reshape(p_NTC.shape)
    per_query = torch.bmm(_frames_first(p_NTC, heads).mT, grad_QBT).view(heads, frames, channels, frames).flip(1)
    skewed = per_query.new_zeros(heads, frames, channels, offsets)
    skewed.as_strided(per_query.shape, (frames * channels * offsets, channels * offsets + 1, offsets, 1)).copy_(
        per_query
    )
    return grad_p, skewed.sum(1)


def _by_frame(p_NTC: Tensor, position_HCR: Tensor) -> bool:
    return p_NTC.device.type == "cpu" and len(p_NTC) >= _MIN_BATCH_BY_FRAME * len(position_HCR)


def _windows(x_NTR: Tensor) -> Tensor:
    """Views (N, T, 2T-1) over offsets as (N, T, T) over keys: element (i, j) is offset j - i."""
    n, t, r = x_NTR.shape
    return x_NTR.as_strided((n, t, t), (t * r, r - 1, 1), x_NTR.storage_offset() + t - 1)


def _for_each_utterance(position_HCR: Tensor, p_NTC: Tensor) -> Tensor:
    """(B*H, C, 2T-1)"""
    return position_HCR.repeat(len(p_NTC) // len(position_HCR), 1, 1)


def _per_query(position_HCR: Tensor) -> Tensor:
    """(H*T, C, T): for each head and query frame, the positions of all keys."""
    heads, channels, offsets = position_HCR.shape
    frames = (offsets + 1) // 2
    # The last query frame's window starts at column 0, the first one's at column T-1.
    windows = position_HCR.contiguous().as_strided(
        (heads, frames, channels, frames), (channels * offsets, 1, offsets, 1)
    )
    return windows.flip(1).flatten(0, 1)


def _frames_first(p_NTC: Tensor, heads: int) -> Tensor:
    """(B*H, T, C) -> (H*T, B, C)."""
    _, frames, channels = p_NTC.shape
    return p_NTC.view(-1, heads * frames, channels).transpose(0, 1).contiguous()
