"""The vectors that quantisers are compared on: teachers' embeddings, windows of real audio, a synthetic mixture.

Every set is split by recording (the mixture by row) and normalised per channel with the statistics of its training
part, as quantizers of this project are. Shape suffixes: M vectors, D = dim, T frames.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear.audio.fbank import Fbank
from spear.audio.load import load_audio
from spear.errors import ConfigError, DataError
from spear.quantize import channel_statistics
from spear.seeds import torch_rng
from spear.shards import ShardStore


@dataclass
class VectorSet:
    """Training and held-out vectors.

    Attributes:
        name: for the tables.
        num_codebooks: that suit the dimension, of 256 codes each.
        train_MD, heldout_MD: float32, normalised per channel.
    """

    name: str
    num_codebooks: int
    train_MD: Tensor
    heldout_MD: Tensor

    def __post_init__(self):
        mean_D, std_D = channel_statistics(self.train_MD)
        self.train_MD, self.heldout_MD = ((x.float() - mean_D) / std_D for x in (self.train_MD, self.heldout_MD))


def embedding_set(directory: str | Path, max_train: int, max_heldout: int) -> VectorSet:
    """Embeddings that `spear embed` wrote; the last recordings are held out."""
    store = ShardStore(directory)
    arrays = [torch.from_numpy(np.array(array)).float() for _, array in store.items()]
    train_MD, heldout_MD = _split_recordings(arrays, max_train, max_heldout)
    return VectorSet(f"embeddings {Path(directory).name}", 8, train_MD, heldout_MD)


def fbank_set(audio_dir: str | Path, max_train: int, max_heldout: int, stacked: int = 2) -> VectorSet:
    """Windows of `stacked` 128-mel frames (256 channels at 50 Hz for two) of the recordings of a folder."""
    paths = sorted(path for suffix in ("flac", "wav", "ogg", "mp3") for path in Path(audio_dir).rglob(f"*.{suffix}"))
    if not paths:
        raise DataError(f"no audio in {audio_dir}", "flac, wav, ogg or mp3 files", "give --audio-dir a folder of audio")
    order = torch.randperm(len(paths), generator=torch_rng(0, "bench recordings")).tolist()
    fbank, arrays, rows = Fbank(), [], 0
    for place in order:
        wave = torch.from_numpy(load_audio(paths[place], duration_seconds=None))
        features_TF = fbank(wave[None])[0][0]
        count = len(features_TF) // stacked
        if count:
            arrays.append(features_TF[: count * stacked].reshape(count, -1))
            rows += count
        if rows > 1.2 * (max_train + max_heldout):
            break
    train_MD, heldout_MD = _split_recordings(arrays, max_train, max_heldout)
    return VectorSet("fbank windows", 8, train_MD, heldout_MD)


def mixture_set(dim: int, max_train: int, max_heldout: int) -> VectorSet:
    """400 Gaussian clusters that share a covariance of rank dim / 8, plus white noise: seeded, any size."""
    generator = torch_rng(0, "bench mixture", dim)
    latent = max(1, dim // 8)
    means_CD = torch.randn(400, dim, generator=generator)
    mixing_LD = 1.5 * torch.randn(latent, dim, generator=generator) / latent**0.5
    x_MD = torch.empty(max_train + max_heldout, dim)
    for part in x_MD.split(8192):
        part.copy_(torch.randn(len(part), latent, generator=generator) @ mixing_LD)
        part += means_CD[torch.randint(len(means_CD), (len(part),), generator=generator)]
        part += 0.3 * torch.randn(part.shape, generator=generator)
    return VectorSet(f"mixture {dim}", 16 if dim > 512 else 8, x_MD[max_heldout:], x_MD[:max_heldout])


def _split_recordings(arrays: list[Tensor], max_train: int, max_heldout: int) -> tuple[Tensor, Tensor]:
    total, heldout, rows = sum(map(len, arrays)), [], 0
    while arrays and rows < min(max_heldout, total // 5):
        heldout.append(arrays.pop())
        rows += len(heldout[-1])
    if not arrays or not heldout:
        raise ConfigError(f"{total} vectors", "at least some hundred, of several recordings", "give more recordings")
    generator = torch_rng(0, "bench vectors")
    train_MD, heldout_MD = torch.cat(arrays), torch.cat(heldout)[:max_heldout]
    return train_MD[torch.randperm(len(train_MD), generator=generator)[:max_train]], heldout_MD
