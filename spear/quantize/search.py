"""Searching for the codes of direct-sum quantisation with tables that hold no `dim` (arXiv 2510.25955, section 3).

A vector x is approximated by the sum of one row of each codebook, ``C_1[i_1] + ... + C_N[i_N]``. Its squared error is

    |x|^2 + sum_n (|C_n[i_n]|^2 - 2 x.C_n[i_n]) + 2 sum_{n<m} C_n[i_n].C_m[i_m]

so after one matrix product x.C and one Gram matrix C.C the error of any combination is a sum of table entries.
The search is a beam. It first grows combinations codebook by codebook, as faiss' ResidualQuantizer does: every kept
combination tries all K rows of the next codebook, and the best `beam` results stay. Further passes sweep over complete
combinations: every kept one tries all rows of each codebook in turn. The current combination is always among the
candidates, so a pass cannot raise the error; codes change only where the error measured on the decoded vector falls.

Shape suffixes: B vectors, H kept combinations, N codebooks, K rows of a codebook, C = N * K, D = dim.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

# Kept combinations searched together on CPU (fits the caches); vectors on accelerators, which want larger pieces.
CPU_CHUNK, DEVICE_CHUNK = 4096, 8192
_TOPK_BLOCK = 16
# What a new combination's error must fall by, relatively, to count: float32 sums of squares are not more exact.
_ROUNDING = 1e-6
# Rows up to here are searched whole.
_SHORT_ROW = 256
# NumPy sorts short rows with vector instructions but in one thread. Measured with one thread and with two, where it was
# faster than topk; topk gains with threads.
_SORT_THREADS = 3


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

    @functools.cached_property
    def bfloat16_rows_CD(self) -> Tensor:
        """The rows for bfloat16 products."""
        return self.rows_CD.bfloat16()

    def scores(self, x_BD: Tensor, bfloat16: bool = False) -> Tensor:
        """(B, C) float32: |row|^2 - 2 x.row, the error each row adds on its own; x.row in bfloat16 if asked for."""
        shifted_BD = x_BD - self.offset_D
        if not bfloat16:
            return torch.addmm(self.squares_C, shifted_BD, self.rows_CD.T, alpha=-2.0)
        return torch.add(self.squares_C, shifted_BD.bfloat16() @ self.bfloat16_rows_CD.T, alpha=-2.0)

    def decode(self, codes_BN: Tensor) -> Tensor:
        """(B, D): the sum of the chosen rows."""
        return F.embedding_bag(codes_BN + self.starts_N, self.rows_CD, mode="sum") + self.offset_D

    def errors(self, x_BD: Tensor, codes_BN: Tensor) -> Tensor:
        """(B,): squared error of the decoded vectors."""
        return (self.decode(codes_BN) - x_BD).square().sum(dim=1)


def smallest(values: Tensor) -> Tensor:
    """(...) int64 place of the smallest entry of each row of (..., W), the first of equals only within blocks.

    Of long rows block minima first: `amin` is vectorised on CPU and runs at memory speed, `argmin` is not.
    """
    width = values.shape[-1]
    if values.device.type != "cpu" or width % _TOPK_BLOCK or width <= _SHORT_ROW:
        return values.argmin(dim=-1)
    # A block is a column of this view (a stride apart), so that the minimum runs down whole rows of memory.
    blocks = values.view(*values.shape[:-1], _TOPK_BLOCK, width // _TOPK_BLOCK)
    chosen = blocks.amin(dim=-2).argmin(dim=-1, keepdim=True)
    inside = blocks.gather(-1, chosen[..., None, :].expand(*blocks.shape[:-1], 1)).squeeze(-1)
    return inside.argmin(dim=-1) * (width // _TOPK_BLOCK) + chosen.squeeze(-1)


def grow(
    rows_BHn: Tensor, errors_BH: Tensor, scores_BK: Tensor, pairs_CK: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds a codebook to combinations of the n codebooks before it.

    Args:
        rows_BHn: int32 indexes into all rows, n codebooks deep (n = 0: nothing is chosen yet).
        errors_BH: their errors, up to a constant of each vector.
        scores_BK: |row|^2 - 2 x.row of the next codebook.
        pairs_CK: 2 row.row of the rows before it and its own.
        width: combinations to keep.

    Returns:
        (B, H') errors in ascending order, int64 parents (which of the H) and int64 codes of the new codebook.
    """
    num_vectors, num_kept, depth = rows_BHn.shape
    size = scores_BK.shape[1]
    if depth:
        changes_BHK = F.embedding_bag(rows_BHn.reshape(-1, depth), pairs_CK, mode="sum").view(num_vectors, -1, size)
        changes_BHK += scores_BK[:, None, :]
        changes_BHK += errors_BH[:, :, None]
    else:
        changes_BHK = scores_BK[:, None, :] + errors_BH[:, :, None]
    errors_BH, places = top_smallest(changes_BHK.view(num_vectors, num_kept * size), width)
    parents = places >> (size.bit_length() - 1)  # K is a power of two; integer division is slow
    return errors_BH, parents, places - parents * size


def extend(rows_BHn: Tensor, parents: Tensor, new_rows: Tensor) -> Tensor:
    """(B, H', n + 1) int32: the parents' rows and the new ones."""
    old = rows_BHn.gather(1, parents[:, :, None].expand(-1, -1, rows_BHn.shape[2]))
    return torch.cat([old, new_rows[:, :, None].to(torch.int32)], dim=2)


