"""Searching for the codes of direct-sum quantisation with tables that hold no `dim` (arXiv 2510.25955, section 3).

A vector x is approximated by the sum of one row of each codebook, ``C_1[i_1] + ... + C_N[i_N]``. Its squared error is

    |x|^2 + sum_n (|C_n[i_n]|^2 - 2 x.C_n[i_n]) + 2 sum_{n<m} C_n[i_n].C_m[i_m]

so after one matrix product x.C and one Gram matrix C.C the error of any combination is a sum of table entries.
The search is a beam over complete combinations: codebook by codebook, every kept combination tries all K rows of
that codebook, and the best distinct `beam` results stay. The current combination is always among the candidates,
so a pass cannot raise the error; the caller's codes change only where the error measured on the decoded vector falls.

Shape suffixes: B vectors, H kept combinations, N codebooks, K rows of a codebook, C = N * K, D = dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Kept combinations searched together on CPU (fits the caches); vectors on accelerators, which want larger pieces.
CPU_CHUNK, DEVICE_CHUNK = 4096, 8192
_TOPK_BLOCK = 16


class SearchTables:
    """What the search needs of a set of codebooks, made once per quantizer.

    The mean row of each codebook is moved into a constant: the error is the same, but numbers stay small, and with
    them the rounding of float32.

    Args:
        centers: (N, K, D) effective code vectors.
    """

    def __init__(self, centers: Tensor):
        self.num_codebooks, self.codebook_size, self.dim = centers.shape
        num_rows = self.num_codebooks * self.codebook_size
        means = centers.mean(dim=1, keepdim=True)
        self.offset_D = means.sum(dim=(0, 1))
        self.rows_CD = (centers - means).reshape(num_rows, self.dim).contiguous()
        self.squares_C = self.rows_CD.square().sum(dim=1)
        gram = 2 * (self.rows_CD @ self.rows_CD.T)
        # pairs[n] is (C, K): what row k of codebook n costs beside any other row; zero beside its own codebook.
        pairs = gram.view(num_rows, self.num_codebooks, self.codebook_size).permute(1, 0, 2).contiguous()
        for n in range(self.num_codebooks):
            pairs[n, n * self.codebook_size : (n + 1) * self.codebook_size] = 0
        self.pairs_NCK = pairs
        # int32 indexes: embedding_bag is several times faster with them on CPU.
        self.starts_N = torch.arange(0, num_rows, self.codebook_size, dtype=torch.int32, device=centers.device)
        # Random weights make a number out of a combination: equal combinations are found by one comparison.
        generator = torch.Generator().manual_seed(self.num_codebooks)
        weights = torch.randint(1, 1 << 48, (self.num_codebooks,), generator=generator)
        self.weights_N = weights.to(centers.device)

    def chunk_size(self, beam: int) -> int:
        """Vectors to search together: on CPU as many as the caches hold."""
        return max(256, CPU_CHUNK // beam) if self.rows_CD.device.type == "cpu" else DEVICE_CHUNK

    def scores(self, x_BD: Tensor) -> Tensor:
        """(B, C): |row|^2 - 2 x.row, the error that each row adds on its own."""
        return torch.addmm(self.squares_C, x_BD - self.offset_D, self.rows_CD.T, alpha=-2.0)

    def decode(self, codes_BN: Tensor) -> Tensor:
        """(B, D): the sum of the chosen rows."""
        return F.embedding_bag(codes_BN + self.starts_N, self.rows_CD, mode="sum") + self.offset_D

    def errors(self, x_BD: Tensor, codes_BN: Tensor) -> Tensor:
        """(B,): squared error of the decoded vectors."""
        return (self.decode(codes_BN) - x_BD).square().sum(dim=1)


def smallest(values: Tensor) -> Tensor:
    """(...) int64 place of the smallest entry of each row of (..., W), the first of equals only within blocks.

    Block minima first: `amin` is vectorised on CPU and runs at memory speed, `argmin` is twenty times slower.
    """
    width = values.shape[-1]
    if values.device.type != "cpu" or width % _TOPK_BLOCK or width <= 2 * _TOPK_BLOCK:
        return values.argmin(dim=-1)
    # A block is a column of this view (a stride apart), so that the minimum runs down whole rows of memory.
    blocks = values.view(*values.shape[:-1], _TOPK_BLOCK, width // _TOPK_BLOCK)
    chosen = blocks.amin(dim=-2).argmin(dim=-1, keepdim=True)
    inside = blocks.gather(-1, chosen[..., None, :].expand(*blocks.shape[:-1], 1)).squeeze(-1)
    return inside.argmin(dim=-1) * (width // _TOPK_BLOCK) + chosen.squeeze(-1)


class _Beam:
    """The kept combinations of one chunk of vectors: rows (B, H, N), a key of each, and their errors.

    A row is a code plus the place of its codebook's first row, an index into all C rows.
    """

    def __init__(self, tables: SearchTables, scores_BC: Tensor, codes_BHN: Tensor, errors_BH: Tensor, width: int):
        self.tables, self.width, self.shift = tables, width, tables.codebook_size.bit_length() - 1
        self.scores_BNK = scores_BC.view(-1, tables.num_codebooks, tables.codebook_size)
        self.rows_BHN, self.errors_BH = codes_BHN + tables.starts_N, errors_BH
        self.keys_BH = (self.rows_BHN.long() * tables.weights_N).sum(dim=2)

    def codes(self) -> Tensor:
        """(B, N): the best combination of each vector."""
        return self.rows_BHN[:, 0] - self.tables.starts_N

    def step(self, n: int) -> None:
        """Tries every row of codebook `n` in every kept combination."""
        tables, (num_vectors, num_kept, num_codebooks) = self.tables, self.rows_BHN.shape
        size, weight = tables.codebook_size, tables.weights_N[n]
        changes = F.embedding_bag(self.rows_BHN.view(-1, num_codebooks), tables.pairs_NCK[n], mode="sum")
        changes_BHK = changes.view(num_vectors, num_kept, size)
        changes_BHK += self.scores_BNK[:, n, None, :]
        current_BH = self.rows_BHN[:, :, n].long()
        rest_BH = self.errors_BH - changes_BHK.gather(2, current_BH[:, :, None] - n * size).squeeze(2)
        keys_BH = self.keys_BH - current_BH * weight
        if num_kept > 1:
            # Two combinations that differ in codebook n alone offer the same candidates: count them once.
            same = (keys_BH[:, :, None] == keys_BH[:, None, :]).tril(-1).any(dim=2)
            rest_BH.masked_fill_(same, float("inf"))
        changes_BHK += rest_BH[:, :, None]
        self.errors_BH, places = top_smallest(changes_BHK.view(num_vectors, -1), self.width)
        parents = places >> self.shift  # K is a power of two; integer division is slow
        chosen = places - ((parents - n) << self.shift)
        rows = self.rows_BHN.gather(1, parents[:, :, None].expand(-1, -1, num_codebooks))
        rows[:, :, n] = chosen
        self.rows_BHN = rows
        self.keys_BH = keys_BH.gather(1, parents) + chosen * weight

    def keep(self, rows: Tensor) -> None:
        """Goes on with some of the vectors only."""
        self.scores_BNK, self.rows_BHN = self.scores_BNK[rows], self.rows_BHN[rows]
        self.keys_BH, self.errors_BH = self.keys_BH[rows], self.errors_BH[rows]


def top_smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest entries of each row (all, if there are fewer), sorted, with their places.

    Looks at block minima first: the answer lies in the `count` blocks with the smallest minima, which is several
    times faster than sorting whole rows and gives the same values.
    """
    num_rows, width = values.shape
    count, num_blocks = min(count, width), width // _TOPK_BLOCK
    if count == 1:
        places = smallest(values)[:, None]
        return values.gather(1, places), places
    if width % _TOPK_BLOCK or num_blocks <= 2 * count:
        return values.topk(count, dim=1, largest=False)
    blocks = values.view(num_rows, _TOPK_BLOCK, num_blocks)
    chosen = blocks.amin(dim=1).topk(count, dim=1, largest=False, sorted=False).indices
    inside = blocks.gather(2, chosen[:, None, :].expand(-1, _TOPK_BLOCK, -1)).view(num_rows, -1)
    best, places = inside.topk(count, dim=1, largest=False)
    block = places // count
    return best, chosen.gather(1, places - block * count) + block * num_blocks


