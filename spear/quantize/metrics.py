"""How good a quantizer is: error, use of the codes, bit rate."""

import math

import torch
from torch import Tensor

from spear.quantize.codec import entropy_loss
from spear.seeds import torch_rng


def relative_error(x_MD: Tensor, decoded_MD: Tensor) -> float:
    """Squared error of the decoded frames over that of the frames' mean: 0 is perfect, 1 is no better than the mean."""
    x_MD, decoded_MD = x_MD.detach().double(), decoded_MD.detach().double()
    total = (x_MD - x_MD.mean(dim=0)).square().sum()
    return float((x_MD - decoded_MD).square().sum() / (total + 1e-20))


def code_use(codes_MN: Tensor, codebook_size: int) -> dict[str, list]:
    """How evenly the codes of each codebook are used.

    Returns:
        `perplexity` (K when all are used alike), `dead_codes` (how many were never used) and `index_entropy_loss`
        (1 - entropy / ln K; 0 when even), a list over codebooks each.
    """
    counts_NK = torch.stack([torch.bincount(codes.long(), minlength=codebook_size) for codes in codes_MN.T])
    losses_N = entropy_loss(counts_NK.double() / max(1, len(codes_MN)))
    return {
        "perplexity": [round(math.exp((1 - loss) * math.log(codebook_size)), 2) for loss in losses_N.tolist()],
        "dead_codes": (counts_NK == 0).sum(dim=1).tolist(),
        "index_entropy_loss": [round(loss, 5) for loss in losses_N.tolist()],
    }


def evenness(centers_NKD: Tensor, codes_MN: Tensor) -> dict[str, list[float]]:
    """How evenly the codebooks share the work, whatever their order.

    Returns:
        `energy_shares` (mean squared length of a codebook's part of the decoded frames, about the part's mean, over the
        sum of all codebooks') and `entropy_nats` of each codebook's codes; lists over codebooks.
    """
    energies, entropies = [], []
    for centers_KD, codes_M in zip(centers_NKD.detach().double(), codes_MN.T):
        share_K = torch.bincount(codes_M.long(), minlength=len(centers_KD)).double() / max(1, len(codes_M))
        mean_D = share_K @ centers_KD
        energies.append(float(share_K @ (centers_KD - mean_D).square().sum(dim=1)))
        entropies.append(_entropy_nats(share_K))
    total = sum(energies) or 1.0
    return {
        "energy_shares": [round(energy / total, 4) for energy in energies],
        "entropy_nats": [round(entropy, 4) for entropy in entropies],
    }


def mutual_information(codes_MN: Tensor, codebook_size: int, seed: int = 42) -> Tensor:
    """(N, N) bits that each codebook's code tells about each other's; the diagonal holds the entropies.

    Counting M frames in K x K cells finds information even between independent codes; what is found after shuffling
    one of the two (which leaves only that) is subtracted. Codebooks that tell each other much waste bits.
    """
    num_frames, num_codebooks = codes_MN.shape
    codes_NM = codes_MN.long().T.contiguous()
    order = torch.randperm(num_frames, generator=torch_rng(seed, "mutual information")).to(codes_NM.device)
    entropies_N = [_entropy_bits(codes, codebook_size) for codes in codes_NM]
    result_NN = torch.diag(torch.tensor(entropies_N, dtype=torch.float64))
    for i in range(num_codebooks):
        for j in range(i):
            joint = _entropy_bits(codes_NM[i] * codebook_size + codes_NM[j], codebook_size**2)
            chance = _entropy_bits(codes_NM[i] * codebook_size + codes_NM[j][order], codebook_size**2)
            result_NN[i, j] = result_NN[j, i] = max(0.0, chance - joint)
    return result_NN


def _entropy_bits(codes_M: Tensor, num_codes: int) -> float:
    probabilities = torch.bincount(codes_M, minlength=num_codes).double() / max(1, len(codes_M))
    return _entropy_nats(probabilities) / math.log(2)


def _entropy_nats(probabilities: Tensor) -> float:
    return float(-(probabilities * probabilities.clamp(min=1e-300).log()).sum())


def bits_per_frame(num_codebooks: int, codebook_size: int) -> float:
    """Bits of a coded frame."""
    return num_codebooks * math.log2(codebook_size)


def bits_per_second(num_codebooks: int, codebook_size: int, frame_rate_hz: float) -> float:
    """Bits per second of audio: 16 codebooks of 256 at 50 Hz are 6400."""
    return bits_per_frame(num_codebooks, codebook_size) * frame_rate_hz
