"""Other quantisers under the same interface, so that an experiment swaps them: k-means and random projections.

Shape suffixes: B vectors, N codebooks, K codes, D = dim, P = projection dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear import compat, fs
from spear.errors import ConfigError
from spear.quantize.codec import check_vectors
from spear.quantize.start import kmeans, nearest
from spear.seeds import torch_rng

_CHUNK_BYTES = 32 << 20


class KMeans(nn.Module):
    """One codebook; a vector's code is its nearest center.

    Args:
        dim: of the vectors.
        codebook_size: K, any number.
    """

    num_codebooks = 1

    def __init__(self, dim: int, codebook_size: int):
        super().__init__()
        self.dim, self.codebook_size = dim, codebook_size
        self.register_buffer("centers", torch.zeros(codebook_size, dim))

    @classmethod
    def train_on(
        cls,
        frames_MD: Tensor,
        codebook_size: int,
        iterations: int = 20,
        seed: int = 42,
        batch_frames: int | None = None,
    ) -> "KMeans":
        """Lloyd's iterations from random frames; empty centers move to random frames.

        Args:
            frames_MD: (M, dim) floats.
            codebook_size: K; 8192 is as well as 256.
            iterations: passes over the frames, or mini-batches.
            seed: names the random frames.
            batch_frames: frames of a mini-batch; None: all frames in every iteration.
        """
        frames_MD = check_vectors(frames_MD, frames_MD.shape[-1]).float()
        model = cls(frames_MD.shape[1], codebook_size).to(frames_MD.device)
        model.centers.copy_(kmeans(frames_MD, codebook_size, iterations, seed, "kmeans control", batch_frames))
        return model

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(..., dim) floats -> (..., 1) codes: uint8 up to 256 centers, else int16 or int32."""
        flat = check_vectors(x, self.dim).reshape(-1, self.dim).float()
        return nearest(flat, self.centers).to(code_dtype(self.codebook_size)).view(*x.shape[:-1], 1)

    def decode(self, indexes: Tensor) -> Tensor:
        """(..., 1) codes -> (..., dim) centers."""
        return self.centers[indexes.squeeze(-1).long()]


class RandomProjectionQuantizer(nn.Module):
    """BEST-RQ targets (arXiv 2202.01855): a frozen random projection and the nearest of K random directions.

    Each codebook has its own projection (Xavier uniform) and its own codes (normal, scaled to length one); the code
    is the one with the largest cosine to the projected vector. Nothing is trained: everything follows from the
    sizes and the seed, which make the `fingerprint`. No state dict entries; zeros get code 0.

    Args:
        input_dim: D of the vectors.
        codebook_size: K.
        num_codebooks: N.
        projection_dim: P, dimensions of the projected vector.
        seed: names all random numbers.

    Raises:
        ConfigError: a size below one.
    """

    def __init__(
        self, input_dim: int, codebook_size: int = 256, num_codebooks: int = 1, projection_dim: int = 16, seed: int = 42
    ):
        super().__init__()
        sizes = (input_dim, codebook_size, num_codebooks, projection_dim)
        if min(sizes) < 1:
            raise ConfigError(f"sizes {sizes} of a random-projection quantiser", "numbers above zero", "correct them")
        self.input_dim, self.codebook_size, self.num_codebooks, self.projection_dim = sizes
        self.seed = seed
        bound = (6 / (input_dim + projection_dim)) ** 0.5
        projection = torch.empty(num_codebooks, projection_dim, input_dim)
        codes = torch.empty(num_codebooks, codebook_size, projection_dim)
        for n in range(num_codebooks):  # a codebook does not depend on how many there are
            projection[n].uniform_(-bound, bound, generator=torch_rng(seed, "random projection", n))
            codes[n].normal_(generator=torch_rng(seed, "random codebook", n))
        self.register_buffer("projection_CD", projection.flatten(0, 1), persistent=False)
        self.register_buffer("codes_NPK", F.normalize(codes, dim=-1).transpose(1, 2).contiguous(), persistent=False)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(..., input_dim) floats -> (..., N) codes: uint8 up to 256 codes, else int16 or int32.

        Computed in float32 also under autocast, in bounded memory. Scaling a vector does not change its codes.

        Raises:
            DataError: another last dimension, or values that are not finite (says how many rows).
        """
        flat = check_vectors(x, self.input_dim).reshape(-1, self.input_dim)
        rows = max(1, _CHUNK_BYTES // (4 * self.num_codebooks * self.codebook_size))
        parts = []
        with compat.disabled_autocast(flat.device.type):
            for x_BD in flat.split(rows):
                projected_NBP = F.linear(x_BD.float(), self.projection_CD)
                projected_NBP = projected_NBP.view(-1, self.num_codebooks, self.projection_dim).transpose(0, 1)
                # The length of the projected vector scales all its cosines alike: the largest stays the largest.
                parts.append(torch.bmm(projected_NBP, self.codes_NPK).argmax(dim=-1).T)
        codes = torch.cat(parts) if parts else torch.empty(0, self.num_codebooks, device=x.device)
        return codes.to(code_dtype(self.codebook_size)).view(*x.shape[:-1], self.num_codebooks)

    def fingerprint(self) -> dict:
        """What defines the codes, with a hash of the numbers themselves."""
        tensors = (self.projection_CD, self.codes_NPK)
        return {
            "quantizer": "random_projection",
            "input_dim": self.input_dim,
            "codebook_size": self.codebook_size,
            "num_codebooks": self.num_codebooks,
            "projection_dim": self.projection_dim,
            "seed": self.seed,
            "content_sha256": fs.sha256_bytes(b"".join(t.cpu().numpy().tobytes() for t in tensors)),
        }


def code_dtype(codebook_size: int) -> torch.dtype:
    """The smallest integer type of torch that holds codes 0..K-1."""
    return torch.uint8 if codebook_size <= 256 else torch.int16 if codebook_size <= 1 << 15 else torch.int32
