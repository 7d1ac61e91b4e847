"""Where codebook training begins: k-means, and k-means on what is left over.

Shape suffixes: M frames, K centers, D = dim.
"""

import torch
from torch import Tensor

from spear.seeds import torch_rng

_CHUNK = 16384


def nearest(x_MD: Tensor, centers_KD: Tensor) -> Tensor:
    """(M,) index of the nearest center (Euclidean), in bounded memory."""
    squares_K = centers_KD.square().sum(dim=1)
    parts = [torch.addmm(squares_K, part, centers_KD.T, alpha=-2.0).argmin(dim=1) for part in x_MD.split(_CHUNK)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


def sum_by_code(x_MD: Tensor, codes_M: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """(K, D) sums of the rows with each code, and their (K,) float counts."""
    sums_KD = torch.zeros(num_codes, x_MD.shape[1], device=x_MD.device).index_add_(0, codes_M, x_MD)
    return sums_KD, torch.bincount(codes_M, minlength=num_codes).float()


def kmeans(x_MD: Tensor, num_centers: int, iterations: int, seed: int, purpose: str = "kmeans") -> Tensor:
    """(K, D) centers by Lloyd's iterations from random rows; empty centers move to random rows.

    Args:
        x_MD: float32 rows.
        num_centers: K; may exceed M (then some centers stay unused).
        iterations: of assignment and averaging.
        seed: names the random rows, together with `purpose`.
    """
    generator = torch_rng(seed, purpose)
    centers_KD = x_MD[_rows(len(x_MD), num_centers, generator)].clone()
    for _ in range(iterations):
        sums_KD, counts_K = sum_by_code(x_MD, nearest(x_MD, centers_KD), num_centers)
        spare_KD = x_MD[_rows(len(x_MD), num_centers, generator)]
        centers_KD = torch.where(counts_K[:, None] > 0, sums_KD / counts_K.clamp(min=1)[:, None], spare_KD)
    return centers_KD


def residual_kmeans(x_MD: Tensor, num_codebooks: int, codebook_size: int, iterations: int, seed: int) -> Tensor:
    """(N, K, D) codebooks: each by k-means on what the ones before it leave over."""
    rest_MD = x_MD.clone()
    codebooks = []
    for n in range(num_codebooks):
        codebooks.append(kmeans(rest_MD, codebook_size, iterations, seed, f"kmeans{n}"))
        rest_MD -= codebooks[-1][nearest(rest_MD, codebooks[-1])]
    return torch.stack(codebooks)


def _rows(available: int, wanted: int, generator: torch.Generator) -> Tensor:
    # Drawn on CPU, so that the start is the same on every device.
    order = torch.randperm(available, generator=generator)
    return order[torch.arange(wanted) % available]
