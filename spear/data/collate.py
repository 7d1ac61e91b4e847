"""A batch: padded features and targets, and what a trainer wants to know about them."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from spear.audio.fbank import LOG_FLOOR

PARTS = ("read", "mix", "features", "collate")


@dataclass
class Batch:
    """B cuts.

    Args:
        ids: of the cuts; "" in a batch none of whose cuts could be read (see `skipped`).
        features_BTF: (B, T, mel bins) float32, padded with `LOG_FLOOR`.
        feature_lens_B: (B,) int64 frames.
        domains: "speech" or "audio" of each cut.
        targets: by stream, (B, T_stream, width) at the stream's own rate; tokens are int64 and -100 where there is no
            target, features float16 or float32 and NaN there.
        mix_kinds: "none", "noise" or "speech" for each cut.
        padded_seconds: B times the longest cut.
        audio_seconds: without padding.
        epoch, step, rank: which batch this is.
        seconds: time spent on each of `PARTS`.
        skipped: (id, reason) of cuts and noises that could not be read.
    """

    ids: list[str]
    features_BTF: Tensor
    feature_lens_B: Tensor
    domains: list[str]
    targets: dict[str, Tensor]
    mix_kinds: list[str]
    padded_seconds: float
    audio_seconds: float = 0.0
    epoch: int = 0
    step: int = 0
    rank: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def to(self, device: str | torch.device, non_blocking: bool = True) -> "Batch":
        """The batch with its tensors on `device`; from pinned memory the copy overlaps with computation."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; `DataLoader` calls this."""
        return self.map(lambda tensor: tensor.pin_memory())

    def map(self, function: Callable) -> "Batch":
        """The batch with a function applied to its tensors (or arrays)."""
        changed = {"targets": {name: function(tensor) for name, tensor in self.targets.items()}}
        for entry in fields(self):
            if isinstance(getattr(self, entry.name), Tensor | np.ndarray):
                changed[entry.name] = function(getattr(self, entry.name))
        return replace(self, **changed)


def pad_waves(waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(B, samples) float32 padded with zeros, and (B,) lengths."""
    lens_B = torch.tensor([len(wave) for wave in waves], dtype=torch.int64)
    waves_BS = torch.zeros(len(waves), int(lens_B.max()))
    for row, wave in enumerate(waves):
        waves_BS[row, : len(wave)] = torch.from_numpy(wave)
    return waves_BS, lens_B


def pad_features(rows: list[np.ndarray | Tensor], num_mel_bins: int) -> tuple[Tensor, Tensor]:
    """(B, T, num_mel_bins) float32 padded with `LOG_FLOOR`, and (B,) lengths."""
    lens_B = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    features_BTF = torch.full((len(rows), int(lens_B.max()), num_mel_bins), LOG_FLOOR)
    for number, row in enumerate(rows):
        features_BTF[number, : len(row)] = torch.as_tensor(row)
    return features_BTF, lens_B


def pad_targets(rows: list[np.ndarray], nothing: int | float) -> Tensor:
    """(B, T_stream, width) of the rows' own type, padded with what stands for no target."""
    shape = len(rows), max(len(row) for row in rows), rows[0].shape[1]
    targets_BTN = torch.from_numpy(np.full(shape, nothing, dtype=rows[0].dtype))
    for number, row in enumerate(rows):
        targets_BTN[number, : len(row)] = torch.from_numpy(row)
    return targets_BTN
