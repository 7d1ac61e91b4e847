"""SS of SUPERB-SG: two talkers apart, by masks on the mixture's spectrum; SI-SDR improvement (arXiv 2203.06849).

`target` names the files of the two sources, beside the mixture's own file and as long as it. A hypothesis holds the
SI-SDR of the separated sources, under the better assignment, and that of the mixture itself, in dB.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.audio.load import load_audio
from spear.evaluate.banks import Bank, ModuleBank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.modules import RecurrentHead
from spear.evaluate.problems import FrameProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Row, Table
from spear.evaluate.task import Task

NUM_SOURCES = 2
_RATE_HZ, _FFT = 16000, 512
_BINS = _FFT // 2 + 1


def si_sdr(estimate_S: Tensor, source_S: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB: the estimate's part along the source against the rest."""
    source_S, estimate_S = source_S.double(), estimate_S.double()
    part_S = source_S * (estimate_S @ source_S) / (source_S @ source_S).clamp(min=1e-10)
    rest_S = estimate_S - part_S
    return float(10 * torch.log10((part_S @ part_S).clamp(min=1e-10) / (rest_S @ rest_S).clamp(min=1e-10)))


def mask_loss(masks_BTSF: Tensor, mixture_BTF: Tensor, targets_BTSF: Tensor, lens_B: Tensor) -> Tensor:
    """Mean squared error of the masked magnitudes under the better assignment of each item's outputs."""
    device = masks_BTSF.device
    mixture_BTF, targets_BTSF, lens_B = mixture_BTF.to(device), targets_BTSF.to(device), lens_B.to(device)
    valid_BT = (torch.arange(masks_BTSF.shape[1], device=device) < lens_B[:, None]).float()
    masked_BTSF = masks_BTSF * mixture_BTF[:, :, None]
    errors = [(masked_BTSF - targets).square().mean(dim=(2, 3)) for targets in (targets_BTSF, targets_BTSF.flip(2))]
    sums_B = torch.stack([(error_BT * valid_BT).sum(dim=1) for error_BT in errors]).min(dim=0).values
    return (sums_B / lens_B).mean()


class SeparationProblem(FrameProblem):
    """Masks at the upstream's frames, applied to the mixture's spectrum with the same shift."""

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        super().__init__(splits, store, settings)
        self._hop = round(_RATE_HZ / self.frame_rate_hz)
        self.details = {"hop_samples": self._hop}

    def make_bank(self) -> Bank:
        """See `Problem`."""
        settings = self.settings

        def make_head() -> RecurrentHead:
            sizes = (settings.rnn_dim, settings.rnn_layers, NUM_SOURCES * _BINS)
            return RecurrentHead(self.dim, 0, *sizes, dropout=settings.dropout)

        return ModuleBank(self.num_layers, make_head, settings)

    def _waves(self, split: str, place: int) -> Tensor:
        """Mixture and sources, (1 + NUM_SOURCES, samples)."""
        row = self._splits[split][place]
        paths = [row.item.path, *_sources(row)]
        waves = [torch.from_numpy(load_audio(path, _RATE_HZ)) for path in paths]
        size = len(waves[0])
        return torch.stack([functional.pad(wave, (0, max(0, size - len(wave))))[:size] for wave in waves])

    def _spectra(self, waves_KS: Tensor) -> Tensor:
        """Complex spectra (K, T, F) of centred Hann windows."""
        window = torch.hann_window(_FFT)
        return torch.stft(waves_KS, _FFT, self._hop, window=window, return_complex=True).transpose(1, 2)

    def _batch(self, split: str, places: np.ndarray) -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Magnitudes of mixtures, phase-sensitive targets and their lengths at the features' frames.

        And of each item the waves and the whole spectrum of the mixture.
        """
        waves = [self._waves(split, int(place)) for place in places]
        items = []
        lens_B = torch.from_numpy(self.lengths[split][places])
        mixture_BTF = torch.zeros(len(waves), int(lens_B.max()), _BINS)
        targets_BTSF = torch.zeros(len(waves), int(lens_B.max()), NUM_SOURCES, _BINS)
        for row, (waves_KS, frames) in enumerate(zip(waves, lens_B.tolist())):
            spectra_KTF = self._spectra(waves_KS)
            items.append((waves_KS, spectra_KTF[0]))
            spectra_KTF = spectra_KTF[:, :frames]
            mixture_TF, count = spectra_KTF[0], spectra_KTF.shape[1]
            mixture_BTF[row, :count] = mixture_TF.abs()
            # The part of each source that has the mixture's phase, never negative.
            along_STF = (spectra_KTF[1:] * (mixture_TF.conj() / mixture_TF.abs().clamp(min=1e-9))).real.clamp(min=0)
            targets_BTSF[row, :count] = along_STF.transpose(0, 1)
        return mixture_BTF, targets_BTSF, lens_B, items

    def _masks(self, bank: Bank, split: str, places: np.ndarray) -> Iterable[Tensor]:
        return (out.unflatten(2, (NUM_SOURCES, _BINS)).relu() for out in bank.outputs(*self.features(split, places)))

    def losses(self, bank: Bank, batch: np.ndarray) -> Iterable[Tensor]:
        """See `Problem`."""
        mixture_BTF, targets_BTSF, lens_B, _ = self._batch("train", batch)
        # On the heads' device once for all of them.
        mixture_BTF, targets_BTSF = mixture_BTF.to(self.settings.device), targets_BTSF.to(self.settings.device)
        return (mask_loss(m, mixture_BTF, targets_BTSF, lens_B) for m in self._masks(bank, "train", batch))

    def predict(self, bank: Bank, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """See the module's docstring."""
        count, total = len(self.settings.heads), len(self._splits[split])
        found: list[list[Any]] = [[None] * total for _ in range(count)]
        losses = [0.0] * count
        for places in self.in_batches(split):
            mixture_BTF, targets_BTSF, lens_B, items = self._batch(split, places)
            scorers = [_Scorer(waves_KS, spectrum_TF, self._hop) for waves_KS, spectrum_TF in items]
            for head, masks_BTSF in enumerate(self._masks(bank, split, places)):
                losses[head] += float(mask_loss(masks_BTSF, mixture_BTF, targets_BTSF, lens_B)) * len(places)
                for row, place in enumerate(places):
                    found[head][place] = scorers[row].score(masks_BTSF[row, : int(lens_B[row])])
        return [{"": hypotheses} for hypotheses in found], [loss / max(1, total) for loss in losses]


