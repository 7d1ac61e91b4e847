"""Moves of the code search that change the codes of all codebooks at once, over tables that hold no `dim`.

A combination of which no single code can be replaced with gain may still be far from the best: codebooks that were
trained together by gradients (multi_quantization's) need several codes to change together. A joint move takes a few
candidates of each codebook, by what each would change alone, joins them in pairs of codebooks, keeps the best pairs,
joins these in fours, and so on, until one combination of all codebooks is left. What two codes cost beside each other
is an entry of the Gram table, so joining is looking up and adding. multi_quantization's refinement goes through
combinations in this order too, and computes each of them from vectors.

Shape suffixes: B vectors, N codebooks, K codes of a codebook, W kept candidates (V of the other group), L codebooks of
a group, R and S = L * W candidates of all codebooks of a group.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spear.quantize.smallest import top_smallest
from spear.quantize.tables import SearchTables

# Below every change of an error: what has it is sorted to the front.
_LOWEST = torch.finfo(torch.float32).min


@dataclass
class _Group:
    """The best combinations of codes of some codebooks, the present one first.

    Attributes:
        codebooks: which, ascending.
        picks_BWL: int32 places of the codes among the candidates of their codebook.
        changes_BW: of the error, if all other codebooks stay as they are.
    """

    codebooks: range
    picks_BWL: Tensor
    changes_BW: Tensor


def joint_move(tables: SearchTables, scores_BNK: Tensor, codes_BN: Tensor, width: int) -> Tensor:
    """The best combination that was found near each given one; that one itself where none is better.

    Args:
        tables: of the codebooks.
        scores_BNK: |row|^2 - 2 x.row of each vector.
        codes_BN: int32 combinations to start from.
        width: candidates of each codebook.

    Returns:
        (B, N) int32 codes.
    """
    num_vectors, num_codebooks = codes_BN.shape
    width = min(width, tables.codebook_size)
    codes_NBW, changes_NBW = _replacements(tables, scores_BNK, codes_BN, width)
    picks_BW1 = torch.arange(width, dtype=torch.int32, device=codes_BN.device).expand(num_vectors, -1)[..., None]
    groups = [_Group(range(n, n + 1), picks_BW1, changes_NBW[n]) for n in range(num_codebooks)]
    while len(groups) > 1:
        pairs = list(zip(groups[::2], groups[1::2]))
        last = len(groups) == 2
        groups = [_join(tables, codes_NBW, *pair, last) for pair in pairs] + groups[2 * len(pairs) :]
    best_B = groups[0].changes_BW.argmin(dim=1)
    rows = torch.arange(num_vectors, device=codes_BN.device)
    picks_BN = groups[0].picks_BWL[rows, best_B].long()
    return codes_NBW.permute(1, 0, 2).gather(2, picks_BN[..., None]).squeeze(2)


def _replacements(tables: SearchTables, scores_BNK: Tensor, codes_BN: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(N, B, W) int32 codes that alone change the error least, the present one first, and their changes."""
    num_vectors, num_codebooks = codes_BN.shape
    codes_NBW = codes_BN.new_empty(num_codebooks, num_vectors, width)
    changes_NBW = scores_BNK.new_empty(num_codebooks, num_vectors, width)
    rows_BN = codes_BN + tables.starts_N
    for n in range(num_codebooks):
        changes_BK = F.embedding_bag(rows_BN, tables.pairs_NCK[n], mode="sum").add_(scores_BNK[:, n])
        present_B1 = codes_BN[:, n : n + 1].long()
        changes_BK -= changes_BK.gather(1, present_B1)
        changes_BK.scatter_(1, present_B1, _LOWEST)
        changes_NBW[n], codes_NBW[n] = top_smallest(changes_BK, width)
    changes_NBW[:, :, 0] = 0
    return codes_NBW, changes_NBW


