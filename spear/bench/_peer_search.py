"""multi_quantization's search for codes, with the same arithmetic and whole rows copied instead of single numbers.

Its search gathers code vectors number by number, which is most of its time in training. This one chooses the same codes
(but for ties of rounding) and lets its schedule of 20,000 iterations end in about a third of the time (RESULTS of
spear/quantize). It serves only to learn which error that schedule reaches; the peer's speed is measured with its own
search.

Shape suffixes: B frames, D = dim, N groups of codebooks, K candidates of each, L codebooks in a group.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding

_MOST_KEPT = 128


@torch.no_grad()
def refine_codes(quantizer, x_BD: Tensor, codes_BN: Tensor, chunk: int = 50) -> Tensor:
    """What `multi_quantization.Quantizer._refine_indexes` returns.

    Candidates are scored as replacements of the present code of their codebook; the best of each codebook are joined in
    pairs of codebooks, the best pairs in pairs again, and so on until one combination is left.

    Args:
        quantizer: of multi_quantization.
        x_BD: frames.
        codes_BN: int64, where the search starts.
        chunk: frames taken at once, so few that what is computed stays in the cache; they do not depend on each other.
    """
    centers_NKD = quantizer.get_centers()
    pairs = zip(x_BD.split(chunk), codes_BN.split(chunk), strict=True)
    return torch.cat([_refine(centers_NKD, x_cD, codes_cN) for x_cD, codes_cN in pairs])


def _refine(centers_NKD: Tensor, x_BD: Tensor, codes_BN: Tensor) -> Tensor:
    num_codebooks, size, dim = centers_NKD.shape
    rows_MD = centers_NKD.reshape(-1, dim)
    first_N1 = torch.arange(0, num_codebooks * size, size)[:, None]
    present_BND = embedding(codes_BN + first_N1[:, 0], rows_MD)
    error_BD = present_BND.sum(dim=1) - x_BD
    scores_BNK = _replacement_scores(centers_NKD, present_BND, error_BD)
    error_B11 = error_BD.square().sum(dim=1)[:, None, None]

    scores_BNK, chosen_BNK = _best(scores_BNK, _kept(1, size))
    codes_BNKL = chosen_BNK[..., None]
    changes_BNKD = embedding(chosen_BNK + first_N1, rows_MD) - present_BND[:, :, None]
    while codes_BNKL.shape[1] > 1:
        scores_BNK, codes_BNKL, even_BNKD, odd_BNKD = _join(scores_BNK, codes_BNKL, changes_BNKD, error_B11)
        last = codes_BNKL.shape[1] == 1
        candidates = even_BNKD.shape[2]
        kept = 1 if last else min(_kept(codes_BNKL.shape[3], size), candidates**2)
        scores_BNK, chosen_BNK = _best(scores_BNK, kept)
        codes_BNKL = _rows(codes_BNKL, chosen_BNK)
        if not last:
            even = _rows(even_BNKD, chosen_BNK // candidates)
            changes_BNKD = even + _rows(odd_BNKD, chosen_BNK % candidates)
    return codes_BNKL[:, 0, 0]


def _replacement_scores(centers_NKD: Tensor, present_BND: Tensor, error_BD: Tensor) -> Tensor:
    """(B, N, K) squared error of a frame when one code is replaced and all others stay."""
    without_BND = error_BD[:, None] - present_BND
    products_NKB = torch.matmul(centers_NKD, without_BND.permute(1, 2, 0))
    constant_BN1 = without_BND.square().sum(dim=2, keepdim=True)
    return constant_BN1 + centers_NKD.square().sum(dim=2) + 2 * products_NKB.permute(2, 0, 1)


def _join(scores_BNK: Tensor, codes_BNKL: Tensor, changes_BNKD: Tensor, error_B11: Tensor) -> tuple[Tensor, ...]:
    """All combinations of the candidates of groups 2 n and 2 n + 1: scores, codes, and the changes of both halves."""
    batch, groups, candidates, _ = codes_BNKL.shape
    shape = (batch, groups // 2, candidates, candidates)
    even_BNKD, odd_BNKD = changes_BNKD[:, 0::2], changes_BNKD[:, 1::2]
    scores = (scores_BNK[:, 0::2, :, None] + scores_BNK[:, 1::2, None, :]).flatten(2)
    scores = scores - error_B11 + 2 * torch.matmul(even_BNKD, odd_BNKD.transpose(2, 3)).flatten(2)
    even = codes_BNKL[:, 0::2, :, None].expand(*shape, -1)
    odd = codes_BNKL[:, 1::2, None, :].expand(*shape, -1)
    return scores, torch.cat((even, odd), dim=-1).flatten(2, 3), even_BNKD, odd_BNKD


def _kept(joined: int, size: int) -> int:
    """How many combinations of so many codebooks survive: twice as many each time four times as many are joined."""
    kept = 8 if size <= 16 else 16
    while joined >= 4:
        joined, kept = joined // 4, 2 * kept
    return min(kept, _MOST_KEPT)


def _best(scores_BNK: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    # NumPy sorts short rows several times as fast.
    order_BNK = torch.from_numpy(scores_BNK.numpy().argsort(axis=2)[:, :, :kept])
    return scores_BNK.gather(2, order_BNK), order_BNK


def _rows(x_BNKD: Tensor, chosen_BNk: Tensor) -> Tensor:
    """x[b, n, chosen[b, n, k]] for every b, n, k."""
    batch, groups, candidates, dim = x_BNKD.shape
    first_BN1 = torch.arange(0, batch * groups * candidates, candidates).reshape(batch, groups, 1)
    return embedding(chosen_BNk + first_BN1, x_BNKD.reshape(-1, dim))
