"""The linear layer that guesses codes (`to_logits` of the reference's format), fitted to the refined codes.

It begins with the closed-form classifier of Gaussian classes with one common covariance, for each codebook, and is
then trained by cross-entropy for a few epochs. Shape suffixes: M frames, N codebooks, K codes, D = dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from spear.quantize.codec import Quantizer
from spear.quantize.start import sum_by_code
from spear.seeds import torch_rng

# The classes are far from Gaussian: the closed form is over-confident, and cross-entropy starts better from less.
_TEMPER = 0.3


def closed_form(x_MD: Tensor, codes_MN: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Weight (N*K, D) and bias (N*K,) of linear discriminants for the codes."""
    second_DD = x_MD.T @ x_MD / len(x_MD)
    ridge_DD = torch.eye(x_MD.shape[1], device=x_MD.device) * (0.01 * second_DD.diagonal().mean() + 1e-12)
    weights, biases = [], []
    for codes_M in codes_MN.T:
        sums_KD, counts_K = sum_by_code(x_MD, codes_M.long(), codebook_size)
        means_KD = sums_KD / counts_K.clamp(min=1)[:, None]
        share_K = counts_K / len(x_MD)
        within_DD = second_DD - (means_KD.T * share_K) @ means_KD + ridge_DD
        weight_KD = torch.linalg.solve(within_DD, means_KD.T).T
        weights.append(_TEMPER * weight_KD)
        biases.append((share_K + 1e-5).log() - 0.5 * _TEMPER * (weight_KD * means_KD).sum(dim=1))
    return torch.cat(weights), torch.cat(biases)


def fit_logits(
    quantizer: Quantizer,
    x_MD: Tensor,
    codes_MN: Tensor,
    seed: int,
    epochs: float = 3.0,
    max_steps: int = 300,
    batch_frames: int = 1024,
    learning_rate: float = 0.003,
) -> None:
    """Trains `quantizer.to_logits` in place; `logits_scale` becomes 0.

    Args:
        x_MD: frames.
        codes_MN: their codes.
        seed: names the order of the frames.
        epochs: passes over the frames; 0 leaves the closed form.
        max_steps: bounds the time on many frames, where fewer passes do.
    """
    weight, bias = closed_form(x_MD, codes_MN, quantizer.codebook_size)
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=learning_rate, betas=(0.9, 0.98))
    num_steps = int(epochs * len(x_MD) / batch_frames) if len(x_MD) >= batch_frames else int(epochs)
    num_steps = min(num_steps, max_steps)
    generator = torch_rng(seed, "logits")
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, 1.5 * (1 - step / num_steps))
        rows = torch.randint(len(x_MD), (min(batch_frames, len(x_MD)),), generator=generator).to(x_MD.device)
        with torch.enable_grad():
            logits = F.linear(x_MD[rows], weight, bias).view(-1, quantizer.codebook_size)
            loss = F.cross_entropy(logits, codes_MN[rows].long().flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        quantizer.to_logits.weight.copy_(weight)
        quantizer.to_logits.bias.copy_(bias)
        quantizer.logits_scale.zero_()