class _Beam:
    """The kept combinations of one chunk of vectors: rows (B, H, N), a key of each, and their errors.

    It begins with the best combination that growing found.

    A row is a code plus the place of its codebook's first row, an index into all C rows. Errors are right up to a
    constant of each vector.
    """

    def __init__(self, tables: SearchTables, scores_BC: Tensor, width: int):
        self.tables, self.width, self.shift = tables, width, tables.codebook_size.bit_length() - 1
        self.scores_BNK = scores_BC.view(-1, tables.num_codebooks, tables.codebook_size)
        self.rows_BHN = scores_BC.new_empty(len(scores_BC), 1, 0, dtype=torch.int32)
        self.errors_BH = scores_BC.new_zeros(len(scores_BC), 1)
        for n in range(tables.num_codebooks):
            kept = 1 if n + 1 == tables.num_codebooks else width  # of complete combinations the best is wanted
            self.errors_BH, parents, codes = grow(
                self.rows_BHN, self.errors_BH, self.scores_BNK[:, n], tables.pairs_NCK[n], kept
            )
            self.rows_BHN = extend(self.rows_BHN, parents, codes + n * tables.codebook_size)

    def restart(self, codes_BSN: Tensor, errors_BS: Tensor) -> None:
        """Goes on from S given combinations instead of those kept."""
        self.rows_BHN, self.errors_BH = codes_BSN + self.tables.starts_N, errors_BS
        self.keys_BH = (self.rows_BHN.long() * self.tables.weights_N).sum(dim=2)

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
        return _sorted_smallest(values, count)
    blocks = values.view(num_rows, _TOPK_BLOCK, num_blocks)
    chosen = _sorted_smallest(blocks.amin(dim=1), count)[1]
    inside = blocks.gather(2, chosen[:, None, :].expand(-1, _TOPK_BLOCK, -1)).view(num_rows, -1)
    best, places = _sorted_smallest(inside, count)
    block = places // count
    return best, chosen.gather(1, places - block * count) + block * num_blocks


def _sorted_smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`topk(count, largest=False)` of (B, W) float32 rows: values in ascending order, and their places.

    A float64 has 29 bits that a float32 leaves zero. With the place in them whole rows can be sorted as numbers, which
    NumPy does several times faster than topk finds a few. Of equal values below zero the later ones come first.
    """
    width, plain = values.shape[1], values.device.type == "cpu" and values.dtype == torch.float32
    if not plain or torch.get_num_threads() > _SORT_THREADS or not 0 < width <= _SHORT_ROW:
        return values.topk(count, dim=1, largest=False)
    # Infinity with a place in its bits would be NaN, whose bits do not outlive sorting.
    keys = values.clamp(max=torch.finfo(values.dtype).max).double()
    bits = keys.view(torch.int64)
    bits |= torch.arange(width)
    keys.numpy().sort(axis=1)
    places = bits[:, :count] & ((1 << 29) - 1)
    return values.gather(1, places), places


def search(
    tables: SearchTables,
    x_BD: Tensor,
    passes: int,
    beam: int,
    guess_BN: Tensor | None = None,
    bfloat16: bool = False,
) -> Tensor:
    """Codes of a chunk of vectors.

    Args:
        x_BD: float32 vectors; at most a few thousand (`chunk_size`).
        passes: the first grows combinations, the others sweep over complete ones; a vector that a sweep did not
            improve is finished early. More passes never give a vector a higher error.
        beam: combinations kept for each vector; 1 is a greedy choice and coordinate descent.
        guess_BN: int32 codes from elsewhere, from which the sweeps begin too.
        bfloat16: products of vectors and rows in bfloat16. What counts as better is measured in float32 all the same.

    Returns:
        (B, N) int32 codes; no vector's error is higher than that of its guess.
    """
    state = _Beam(tables, tables.scores(x_BD, bfloat16), beam)
    best_BN = state.codes()
    if not len(best_BN) or (passes <= 1 and guess_BN is None):
        return best_BN  # nothing to compare and nothing to sweep
    # Sweeps from two unlike combinations find more than sweeps from all that were kept, which are much alike.
    starts_BSN = best_BN[:, None] if guess_BN is None else torch.stack([guess_BN, best_BN], dim=1)
    errors_BS = torch.stack([tables.errors(x_BD, codes_BN) for codes_BN in starts_BSN.unbind(dim=1)], dim=1)
    # The guess, which comes first, stays where growing was not better.
    chosen_B = torch.where(_lower(errors_BS[:, -1], errors_BS[:, 0]), errors_BS.shape[1] - 1, 0)
    best_errors_B = errors_BS.gather(1, chosen_B[:, None]).squeeze(1)
    rows = torch.arange(len(best_BN), device=x_BD.device)
    best_BN = starts_BSN[rows, chosen_B]
    if passes <= 1:
        return best_BN
    state.restart(starts_BSN, errors_BS)
    for number in range(1, passes):
        for n in range(tables.num_codebooks):
            state.step(n)
        first_BN = state.codes()
        errors_B = tables.errors(x_BD if number == 1 else x_BD[rows], first_BN)
        better = _lower(errors_B, best_errors_B[rows])
        best_BN[rows[better]] = first_BN[better]
        best_errors_B[rows[better]] = errors_B[better]
        moving = better.nonzero().squeeze(1)
        if number + 1 == passes or not len(moving):
            break
        if len(moving) < 0.9 * len(rows):  # a few finished vectors cost less than copying the others
            state.keep(moving)
            rows = rows[moving]
    return best_BN


def _lower(errors_B: Tensor, than_B: Tensor) -> Tensor:
    """(B,) whether errors are lower by more than rounding."""
    return errors_B < (1 - _ROUNDING) * than_B


def search_all(tables: SearchTables, x_MD: Tensor, passes: int, beam: int, bfloat16: bool = False) -> Tensor:
    """(M, N) int32 codes of any number of vectors, in chunks."""
    parts = x_MD.split(tables.chunk_size(beam))
    return torch.cat([search(tables, part, passes, beam, bfloat16=bfloat16) for part in parts])
