"""Where codebook training begins: k-means, and k-means on what is left over.

Shape suffixes: M frames, H kept combinations, K centers, C rows of all codebooks so far, D = dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from spear.errors import ConfigError
from spear.quantize.codec import entropy_loss
from spear.quantize.search import extend, grow
from spear.quantize.tables import CPU_CHUNK
from spear.seeds import torch_rng

_CHUNK = 16384
# Steps of `progressive_kmeans`. More were not better.
_SUBSPACES = 6
# Codes of less than this share of the mean use begin again beside a common one.
_RARE = 0.3


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
    return _lloyd(x_MD, x_MD[_rows(len(x_MD), num_centers, generator)].clone(), iterations, generator)


def _lloyd(x_MD: Tensor, centers_KD: Tensor, iterations: int, generator: torch.Generator, rare: float = 0) -> Tensor:
    """Iterations of k-means; `rare` > 0 also moves centers of less than this share of the mean use, except at the end.

    They move beside the center of a random row, a little towards that row: common codes are split, and use is even.
    """
    for iteration in range(iterations):
        codes_M = nearest(x_MD, centers_KD)
        sums_KD, counts_K = sum_by_code(x_MD, codes_M, len(centers_KD))
        spare_KD = x_MD[_rows(len(x_MD), len(centers_KD), generator)]
        centers_KD = torch.where(counts_K[:, None] > 0, sums_KD / counts_K.clamp(min=1)[:, None], spare_KD)
        if rare and iteration < iterations - 1:
            few = (counts_K < rare * len(x_MD) / len(centers_KD)).nonzero().squeeze(1)
            rows = torch.randint(len(x_MD), (len(few),), generator=generator).to(x_MD.device)
            centers_KD[few] = centers_KD[codes_M[rows]].lerp(x_MD[rows], 0.1)
    return centers_KD


def progressive_kmeans(x_MD: Tensor, num_centers: int, iterations: int, seed: int, purpose: str) -> Tensor:
    """(K, D) centers by k-means in ever more principal directions, each step from the centers of the one before.

    Where most of the variance lies in few directions this finds much better centers than random rows lead to (faiss'
    ResidualQuantizer trains so too).
    """
    mean_D, dim = x_MD.mean(dim=0), x_MD.shape[1]
    centered_MD = x_MD - mean_D
    axes_DD = torch.linalg.eigh(centered_MD.T @ centered_MD)[1].flip(1)
    turned_MD = centered_MD @ axes_DD
    generator = torch_rng(seed, purpose)
    centers_KD = turned_MD[_rows(len(x_MD), num_centers, generator)]
    used = 0
    for width in sorted({max(1, int(dim ** (step / _SUBSPACES) + 1e-9)) for step in range(1, _SUBSPACES + 1)}):
        # New directions begin at their mean, which is zero; the first ones at the rows.
        start_KD = F.pad(centers_KD[:, : used or width], (0, width - (used or width)))
        centers_KD = _lloyd(turned_MD[:, :width].contiguous(), start_KD, iterations, generator, _RARE)
        used = width
    return centers_KD @ axes_DD.T + mean_D


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


class BeamStart:
    """Codebooks one after the other, each by k-means on what all kept combinations of those before it leave over.

    With several combinations of each frame there is more to learn from, and a codebook is fitted to the search that
    will be used (Babenko and Lempitsky 2014 call this stacking; faiss' ResidualQuantizer is of the same kind).

    Args:
        x_MD: frames.
        codebook_size: K.
        beam: combinations kept of a frame.
        max_rows: most rows of one k-means.
        iterations: of k-means in each subspace.
        seed: names every random choice.
        uneven: largest index entropy loss of a codebook among the best combinations; one above it is trained again on
            fewer combinations. (Others also teach a codebook the differences between codes of the ones before it.)
        centers: (n, K, D) `centers_NKD` to go on from.

    Attributes:
        centers_NKD: codebooks so far, of the frames less their mean.
    """

    def __init__(
        self,
        x_MD: Tensor,
        codebook_size: int,
        beam: int,
        max_rows: int,
        iterations: int,
        seed: int,
        uneven: float,
        centers: Tensor | None = None,
    ):
        self.mean_D = x_MD.mean(dim=0)
        self.x_MD, self.beam, self.max_rows = x_MD - self.mean_D, beam, max_rows
        self.iterations, self.seed, self.uneven = iterations, seed, uneven
        self.centers_NKD = x_MD.new_empty(0, codebook_size, x_MD.shape[1])
        self.rows_MHN = torch.empty(len(x_MD), 1, 0, dtype=torch.int32, device=x_MD.device)
        self.errors_MH = x_MD.new_zeros(len(x_MD), 1)
        for centers_KD in [] if centers is None else centers:
            self._append(centers_KD, *self._grow(centers_KD))

    def shifted_centers(self) -> Tensor:
        """(N, K, D) codebooks so far, of the frames as they are."""
        result = self.centers_NKD.clone()
        result[:1] += self.mean_D
        return result

    def add(self) -> None:
        """Trains the next codebook."""
        size, kept = self.centers_NKD.shape[1], self.rows_MHN.shape[1]
        while True:
            centers_KD = self._next_codebook(kept)
            rows_MHN, errors_MH = self._grow(centers_KD)
            best_M = rows_MHN[:, 0, -1] - len(self.centers_NKD) * size
            use_K = torch.bincount(best_M, minlength=size) / len(best_M)
            if kept == 1 or float(entropy_loss(use_K)) <= self.uneven:
                return self._append(centers_KD, rows_MHN, errors_MH)
            kept //= 2

    def _next_codebook(self, kept: int) -> Tensor:
        """(K, D) centers of what the best `kept` combinations of each frame leave over."""
        number, (_, size, dim) = len(self.centers_NKD), self.centers_NKD.shape
        generator = torch_rng(self.seed, "left over", number)
        chosen = torch.randperm(len(self.x_MD) * kept, generator=generator)[: self.max_rows].to(self.x_MD.device)
        rest_MD = self.x_MD[chosen // kept]
        if number:
            rows = self.rows_MHN[:, :kept].reshape(-1, number)[chosen]
            rest_MD -= F.embedding_bag(rows, self.centers_NKD.view(-1, dim), mode="sum")
        return progressive_kmeans(rest_MD, size, self.iterations, self.seed, f"kmeans{number}")

    def _grow(self, centers_KD: Tensor) -> tuple[Tensor, Tensor]:
        """Combinations with one more codebook, and their errors."""
        number, (_, size, dim) = len(self.centers_NKD), self.centers_NKD.shape
        squares_K, pairs_CK = centers_KD.square().sum(dim=1), 2 * self.centers_NKD.view(-1, dim) @ centers_KD.T
        rows, errors = [], []
        step = max(256, CPU_CHUNK // self.beam)
        for x_BD, rows_BHN, errors_BH in zip(*(t.split(step) for t in (self.x_MD, self.rows_MHN, self.errors_MH))):
            scores_BK = torch.addmm(squares_K, x_BD, centers_KD.T, alpha=-2.0)
            errors_BH, parents, codes = grow(rows_BHN, errors_BH, scores_BK, pairs_CK, self.beam)
            rows.append(extend(rows_BHN, parents, codes + number * size))
            errors.append(errors_BH)
        return torch.cat(rows), torch.cat(errors)

    def _append(self, centers_KD: Tensor, rows_MHN: Tensor, errors_MH: Tensor) -> None:
        self.centers_NKD = torch.cat([self.centers_NKD, centers_KD[None]])
        self.rows_MHN, self.errors_MH = rows_MHN, errors_MH


def _rows(available: int, wanted: int, generator: torch.Generator) -> Tensor:
    # Drawn on CPU, so that the start is the same on every device.
    order = torch.randperm(available, generator=generator)
    return order[torch.arange(wanted) % available]
