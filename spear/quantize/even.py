"""Where training of even codebooks begins: each codebook gets directions of its own, of like energy and like bits.

Codebooks that are trained one after the other form a hierarchy: the first carries most of the energy, the last almost
none. Here principal directions are dealt out to the codebooks, as a product quantiser with balanced subspaces does
(OPQ; Ge et al. 2013), and every codebook is the k-means of its directions. A direction with more energy than one
codebook may carry is split: each of several codebooks gets a random part of it, and the parts, which are uncorrelated,
add up to the whole.

Shape suffixes: M frames, N codebooks, K codes, D = dim, P directions of a codebook.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spear.quantize.start import progressive_kmeans
from spear.seeds import torch_rng

# The most that a codebook's energy may be, in units of the mean: 1.5 of it counts as even.
MOST_ENERGY = 1.5
# The most where directions are dealt out, since rounds of training move it.
_DEALT_ENERGY = 1.25


@dataclass
class _Hand:
    """The directions of a codebook.

    Attributes:
        parts: (direction, which of its parts) pairs.
        energy: what they carry above the noise.
        nats: what they need.
    """

    parts: list[tuple[int, int]] = field(default_factory=list)
    energy: float = 0.0
    nats: float = 0.0

    def has(self, direction: int) -> bool:
        """Whether a part of the direction is here already."""
        return any(direction == own for own, _ in self.parts)


def even_start(x_MD: Tensor, num_codebooks: int, codebook_size: int, iterations: int, seed: int) -> Tensor:
    """(N, K, D) codebooks of like energy.

    Args:
        x_MD: frames.
        num_codebooks, codebook_size: N and K.
        iterations: of each k-means.
        seed: names every random choice.
    """
    mean_D = x_MD.mean(dim=0)
    centered_MD = x_MD - mean_D
    energies, axes_DD = torch.linalg.eigh(centered_MD.T @ centered_MD / len(x_MD))
    axes_DD = axes_DD.flip(1)
    turned_MD = centered_MD @ axes_DD
    hands, counts = deal(energies.flip(0).clamp(min=0).tolist(), num_codebooks, codebook_size)
    split = {place: _split(turned_MD[:, place], count, seed, place) for place, count in counts.items() if count > 1}
    centers_NKD = x_MD.new_zeros(num_codebooks, codebook_size, x_MD.shape[1])
    for n, hand in enumerate(hands):
        if not hand.parts:
            continue  # fewer directions than codebooks, and none worth a split
        parts = [turned_MD[:, place] if place not in split else split[place][k] for place, k in hand.parts]
        own_MP = torch.stack(parts, dim=1)
        centers_KP = progressive_kmeans(own_MP, codebook_size, iterations, seed, f"even{n}")
        centers_NKD[n] = centers_KP @ axes_DD[:, [place for place, _ in hand.parts]].T
    return centers_NKD + mean_D / num_codebooks


def deal(energies: list[float], num_codebooks: int, codebook_size: int) -> tuple[list[_Hand], dict[int, int]]:
    """Directions of each codebook, and into how many parts each direction is split.

    Args:
        energies: of uncorrelated directions, in descending order.
    """
    noise = _water_level(energies, num_codebooks * math.log(codebook_size))
    total = max(sum(energies), 1e-30)
    share = total / num_codebooks
    counts = {
        place: min(num_codebooks, max(1, math.ceil(energy / (_DEALT_ENERGY * share))))
        for place, energy in enumerate(energies)
    }
    parts = [(energy / counts[place], place, k) for place, energy in enumerate(energies) for k in range(counts[place])]
    hands = [_Hand() for _ in range(num_codebooks)]
    for energy, place, k in sorted(parts, key=lambda part: -part[0]):
        free = [hand for hand in hands if not hand.has(place)]
        light = [hand for hand in free if hand.energy + energy <= _DEALT_ENERGY * share]
        nats = 0.5 * math.log(energy / noise) if energy > noise else 0.0
        if not light or not nats:
            hand = min(free, key=lambda hand: hand.energy)
        else:
            hand = min(light, key=lambda hand: hand.nats)
        hand.parts.append((place, k))
        hand.energy += energy
        hand.nats += nats
    return hands, counts


def _water_level(energies: list[float], nats: float) -> float:
    """The error that remains in each direction when so many nats code Gaussians of these energies best."""
    total, level = 0.0, 1e-30
    for count, energy in enumerate(energies, start=1):
        total += math.log(max(energy, 1e-30))
        found = math.exp((total - 2 * nats) / count)
        if found > energy:
            break
        level = max(found, 1e-30)
    return level


def _split(x_M: Tensor, count: int, seed: int, place: int) -> list[Tensor]:
    """`count` uncorrelated parts of like energy that add up to x: an even part each, plus noise whose sum is zero."""
    generator = torch_rng(seed, "even parts", place)
    noise = torch.randn(count, len(x_M), generator=generator).to(x_M.device)
    noise -= noise.mean(dim=0)
    scale = x_M.square().mean().sqrt() / math.sqrt(count)
    return list(x_M / count + scale * noise)