def refine(
    tables: SearchTables, x_BD: Tensor, codes_BSN: Tensor, passes: int, beam: int, scores_BC: Tensor | None = None
) -> Tensor:
    """Lowers the error of a chunk's codes by `passes` sweeps over all codebooks.

    Args:
        x_BD: float32 vectors; at most a few thousand (`chunk_size`).
        codes_BSN: int32 codes of S >= 1 combinations to begin with. Only the first can be returned unchanged, so
            that the result is never worse than it and more passes are never worse than fewer.
        passes: sweeps; a vector that a sweep did not improve is finished early.
        beam: combinations kept for each vector; 1 is plain coordinate descent.
        scores_BC: `tables.scores(x_BD)`, if known already.

    Returns:
        (B, N) int32 codes; no vector's error is higher than that of its first combination.
    """
    best_BN = codes_BSN[:, 0].clone()
    if passes <= 0 or not len(best_BN):
        return best_BN
    start_errors_BS = torch.stack([tables.errors(x_BD, codes_BSN[:, s]) for s in range(codes_BSN.shape[1])], dim=1)
    best_errors_B = start_errors_BS[:, 0].clone()
    rows = torch.arange(len(best_BN), device=x_BD.device)
    state = _Beam(tables, tables.scores(x_BD) if scores_BC is None else scores_BC, codes_BSN, start_errors_BS, beam)
    for number in range(passes):
        for n in range(tables.num_codebooks):
            state.step(n)
        first_BN = state.codes()
        errors_B = tables.errors(x_BD if number == 0 else x_BD[rows], first_BN)
        better = errors_B < best_errors_B[rows]
        best_BN[rows[better]] = first_BN[better]
        best_errors_B[rows[better]] = errors_B[better]
        # The first pass widens the beam, which may pay in the second.
        moving = better.nonzero().squeeze(1) if number else torch.arange(len(rows), device=rows.device)
        if number + 1 == passes or not len(moving):
            break
        if len(moving) < 0.9 * len(rows):  # a few finished vectors cost less than copying the others
            state.keep(moving)
            rows = rows[moving]
    return best_BN


def greedy(tables: SearchTables, x_BD: Tensor, scores_BC: Tensor | None = None) -> Tensor:
    """(B, N) int32 codes chosen codebook by codebook, each given those before it; `scores_BC` as for `refine`."""
    scores_BC = tables.scores(x_BD) if scores_BC is None else scores_BC
    scores_BNK = scores_BC.view(-1, tables.num_codebooks, tables.codebook_size)
    rows = torch.empty(len(x_BD), tables.num_codebooks, dtype=torch.int32, device=x_BD.device)
    for n in range(tables.num_codebooks):
        given = scores_BNK[:, n]
        if n:
            given = F.embedding_bag(rows[:, :n].contiguous(), tables.pairs_NCK[n], mode="sum").add_(given)
        rows[:, n] = smallest(given.contiguous()) + n * tables.codebook_size
    return rows - tables.starts_N
