"""Searching for the codes of direct-sum quantisation with tables that hold no `dim` (arXiv 2510.25955, section 3).

The first pass is a beam. It grows combinations codebook by codebook, as faiss' ResidualQuantizer does: every kept
combination tries all K rows of the next codebook, and the best `beam` results stay. Further passes are sweeps over all
codebooks, with a beam again; or, where codebooks were not trained one after the other, joint moves
(`spear.quantize.joint`) from the grown combination and from a guess. Codes change only where the error measured on the
decoded vector falls.

Shape suffixes: B vectors, H kept combinations, N codebooks, K rows of a codebook, C = N * K, D = dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from spear.quantize.joint import joint_move
from spear.quantize.smallest import top_smallest
from spear.quantize.tables import SearchTables

# What a new combination's error must fall by, relatively, to count: float32 sums of squares are not more exact.
_ROUNDING = 1e-6
# Candidates of a codebook in joint moves: `beam`, within these bounds. Their time grows with the square.
_FEWEST_CANDIDATES, _MOST_CANDIDATES = 4, 32
# Candidates of a codebook moved together on CPU, so many that they fit the caches; on accelerators, costs of pairs that
# are looked up together (four bytes each, and as much for their places).
_CPU_CANDIDATES, _DEVICE_PAIRS = 4096, 1 << 27


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


def grow_all(tables: SearchTables, scores_BNK: Tensor, beam: int) -> Tensor:
    """(B, N) int32: the best combination that growing finds with `beam` kept ones."""
    num_vectors, num_codebooks, size = scores_BNK.shape
    rows_BHN = torch.empty(num_vectors, 1, 0, dtype=torch.int32, device=scores_BNK.device)
    errors_BH = scores_BNK.new_zeros(num_vectors, 1)
    for depth, n in enumerate(tables.order, start=1):
        kept = 1 if depth == num_codebooks else beam  # of complete combinations the best is wanted
        errors_BH, parents, codes = grow(rows_BHN, errors_BH, scores_BNK[:, n], tables.pairs_NCK[n], kept)
        # A row is a code plus the place of its codebook's first row, an index into all C rows.
        rows_BHN = extend(rows_BHN, parents, codes + n * size)
    rows_BN = rows_BHN[:, 0]
    if tables.order != sorted(tables.order):
        rows_BN = rows_BN.sort(dim=1).values  # in the order of codebooks again
    return rows_BN - tables.starts_N


class _Track:
    """A combination of each vector, changed in passes for as long as they lower its error."""

    def __init__(self, tables: SearchTables, x_BD: Tensor, scores_BNK: Tensor, codes_BN: Tensor, errors_B: Tensor):
        self.tables, self.x_BD, self.scores_BNK = tables, x_BD, scores_BNK
        self.codes_BN, self.errors_B = codes_BN.clone(), errors_B.clone()  # changed in place
        self.rows = torch.arange(len(codes_BN), device=x_BD.device)  # the vectors that may still change

    def advance(self, width: int) -> bool:
        """One pass; whether any vector may change after it."""
        if not len(self.rows):
            return False
        found_BN = self._next(width)
        errors_B = self.tables.errors(self.x_BD[self.rows], found_BN)
        better = _lower(errors_B, self.errors_B[self.rows])
        changed = self.rows[better]
        self.codes_BN[changed], self.errors_B[changed] = found_BN[better], errors_B[better]
        self.keep(better)
        return len(self.rows) > 0

    def keep(self, chosen: Tensor) -> None:
        """Goes on with some of the vectors that may still change; `chosen` says which of them."""
        self.rows = self.rows[chosen]

    def _next(self, width: int) -> Tensor:
        """(B, N) int32 codes, found from the present ones, of the vectors that may still change."""
        raise NotImplementedError


class _Moves(_Track):
    """Changes several codes at once."""

    def _next(self, width: int) -> Tensor:
        width = min(max(width, _FEWEST_CANDIDATES), _MOST_CANDIDATES)
        if self.x_BD.device.type == "cpu":
            step = _CPU_CANDIDATES // width
        else:
            step = max(1, _DEVICE_PAIRS // (self.tables.num_codebooks * width // 2) ** 2)
        parts = [
            joint_move(self.tables, self.scores_BNK[rows], self.codes_BN[rows], width) for rows in self.rows.split(step)
        ]
        return torch.cat(parts)


class _Sweeps(_Track):
    """Tries all rows of each codebook in turn, in every kept combination; the best `width` results are kept.

    The current combination is always among the candidates. Kept combinations are rows_BHN, an index into all C rows,
    with a key of each and errors that are right up to a constant of each vector.
    """

    def __init__(
        self, tables: SearchTables, x_BD: Tensor, scores_BNK: Tensor, starts: list[Tensor], errors: list[Tensor]
    ):
        super().__init__(tables, x_BD, scores_BNK, *_best(starts, errors))
        # Sweeps from two unlike combinations find more than sweeps from all that were kept, which are much alike.
        self.rows_BHN, self.errors_BH = torch.stack(starts, dim=1) + tables.starts_N, torch.stack(errors, dim=1)
        self.keys_BH = (self.rows_BHN.long() * tables.weights_N).sum(dim=2)

    def keep(self, chosen: Tensor) -> None:
        super().keep(chosen)
        self.scores_BNK, self.rows_BHN = self.scores_BNK[chosen], self.rows_BHN[chosen]
        self.keys_BH, self.errors_BH = self.keys_BH[chosen], self.errors_BH[chosen]

    def _next(self, width: int) -> Tensor:
        for n in range(self.tables.num_codebooks):
            self._step(n, width)
        return self.rows_BHN[:, 0] - self.tables.starts_N

    def _step(self, n: int, width: int) -> None:
        tables, (num_vectors, num_kept, num_codebooks) = self.tables, self.rows_BHN.shape
        size, shift, weight = tables.codebook_size, tables.codebook_size.bit_length() - 1, tables.weights_N[n]
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
        self.errors_BH, places = top_smallest(changes_BHK.view(num_vectors, -1), width)
        parents = places >> shift  # K is a power of two; integer division is slow
        chosen = places - ((parents - n) << shift)
        rows = self.rows_BHN.gather(1, parents[:, :, None].expand(-1, -1, num_codebooks))
        rows[:, :, n] = chosen
        self.rows_BHN = rows
        self.keys_BH = keys_BH.gather(1, parents) + chosen * weight


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
        passes: the first grows combinations, the others improve them and the guess; a vector that did not improve is
            finished early. More passes never give a vector a higher error.
        beam: combinations kept, and candidates of each codebook in joint moves; 1 is a greedy choice.
        guess_BN: int32 codes from elsewhere.
        bfloat16: products of vectors and rows in bfloat16. What counts as better is measured in float32 all the same.

    Returns:
        (B, N) int32 codes; no vector's error is higher than that of its guess.
    """
    scores_BNK = tables.scores(x_BD, bfloat16).view(-1, tables.num_codebooks, tables.codebook_size)
    grown_BN = grow_all(tables, scores_BNK, beam)
    if not len(grown_BN) or (passes <= 1 and guess_BN is None):
        return grown_BN  # nothing to compare and nothing to improve
    starts = [grown_BN] if guess_BN is None else [guess_BN, grown_BN]
    errors = [tables.errors(x_BD, codes_BN) for codes_BN in starts]
    if passes <= 1:
        return _best(starts, errors)[0]
    if tables.staged:
        tracks = [_Sweeps(tables, x_BD, scores_BNK, starts, errors)]
    else:
        tracks = [_Moves(tables, x_BD, scores_BNK, *start) for start in zip(starts, errors)]
    for _ in range(1, passes):
        if not any([track.advance(beam) for track in tracks]):  # a list: all of them advance
            break
    return _best([track.codes_BN for track in tracks], [track.errors_B for track in tracks])[0]


def _best(codes: list[Tensor], errors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The best of several combinations of each vector, and its error; the first where no other is lower."""
    best_BN, best_errors_B = codes[0], errors[0]
    for codes_BN, errors_B in zip(codes[1:], errors[1:]):
        lower_B = _lower(errors_B, best_errors_B)
        best_BN = torch.where(lower_B[:, None], codes_BN, best_BN)
        best_errors_B = torch.where(lower_B, errors_B, best_errors_B)
    return best_BN, best_errors_B


def _lower(errors_B: Tensor, than_B: Tensor) -> Tensor:
    """(B,) whether errors are lower by more than rounding."""
    return errors_B < (1 - _ROUNDING) * than_B


def search_all(tables: SearchTables, x_MD: Tensor, passes: int, beam: int, bfloat16: bool = False) -> Tensor:
    """(M, N) int32 codes of any number of vectors, in chunks."""
    parts = x_MD.split(tables.chunk_size(beam))
    return torch.cat([search(tables, part, passes, beam, bfloat16=bfloat16) for part in parts])
