"""The update of codebook training: all code vectors at once by least squares.

Shape suffixes: M frames, N codebooks, K codes, C = N * K, D = dim.
"""

import torch
from torch import Tensor

from spear.quantize.tables import SearchTables

_CHUNK = 8192


def update_centers(
    tables: SearchTables, centers_NKD: Tensor, x_MD: Tensor, codes_MN: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Code vectors that minimise the squared error of the frames for fixed codes.

    With Z the (M, C) zero-one matrix of the codes the step S solves (Z'Z + ridge I) S = Z'(x - decoded). Solving for
    the step keeps float32 accurate, and the ridge, counted in frames, leaves codes with few frames near their place
    (Z'Z alone is singular: a constant may move from one codebook to another).

    Args:
        tables: of `centers_NKD`.
        centers_NKD: present code vectors.
        x_MD: frames.
        codes_MN: int32 codes.
        ridge: above zero.

    Returns:
        new (N, K, D) centers, (N, K) use counts, (M, D) what the old centers left over.
    """
    num_codebooks, codebook_size, dim = centers_NKD.shape
    num_rows = num_codebooks * codebook_size
    pairs_CC = torch.zeros(num_rows * num_rows, device=x_MD.device)
    sums_CD = torch.zeros(num_rows, dim, device=x_MD.device)
    rest_MD = torch.empty_like(x_MD)
    for start in range(0, len(x_MD), _CHUNK):
        part = slice(start, start + _CHUNK)
        rest_MD[part] = x_MD[part] - tables.decode(codes_MN[part])
        flat_BN = codes_MN[part].long() + tables.starts_N
        for n in range(num_codebooks):
            sums_CD.index_add_(0, flat_BN[:, n], rest_MD[part])
        places = (flat_BN[:, :, None] * num_rows + flat_BN[:, None, :]).flatten()
        # float32 counts are exact up to 16 million frames with the same pair of codes.
        pairs_CC += torch.bincount(places, minlength=num_rows * num_rows)
    matrix_CC = pairs_CC.view(num_rows, num_rows)
    counts_NK = matrix_CC.diagonal().clone().view(num_codebooks, codebook_size)
    matrix_CC.diagonal().add_(ridge)
    step_CD = torch.cholesky_solve(sums_CD, torch.linalg.cholesky(matrix_CC))
    return centers_NKD + step_CD.view_as(centers_NKD), counts_NK, rest_MD
