"""How many directions vectors use: the effective rank of Roy and Vetterli (2007)."""

import torch
from torch import Tensor


def effective_rank(x_ND: Tensor) -> float:
    """exp(entropy) of the normalised eigenvalues of the covariance of N vectors: 1 (a line) to D (white)."""
    x_ND = x_ND.double()
    x_ND = x_ND - x_ND.mean(0)
    eigenvalues = torch.linalg.eigvalsh(x_ND.T @ x_ND).clamp(min=0)
    shares = eigenvalues / eigenvalues.sum().clamp(min=1e-300)
    return float(torch.exp(-(shares * shares.clamp(min=1e-300).log()).sum()))
