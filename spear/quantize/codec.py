"""Multi-codebook vector quantisation: a vector is coded as N bytes and decoded as the sum of N code vectors.

The codec of SPEAR's targets (arXiv 2510.25955; direct-sum quantisation of arXiv 2211.00508), with the state dict of
the package `multi_quantization`, so that files work in both. All codebooks span the whole space; a linear layer gives
a first guess of the codes, and a search (`spear.quantize.search`) goes on from there.

Shape suffixes: B vectors, N codebooks, K codes of a codebook, D = dim.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear.errors import ConfigError, DataError
from spear.quantize.search import search
from spear.quantize.tables import SearchTables

DEFAULT_PASSES, DEFAULT_BEAM = 5, 16
SCALE_SPEED = 10.0
# Below this the squares of float32 numbers, summed over a few thousand channels, stay finite.
LARGEST_INPUT = 1e17


class Quantizer(nn.Module):
    """N codebooks of K code vectors, and the linear layer that guesses codes.

    State dict: `to_logits.weight` (N*K, D), `to_logits.bias` (N*K,), `centers` (N, K, D), `logits_scale` (),
    `centers_scale` () and `id_buf` (8,) ASCII codes of an id. Both scales act as exp(10 * value).

    Args:
        dim: D.
        num_codebooks: N, a power of two; bytes of a coded vector when K is 256.
        codebook_size: K, a power of two, at most 256.

    Raises:
        ConfigError: a size that is not a power of two, or K above 256.
    """

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int = 256):
        super().__init__()
        for name, value in (("num_codebooks", num_codebooks), ("codebook_size", codebook_size)):
            if value < 1 or value & (value - 1):
                raise ConfigError(f"{name} = {value}", "a power of two", "choose 1, 2, 4, 8, 16...")
        if not 2 <= codebook_size <= 256:
            raise ConfigError(f"codebook_size = {codebook_size}", "2 to 256: codes are bytes", "add codebooks instead")
        self.dim, self.num_codebooks, self.codebook_size = dim, num_codebooks, codebook_size
        self.to_logits = nn.Linear(dim, num_codebooks * codebook_size)
        self.logits_scale = nn.Parameter(torch.zeros(()))
        self.centers = nn.Parameter(self.to_logits.weight.detach().clone().view(num_codebooks, codebook_size, dim))
        self.centers_scale = nn.Parameter(torch.zeros(()))
        digits = torch.randint(0, 16, (8,))
        self.register_buffer("id_buf", torch.tensor([ord(f"{int(d):x}") for d in digits], dtype=torch.uint8))
        self._tables: tuple[tuple, SearchTables] | None = None

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "Quantizer":
        """A quantizer whose sizes are read from the tensors.

        Raises:
            DataError: keys or shapes that are not those of a quantizer.
        """
        try:
            num_codebooks, codebook_size, dim = state["centers"].shape
            quantizer = cls(dim, num_codebooks, codebook_size)
            quantizer.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise DataError(
                f"tensors that are no quantizer ({str(error).splitlines()[0]})",
                "centers (N, K, dim), to_logits.weight, to_logits.bias, logits_scale, centers_scale, id_buf",
                "give a file of spear train-quantizer or of multi_quantization",
            ) from error
        return quantizer.eval()

    @property
    def id(self) -> str:
        """The eight characters that the reference stores against mix-ups."""
        return bytes(self.id_buf.tolist()).decode("ascii", errors="replace")

    def effective_centers(self) -> Tensor:
        """(N, K, D) code vectors as they are added: scaled centers."""
        return self.centers * torch.exp(SCALE_SPEED * self.centers_scale)

    def logits(self, x: Tensor) -> Tensor:
        """(..., N, K) scores of the codes, linear in x (..., D)."""
        logits = self.to_logits(torch.exp(SCALE_SPEED * self.logits_scale) * x)
        return logits.view(*x.shape[:-1], self.num_codebooks, self.codebook_size)

    @torch.no_grad()
    def encode(
        self, x: Tensor, refine_passes: int = DEFAULT_PASSES, beam: int = DEFAULT_BEAM, bfloat16: bool = False
    ) -> Tensor:
        """Codes of vectors, deterministic and in bounded memory whatever the number of vectors.

        With 0 passes the codes are the likeliest of the linear layer. The first pass grows combinations codebook by
        codebook, `beam` kept at a time, and keeps the guess where that is better; further passes change codes one after
        the other or, where codebooks were trained together, several at once. More passes never raise a vector's error.
        Zeros are coded like any vector; an empty batch gives an empty result.

        Args:
            x: (..., D) floating point; computed in float32.
            refine_passes: of the search; a vector that a pass did not improve is finished early.
            beam: combinations kept, or candidates of a codebook: more is slower and more exact.
            bfloat16: the search's products of vectors and rows in bfloat16: faster where the processor has it.

        Returns:
            (..., N) uint8.

        Raises:
            DataError: another last dimension, NaN or infinite values, or values beyond 1e17 (says how many rows).
        """
        flat = check_vectors(x, self.dim).reshape(-1, self.dim)
        tables = self.tables()
        chunk_size = tables.chunk_size(beam)
        result = torch.empty(len(flat), self.num_codebooks, dtype=torch.uint8, device=flat.device)
        for start in range(0, len(flat), chunk_size):
            x_BD = flat[start : start + chunk_size].float()
            codes_BN = self.logits(x_BD).argmax(dim=-1).int()
            if refine_passes > 0:
                codes_BN = search(tables, x_BD, refine_passes, beam, codes_BN, bfloat16)
            result[start : start + chunk_size] = codes_BN.to(torch.uint8)
        return result.view(*x.shape[:-1], self.num_codebooks)

    def decode(self, indexes: Tensor) -> Tensor:
        """(..., N) integer codes -> (..., D) float32 sums of code vectors; differentiable in the centers.

        Raises:
            DataError: another number of codebooks, or codes outside 0..K-1.
        """
        if indexes.shape[-1:] != (self.num_codebooks,):
            raise DataError(
                f"codes of shape {tuple(indexes.shape)}", f"(..., {self.num_codebooks})", "use the matching quantizer"
            )
        codes = indexes.reshape(-1, self.num_codebooks).long()
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise DataError(
                f"codes from {int(codes.min())} to {int(codes.max())}",
                f"0 to {self.codebook_size - 1}",
                "drop padding (-100) before decoding",
            )
        codes = codes + torch.arange(self.num_codebooks, device=codes.device) * self.codebook_size
        rows = self.effective_centers().reshape(-1, self.dim)
        return F.embedding_bag(codes, rows, mode="sum").view(*indexes.shape[:-1], self.dim)

    def losses(self, x: Tensor, indexes: Tensor) -> dict[str, Tensor]:
        """The four terms of the reference's training objective for given codes.

        Args:
            x: (..., D) vectors.
            indexes: (..., N) their refined codes; no gradient flows through the choice.

        Returns:
            `relative_reconstruction`: squared error relative to that of the mean decoded vector (gradient: centers);
            `logprob`: cross-entropy of the linear layer against the codes, nats (gradient: to_logits);
            `logits_entropy`: (ln K - entropy of the mean of the linear layer's distributions) / ln K;
            `index_entropy`: the same of the counts of the codes; both are 0 when all codes are used alike.
        """
        x, indexes = x.reshape(-1, self.dim), indexes.reshape(-1, self.num_codebooks).long()
        mean_D = self.effective_centers().mean(dim=1).sum(dim=0).detach()
        error = (self.decode(indexes) - x).square().sum()
        log_probabilities = self.logits(x).log_softmax(dim=-1)
        counts_NK = F.one_hot(indexes, self.codebook_size).sum(dim=0)
        return {
            "relative_reconstruction": error / ((x - mean_D).square().sum() + 1e-20),
            "logprob": -log_probabilities.gather(2, indexes[:, :, None]).mean(),
            "logits_entropy": entropy_loss(log_probabilities.exp().mean(dim=0)).mean(),
            "index_entropy": entropy_loss(counts_NK / len(indexes)).mean(),
        }

    @torch.no_grad()
    def product(self) -> "Quantizer":
        """The same code with half as many codebooks: codes 2c and 2c+1 become one, k1 * K + k2.

        Raises:
            ConfigError: one codebook, or more than 16 codes in each.
        """
        if self.num_codebooks < 2 or self.codebook_size > 16:
            raise ConfigError(
                f"{self.num_codebooks} codebooks of {self.codebook_size}",
                "at least two codebooks, of at most 16 codes",
                "merge only small codebooks",
            )
        result = Quantizer(self.dim, self.num_codebooks // 2, self.codebook_size**2)
        result.to(self.centers.device)

        def merged(values: Tensor) -> Tensor:
            pairs = values.view(self.num_codebooks // 2, 2, self.codebook_size, -1)
            return (pairs[:, 0, :, None] + pairs[:, 1, None, :]).flatten(1, 2)

        result.to_logits.weight.copy_(merged(self.to_logits.weight).flatten(0, 1))
        result.to_logits.bias.copy_(merged(self.to_logits.bias).flatten())
        result.centers.copy_(merged(self.centers))
        result.logits_scale.copy_(self.logits_scale)
        result.centers_scale.copy_(self.centers_scale)
        return result

    def tables(self) -> SearchTables:
        """Search tables of the present centers; made again when these have changed."""
        tensors = (self.centers, self.centers_scale)
        # A tensor's version counts its changes in place; the address tells a moved or replaced one.
        state = tuple((t._version, t.data_ptr(), t.device, t.dtype) for t in tensors)
        if self._tables is None or self._tables[0] != state:
            self._tables = (state, SearchTables(self.effective_centers().detach().float()))
        return self._tables[1]

    def __getstate__(self) -> dict:
        # Tables are large and quickly made: worker processes make their own.
        return {**self.__dict__, "_tables": None}


def check_vectors(x: Tensor, dim: int) -> Tensor:
    """Returns x, or says what is wrong with it.

    Raises:
        DataError: see `Quantizer.encode`.
    """
    if x.shape[-1:] != (dim,) or not x.is_floating_point():
        raise DataError(
            f"vectors of shape {tuple(x.shape)}, {x.dtype}", f"(..., {dim}) floats", "use the right teacher"
        )
    bad = int((~(x.abs() <= LARGEST_INPUT)).any(dim=-1).sum()) if x.numel() else 0
    if bad:
        raise DataError(
            f"{bad} of {x.numel() // dim} rows with NaN, infinite or huge values",
            f"finite numbers up to {LARGEST_INPUT:g}",
            "find the recordings whose embeddings are not finite and put them in quarantine",
        )
    return x


def entropy_loss(probabilities: Tensor) -> Tensor:
    """(..., K) distributions -> (...) of 1 - entropy / ln K: 0 when uniform, 1 when one code takes all."""
    size = probabilities.shape[-1]
    return 1 + (probabilities * (probabilities + 1e-20).log()).sum(dim=-1) / math.log(size)
