"""Sequences by CTC: output symbols, and the problem that PR, ASR and SF share (SUPERB, arXiv 2105.01051)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.errors import DataError
from spear.evaluate.banks import Bank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.lexicon_beam import LexiconBeam
from spear.evaluate.modules import joined_lengths
from spear.evaluate.problems import FrameProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.units import BLANK, collapse

BEAM = "lexicon beam"
"""A variant of test alone: it is reported beside the greedy score and takes no part in the selection."""


class Symbols:
    """Output symbols of a CTC head, numbered from 1 (0 is the blank), learnt from training targets.

    Args:
        targets: sequences of symbols.
        end: a symbol appended to every target and dropped from hypotheses (SUPERB does so), or None.

    Raises:
        DataError: no target has any symbol.
    """

    def __init__(self, targets: Sequence[Sequence[str]], end: str | None = None):
        self.end = end
        self.names = sorted({symbol for target in targets for symbol in target}) + ([end] if end else [])
        if len(self.names) == (end is not None):
            raise DataError("training targets without any symbol", "transcribed training items", "check the manifest")
        self._numbers = {symbol: number for number, symbol in enumerate(self.names, 1)}

    @property
    def size(self) -> int:
        """Number of outputs, the blank included."""
        return len(self.names) + 1

    def encode(self, target: Sequence[str]) -> list[int]:
        """Numbers; symbols that training never had are left out (the head cannot produce them)."""
        ended = [*target, self.end] if self.end else target
        return [self._numbers[symbol] for symbol in ended if symbol in self._numbers]

    def decode(self, numbers: Sequence[int]) -> list[str]:
        """Symbols without the end symbol."""
        names = (self.names[number - 1] for number in numbers)
        return [name for name in names if name != self.end]


class SequenceProblem(FrameProblem):
    """Frames to a sequence by CTC, greedy decoding.

    Args:
        spell: target -> symbols.
        read: symbols -> hypothesis.
        end: see `Symbols`.
        make_bank: (layers, dim, outputs, settings, join) -> the heads.
        recurrent: whether the heads are, and may join frames (`Settings.max_rnn_rate_hz`).
    """

    def __init__(
        self,
        splits: Splits,
        store: FeatureStore,
        settings: Settings,
        spell: Callable[[Any], Sequence[str]],
        read: Callable[[list[str]], Any],
        make_bank: Callable[[int, int, int, Settings, int], Bank],
        end: str | None = None,
        recurrent: bool = False,
    ):
        super().__init__(splits, store, settings)
        spelled = {name: [spell(row.target) for row in rows] for name, rows in splits.items()}
        self.symbols = Symbols(spelled["train"], end)
        self._numbers = {name: [self.symbols.encode(target) for target in spelled[name]] for name in spelled}
        self._read, self._make_bank = read, make_bank
        self._beam = None
        if settings.lexicon:
            self._beam = LexiconBeam(self.symbols.names, settings.lexicon, settings.language_model)
        most = settings.max_rnn_rate_hz if recurrent else 0.0
        self._join = max(1, int(self.frame_rate_hz / most + 0.5)) if most else 1
        self.details = {"num_outputs": self.symbols.size, "infeasible_train_items": self._infeasible()}

    def _infeasible(self) -> int:
        """Training items with more symbols than frames: their loss is infinite and counts as zero."""
        needed = (
            len(numbers) + sum(a == b for a, b in zip(numbers, numbers[1:])) for numbers in self._numbers["train"]
        )
        frames = joined_lengths(torch.from_numpy(self.lengths["train"]), self._join).tolist()
        return int(sum(count > available for count, available in zip(needed, frames)))

    def make_bank(self) -> Bank:
        """See `Problem`."""
        return self._make_bank(self.num_layers, self.dim, self.symbols.size, self.settings, self._join)

    def _log_probs(self, bank: Bank, split: str, places: np.ndarray) -> tuple[Iterable[Tensor], Tensor]:
        features_LBTD, lens_B = self.features(split, places)
        log_probs = (logits.log_softmax(dim=-1) for logits in bank.outputs(features_LBTD, lens_B))
        return log_probs, joined_lengths(lens_B, self._join)

    def _targets(self, split: str, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Symbols of all items, joined, and how many each has, (B,)."""
        numbers = [self._numbers[split][place] for place in places]
        joined = torch.tensor([value for values in numbers for value in values], dtype=torch.int64)
        return joined, torch.tensor([len(values) for values in numbers])

    def _ctc(self, log_probs_BTC: Tensor, lens_B: Tensor, joined: Tensor, target_lens_B: Tensor) -> Tensor:
        """Loss for each symbol, (B,); infinite ones are zero."""
        losses_B = functional.ctc_loss(
            log_probs_BTC.transpose(0, 1),
            joined.to(log_probs_BTC.device),
            lens_B,
            target_lens_B,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return losses_B / target_lens_B.clamp(min=1).to(losses_B.device)

    def losses(self, bank: Bank, batch: np.ndarray) -> Iterable[Tensor]:
        """See `Problem`."""
        log_probs, lens_B = self._log_probs(bank, "train", batch)
        joined, target_lens_B = self._targets("train", batch)
        joined = joined.to(self.settings.device)  # once for all heads
        return (self._ctc(values_BTC, lens_B, joined, target_lens_B).mean() for values_BTC in log_probs)

    def predict(self, bank: Bank, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """Greedy hypotheses; on test also those of the lexicon beam, where there is one."""
        count, total = len(self.settings.heads), len(self._splits[split])
        found: list[list[Any]] = [[None] * total for _ in range(count)]
        beams: list[list[Any]] = [[None] * total for _ in range(count if self._beam and split == "test" else 0)]
        losses = [0.0] * count
        for places in self.in_batches(split):
            log_probs, lens_B = self._log_probs(bank, split, places)
            targets = self._targets(split, places)
            for head, values_BTC in enumerate(log_probs):
                losses[head] += float(self._ctc(values_BTC, lens_B, *targets).sum())
                picks_BT = values_BTC.argmax(dim=-1).tolist()
                for row, place in enumerate(places):
                    symbols = self.symbols.decode(collapse(picks_BT[row][: int(lens_B[row])]))
                    found[head][place] = self._read(symbols)
                    if beams:
                        beams[head][place] = self._beam(values_BTC[row, : int(lens_B[row])].numpy())
        variants = [{"": hypotheses} for hypotheses in found]
        for variant, hypotheses in zip(variants, beams):
            variant[BEAM] = hypotheses
        return variants, [loss / max(1, total) for loss in losses]
