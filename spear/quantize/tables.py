"""What the search for codes of direct-sum quantisation knows of a set of codebooks.

A vector x is approximated by the sum of one row of each codebook, ``C_1[i_1] + ... + C_N[i_N]``. Its squared error is

    |x|^2 + sum_n (|C_n[i_n]|^2 - 2 x.C_n[i_n]) + 2 sum_{n<m} C_n[i_n].C_m[i_m]

so after one matrix product x.C and one Gram matrix C.C the error of any combination is a sum of table entries, with no
`dim` in it.

Shape suffixes: B vectors, N codebooks, K rows of a codebook, C = N * K, D = dim.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

# Codebooks count as trained one after the other if this share of their pairs at most is larger behind than before.
_MOST_DISORDER = 0.1
# Kept combinations searched together on CPU (fits the caches); vectors on accelerators, which want larger pieces.
CPU_CHUNK, DEVICE_CHUNK = 4096, 8192


class SearchTables:
    """What the search needs of a set of codebooks, made once per quantizer.

    The mean row of each codebook is moved into a constant: the error is the same, but numbers stay small, and with
    them the rounding of float32.

    Args:
        centers: (N, K, D) effective code vectors.

    Attributes:
        staged: whether the codebooks become smaller from first to last, as those do that were each trained on what the
            ones before leave over. Growing combinations in their order suits them; others need more than that.
        order: of the codebooks in which combinations are grown: the largest first.
    """

    def __init__(self, centers: Tensor):
        self.num_codebooks, self.codebook_size, self.dim = centers.shape
        num_rows = self.num_codebooks * self.codebook_size
        means = centers.mean(dim=1, keepdim=True)
        self.offset_D = means.sum(dim=(0, 1))
        self.rows_CD = (centers - means).reshape(num_rows, self.dim).contiguous()
        self.squares_C = self.rows_CD.square().sum(dim=1)
        sizes_N = self.squares_C.view(self.num_codebooks, self.codebook_size).mean(dim=1)
        disorder = int((sizes_N[None, :] > sizes_N[:, None]).triu(1).sum())
        self.staged = disorder <= _MOST_DISORDER * self.num_codebooks * (self.num_codebooks - 1) / 2
        by_size = sizes_N.argsort(descending=True, stable=True).tolist()
        self.order = list(range(self.num_codebooks)) if self.staged else by_size
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