def _join(tables: SearchTables, codes_NBW: Tensor, left: _Group, right: _Group, last: bool) -> _Group:
    """The best combinations of those of two groups; of the last two groups only the very best."""
    costs_BWV = _costs(tables, codes_NBW, left, right)
    # Of a pair (a, b) both changes count from the present codes (place 0), so their cost does, too.
    left_BW = left.changes_BW - costs_BWV[:, :, 0]
    right_BV = right.changes_BW - costs_BWV[:, 0] + costs_BWV[:, :1, 0]
    changes_BWV = (costs_BWV + left_BW[:, :, None]).add_(right_BV[:, None])
    num_right = right_BV.shape[1]
    changes_BP = changes_BWV.view(len(left_BW), -1)
    if not last:
        changes_BP[:, 0] = _LOWEST
    kept = 1 if last else _kept(len(left.codebooks) + len(right.codebooks), codes_NBW.shape[2])
    best_BW, places_BW = top_smallest(changes_BP, kept)
    if not last:
        best_BW[:, 0] = 0
    parents_BW = places_BW // num_right
    chosen = ((left, parents_BW), (right, places_BW - parents_BW * num_right))
    parts = [group.picks_BWL.gather(1, p[..., None].expand(-1, -1, len(group.codebooks))) for group, p in chosen]
    return _Group(range(left.codebooks.start, right.codebooks.stop), torch.cat(parts, dim=2), best_BW)


def _kept(joined: int, width: int) -> int:
    """Combinations kept of so many codebooks: twice as many each time that four times as many are joined."""
    return width * 2 ** ((joined.bit_length() - 1) // 2)


def _costs(tables: SearchTables, codes_NBW: Tensor, left: _Group, right: _Group) -> Tensor:
    """(B, W, V) 2 row.row summed over all codebooks of the left and of the right group, for all their combinations."""
    if len(left.codebooks) == len(right.codebooks) == 1:
        return _lookup(tables, codes_NBW, left.codebooks, right.codebooks)
    width = codes_NBW.shape[2]
    # First sums over the right group's codebooks, beside every candidate of the left group's; then over the left's.
    costs_BVR = _sum_of_rows(_lookup(tables, codes_NBW, right.codebooks, left.codebooks), right.picks_BWL, width)
    return _sum_of_rows(costs_BVR.transpose(1, 2).contiguous(), left.picks_BWL, width)


def _lookup(tables: SearchTables, codes_NBW: Tensor, codebooks: range, others: range) -> Tensor:
    """(B, R, S) 2 row.row of the candidates of some codebooks (R) and those of others (S)."""
    size, num_rows = tables.codebook_size, len(tables.squares_C)
    # Where the row of a candidate begins in the table of any codebook, and its place in the table of its own.
    rows_BR = torch.cat([(codes_NBW[m] + m * size) * size for m in codebooks], dim=1)
    places_BS = torch.cat([codes_NBW[n] + n * num_rows * size for n in others], dim=1)
    places_BRS = rows_BR[:, :, None] + places_BS[:, None, :]
    return tables.pairs_NCK.view(-1).index_select(0, places_BRS.view(-1)).view_as(places_BRS)


def _sum_of_rows(values_BRS: Tensor, picks_BVL: Tensor, width: int) -> Tensor:
    """(B, V, S): of each combination the sum over its codebooks l of row picks[l] of the l-th `width` rows."""
    num_vectors, num_rows, num_columns = values_BRS.shape
    _, num_kept, depth = picks_BVL.shape
    device = picks_BVL.device
    blocks_L = torch.arange(0, depth * width, width, dtype=torch.int32, device=device)
    starts_B = torch.arange(0, num_vectors * num_rows, num_rows, dtype=torch.int32, device=device)
    rows = (picks_BVL + blocks_L + starts_B[:, None, None]).view(-1, depth)
    summed = F.embedding_bag(rows, values_BRS.reshape(-1, num_columns), mode="sum")
    return summed.view(num_vectors, num_kept, num_columns)