def _sources(row: Row) -> list[Path]:
    return [row.item.path.parent / name for name in row.target]


class _Scorer:
    """Scores the masks of any number of heads on one mixture.

    Args:
        waves_KS: mixture and sources.
        spectrum_TF: of the mixture.
        hop: samples between its frames.
    """

    def __init__(self, waves_KS: Tensor, spectrum_TF: Tensor, hop: int):
        self._sources_KS, self._num_samples = waves_KS[1:], waves_KS.shape[1]
        self._spectrum_TF, self._hop = spectrum_TF, hop
        self._mixture_db = float(np.mean([si_sdr(waves_KS[0], source_S) for source_S in self._sources_KS]))

    def score(self, masks_TSF: Tensor) -> dict[str, float]:
        """SI-SDR of the separated sources and of the mixture, in dB."""
        missing = max(0, len(self._spectrum_TF) - len(masks_TSF))  # the last mask is repeated
        masks_TSF = torch.cat([masks_TSF, masks_TSF[-1:].expand(missing, -1, -1)])[: len(self._spectrum_TF)]
        masked_SFT = (masks_TSF * self._spectrum_TF[:, None]).permute(1, 2, 0)
        window = torch.hann_window(_FFT)
        # Frames further apart than half a window may not reach the last few samples: zeros there.
        reached = min(self._num_samples, (len(self._spectrum_TF) - 1) * self._hop + _FFT // 2)
        estimates = torch.istft(masked_SFT, _FFT, self._hop, window=window, length=reached)
        estimates = functional.pad(estimates, (0, self._num_samples - reached))
        orders = (self._sources_KS, self._sources_KS.flip(0))
        best = max(float(np.mean([si_sdr(e, s) for e, s in zip(estimates, order)])) for order in orders)
        return {"si_sdr": round(best, 4), "mixture": round(self._mixture_db, 4)}


class SourceSeparation(Task):
    """See the module's docstring."""

    name, title, metrics, board = "SS", "Source separation", ("si_sdri",), "sg"

    def refuse(self, target: Any) -> str | None:
        """Two sources, by the names of their files."""
        good = isinstance(target, list) and len(target) == NUM_SOURCES and all(isinstance(n, str) for n in target)
        return None if good else "not two sources"

    def files(self, row: Row) -> list[Path]:
        """The sources."""
        return _sources(row)

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> SeparationProblem:
        """See `Task`."""
        return SeparationProblem(splits, store, settings)
