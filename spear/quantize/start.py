"""Where codebook training begins: k-means, and k-means on what is left over.

Shape suffixes: M frames, K centers, D = dim.
"""

import torch
from torch import Tensor

from spear.errors import ConfigError
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


def kmeans(
    x_MD: Tensor, num_centers: int, iterations: int, seed: int, purpose: str = "kmeans", batch_rows: int | None = None
) -> Tensor:
    """(K, D) centers by Lloyd's iterations from random rows; empty centers move to random rows.

    Args:
        x_MD: float32 rows.
        num_centers: K; may exceed M (then some centers stay unused).
        iterations: of assignment and averaging.
        seed: names the random rows, together with `purpose`.
        batch_rows: rows of an iteration (mini-batch k-means, Sculley 2010: a center is the mean of all rows it ever
            got); None: all rows.
    """
    if batch_rows is not None and batch_rows < len(x_MD):
        return _minibatch_kmeans(x_MD, num_centers, iterations, torch_rng(seed, purpose), batch_rows)
    generator = torch_rng(seed, purpose)
    centers_KD = x_MD[_rows(len(x_MD), num_centers, generator)].clone()
    for _ in range(iterations):
        sums_KD, counts_K = sum_by_code(x_MD, nearest(x_MD, centers_KD), num_centers)
        spare_KD = x_MD[_rows(len(x_MD), num_centers, generator)]
        centers_KD = torch.where(counts_K[:, None] > 0, sums_KD / counts_K.clamp(min=1)[:, None], spare_KD)
    return centers_KD


def _minibatch_kmeans(
    x_MD: Tensor, num_centers: int, iterations: int, generator: torch.Generator, batch_rows: int
) -> Tensor:
    centers_KD = x_MD[_rows(len(x_MD), num_centers, generator)].clone()
    total_K = torch.zeros(num_centers, device=x_MD.device)
    for iteration in range(iterations):
        batch_BD = x_MD[_rows(len(x_MD), batch_rows, generator)]
        sums_KD, counts_K = sum_by_code(batch_BD, nearest(batch_BD, centers_KD), num_centers)
        total_K += counts_K
        centers_KD += (sums_KD - counts_K[:, None] * centers_KD) / total_K.clamp(min=1)[:, None]
        if iteration == iterations // 2:
            # Centers that nobody came to so far begin again at rows; in the second half all settle.
            dead_K = total_K == 0
            centers_KD[dead_K] = x_MD[_rows(len(x_MD), int(dead_K.sum()), generator)]
    return centers_KD


def product_kmeans(x_MD: Tensor, num_codebooks: int, codebook_size: int, iterations: int, seed: int) -> Tensor:
    """(N, K, D) codebooks of a product quantiser: k-means in each of N slices of the channels, zero elsewhere.

    Raises:
        ConfigError: fewer channels than codebooks.
    """
    dim = x_MD.shape[1]
    if dim < num_codebooks:
        raise ConfigError(f"{num_codebooks} codebooks for {dim} channels", "a channel for each", "use fewer codebooks")
    codebooks_NKD = torch.zeros(num_codebooks, codebook_size, dim, device=x_MD.device)
    for n, channels in enumerate(torch.arange(dim).tensor_split(num_codebooks)):
        part = slice(int(channels[0]), int(channels[-1]) + 1)
        codebooks_NKD[n, :, part] = kmeans(x_MD[:, part].contiguous(), codebook_size, iterations, seed, f"product{n}")
    return codebooks_NKD


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
