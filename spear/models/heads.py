"""Prediction heads: an independent linear softmax per codebook.

The loss touches valid frames only and is computed in chunks together with its gradients, so the float32 logits of a
whole batch (frames x codebooks x 256) never exist at once, and nothing is recomputed in the backward pass.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spear import compat

IGNORE = -100
# A GPU takes chunks so many times as large: it has the memory, and small ones are over before the next is launched.
_GPU_CHUNKS = 8


class Encoded(NamedTuple):
    """What a head predicts from: B utterances of T' frames.

    Attributes:
        hidden_BTD: the encoder's output.
        lens_B: valid frames of it.
        layers: the output of every layer, each (B, T50, D of the layer) at 50 Hz; empty unless some head wants them.
        layer_lens_B: valid frames of them.
        masked_BT: frames whose input was masked.
        frame_weights_BT: weight of each frame's loss, by whether it was masked.
        embed_BTD: the input to the first layer, as long as the layers; None unless some head wants them.
    """

    hidden_BTD: Tensor
    lens_B: Tensor
    layers: list[Tensor]
    layer_lens_B: Tensor
    masked_BT: Tensor
    frame_weights_BT: Tensor
    embed_BTD: Tensor | None = None


class HeadOutput(NamedTuple):
    """What a head makes of a batch.

    Attributes:
        loss: scalar to minimise; a sum over frames, not a mean.
        stats: (2, 2 + measures) float tensor, detached: rows masked and unmasked frames; columns the summed loss, the
            number of what it was summed over, and sums of further measures. It is logged as means.
        scores: in evaluation mode, tensors with a row for each utterance, from which the objective makes the numbers of
            the validation that are no means (`spear.train.objectives.Objective.judge`).
    """

    loss: Tensor
    stats: Tensor
    scores: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class HeadSpec:
    """Size of the head of a stream of tokens.

    Attributes:
        num_codebooks: codebooks x target frames per student frame.
        codebook_size: tokens in each codebook.
    """

    num_codebooks: int
    codebook_size: int = 256

    def build(self, encoder: nn.Module, initial_scale: float = 1.0) -> "CodebookHead":
        """The head for an encoder, see `CodebookHead`."""
        return CodebookHead(encoder.output_dim, self.num_codebooks, self.codebook_size, initial_scale=initial_scale)


class TokenLoss(NamedTuple):
    """What a head returns for M frames and C codebooks.

    Attributes:
        loss: scalar; sum over frames of weight x mean over codebooks of the cross-entropy, in nats.
        entry_loss_MC: cross-entropy of every entry (0 where ignored), detached.
        correct_MC: whether the most likely token is the target, bool.
    """

    loss: Tensor
    entry_loss_MC: Tensor
    correct_MC: Tensor


class CodebookHead(nn.Module):
    """Predicts `num_codebooks` tokens from each frame.

    Args:
        dim: encoder output dim D.
        num_codebooks: C = codebooks x target frames per student frame.
        codebook_size: K tokens in each codebook.
        chunk_entries: upper bound on the float32 logits held at once (frames x C x K); eight times as much on a GPU.
        initial_scale: of the first weights, relative to the reference's N(0, 1) / sqrt(D). On normalised encoder output
            these give logits that spread by more than one, so a first loss well above ln K, which has to be unlearnt.

    The parameter names are those of the research checkpoints; their unused tensors (joint mode) are left out.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int,
        codebook_size: int = 256,
        chunk_entries: int = 1 << 23,
        initial_scale: float = 1.0,
    ):
        super().__init__()
        weight_CKD = torch.randn(num_codebooks, codebook_size, dim) * (initial_scale / math.sqrt(dim))
        self.linear2b_weight = nn.Parameter(weight_CKD)
        self.linear2_bias = nn.Parameter(torch.zeros(num_codebooks, codebook_size))
        self.chunk_frames = max(1, chunk_entries // (num_codebooks * codebook_size))

    @property
    def num_codebooks(self) -> int:
        """C."""
        return self.linear2_bias.shape[0]

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) -> (M, C, K) float32 logits."""
        with compat.disabled_autocast(hidden_MD.device.type):
            flat = torch.addmm(self.linear2_bias.flatten(), hidden_MD.float(), self.linear2b_weight.flatten(0, 1).t())
        return flat.unflatten(1, self.linear2_bias.shape)

    def forward(self, hidden_MD: Tensor, targets_MC: Tensor, weights_M: Tensor) -> TokenLoss:
        """Weighted token loss.

        Args:
            hidden_MD: encoder output at the frames that count.
            targets_MC: token ids; -100 entries are ignored (the divisor stays C, as in the reference).
            weights_M: weight of each frame's loss (domain weight x masked or unmasked weight).
        """
        frames = self.chunk_frames * (_GPU_CHUNKS if hidden_MD.is_cuda else 1)
        loss, entry_loss_MC, correct_MC = _ChunkedTokenLoss.apply(
            hidden_MD, self.linear2b_weight, self.linear2_bias, targets_MC, weights_M, frames
        )
        return TokenLoss(loss, entry_loss_MC, correct_MC)

    def predict(self, encoded: Encoded, targets_BTC: Tensor, weights_B: Tensor) -> HeadOutput:
        """Loss and statistics of a batch.

        Args:
            encoded: the encoder's output.
            targets_BTC: token ids at the student's frame rate; -100 where there is none.
            weights_B: weight of each utterance, from its domain.

        Returns:
            statistics with one measure, the number of entries predicted right; the loss is of entries, in nats.
        """
        # The other frames are left out before the matmul.
        used_BT = frames_with_targets(targets_BTC, weights_B)
        targets_MC, masked_M1 = targets_BTC[used_BT], encoded.masked_BT[used_BT].float()[:, None]
        weights_M = (encoded.frame_weights_BT * weights_B[:, None])[used_BT]
        result = self(encoded.hidden_BTD[used_BT], targets_MC, weights_M)
        entries_M = (targets_MC != IGNORE).sum(dim=1).float()
        sums = (result.entry_loss_MC.sum(dim=1), entries_M, result.correct_MC.sum(dim=1).float())
        return HeadOutput(result.loss, by_mask(torch.stack(sums, dim=1), masked_M1))


def frames_with_targets(targets_BTC: Tensor, weights_B: Tensor) -> Tensor:
    """(B, T) bool: frames that have a target, of utterances whose weight is not 0."""
    return (targets_BTC != IGNORE).any(dim=2) & (weights_B > 0)[:, None]


def by_mask(sums_MK: Tensor, masked_M1: Tensor) -> Tensor:
    """(2, K): sums over masked frames and over the others."""
    return torch.stack(((sums_MK * masked_M1).sum(dim=0), (sums_MK * (1 - masked_M1)).sum(dim=0)))


class _ChunkedTokenLoss(torch.autograd.Function):
    """Cross-entropy with gradients made in the forward pass, chunk by chunk.

    d loss / d logits = weight / C x (softmax - onehot), which needs only what the forward pass has at hand. The
    backward pass multiplies by the incoming scalar. With M = 0 the gradients are zeros, not None, so that DDP finds
    every parameter used on every rank whatever domains its batch holds.
    """

    @staticmethod
    def forward(ctx, hidden_MD, weight_CKD, bias_CK, targets_MC, weights_M, chunk_frames):
        num_codebooks, codebook_size, dim = weight_CKD.shape
        flat_weight = weight_CKD.detach().flatten(0, 1).float()
        grad_hidden = torch.zeros(hidden_MD.shape, dtype=torch.float32, device=hidden_MD.device)
        grad_weight = torch.zeros_like(flat_weight)
        grad_bias = torch.zeros(num_codebooks * codebook_size, dtype=torch.float32, device=hidden_MD.device)
        entry_loss = torch.zeros(targets_MC.shape, dtype=torch.float32, device=hidden_MD.device)
        correct = torch.zeros(targets_MC.shape, dtype=torch.bool, device=hidden_MD.device)
        with compat.disabled_autocast(hidden_MD.device.type):
            for start in range(0, hidden_MD.shape[0], chunk_frames):
                part = slice(start, start + chunk_frames)
                hidden, targets = hidden_MD[part].float(), targets_MC[part]
                logits = torch.addmm(bias_CK.flatten().float(), hidden, flat_weight.t())
                logits = logits.view(-1, num_codebooks, codebook_size)
                valid = targets != IGNORE
                index = targets.clamp(min=0)[:, :, None]
                # One pass for the maximum gives the numerically safe shift and the most likely token.
                top, best = logits.max(dim=2, keepdim=True)
                picked = logits.gather(2, index) - top
                probabilities = logits.sub_(top).exp_()
                total = probabilities.sum(dim=2, keepdim=True)
                entry_loss[part] = (total.log() - picked).squeeze(2) * valid
                correct[part] = (best == index).squeeze(2) & valid
                scale = (weights_M[part, None] * valid).float()[:, :, None] / num_codebooks
                grad_logits = probabilities.mul_(scale / total).scatter_add_(2, index, -scale).flatten(1)
                grad_hidden[part] = grad_logits @ flat_weight
                grad_weight.addmm_(grad_logits.t(), hidden)
                grad_bias += grad_logits.sum(dim=0)
        ctx.save_for_backward(grad_hidden.to(hidden_MD.dtype), grad_weight, grad_bias)
        ctx.shapes = weight_CKD.shape, bias_CK.shape
        loss = (entry_loss.sum(dim=1) * weights_M).sum() / num_codebooks
        ctx.mark_non_differentiable(entry_loss, correct)
        return loss, entry_loss, correct

    @staticmethod
    def backward(ctx, grad_loss, _entry, _correct):
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_shape, bias_shape = ctx.shapes
        return (
            grad_hidden * grad_loss.to(grad_hidden.dtype),
            (grad_weight * grad_loss).view(weight_shape),
            (grad_bias * grad_loss).view(bias_shape),
            None,
            None,
            None,
        )
