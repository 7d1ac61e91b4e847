"""What the training loop sees of a task: batches from the cache, a loss for each head, hypotheses.

`Problem` is the contract; `MeanProblem` (utterance heads on time means, among them `LabelProblem`) and `FrameProblem`
(anything on frames) serve the tasks in `tasks/`, which add loss and decoding. A problem may offer several ways to read
one output, its variants (thresholds of SD, layers of QbE, checkpoints of ASV): the selection on dev is over learning
rates and variants.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spear.errors import DataError
from spear.evaluate.banks import Bank, LinearBank
from spear.evaluate.cache import FeatureStore
from spear.evaluate.heads import standardise_stats
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Row
from spear.seeds import numpy_rng

Splits = dict[str, list[Row]]


class Problem(Protocol):
    """One fold of a task on one upstream.

    Attributes:
        every_evaluation: each dev evaluation is a variant of its own ("step 500"), scored on test as well.
        details: facts for the run file.
        dev_accuracies: where checkpoints are chosen by an accuracy and not by the metric (SD, as published): that of
            each head in the latest `predict` of dev. None elsewhere.
    """

    every_evaluation: bool
    dev_accuracies: list[float] | None
    details: dict

    def make_bank(self) -> Bank | None:
        """The heads of the grid; None when there is nothing to train."""

    def train_batches(self, epoch: int) -> Iterator[Any]:
        """Batches of one pass over the training items, as a function of the epoch."""

    def losses(self, bank: Bank, batch: Any) -> Iterable[Tensor]:
        """Mean loss of each head, on the device of its output; best one after the other (see `ModuleBank.backward`)."""

    def predict(self, bank: Bank | None, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """For each head {variant: hypotheses in the order of `rows`}, and its mean loss (nan without one)."""

    def rows(self, split: str) -> list[dict]:
        """{id, reference} of what is scored, in order."""


def shuffled_batches(
    lengths: np.ndarray, batch_size: int, epoch: int, max_length: float, order: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Batches of similar length: shuffled, sorted inside windows of eight batches, halved until they fit.

    Args:
        max_length: of a batch, padding included, in the unit of `lengths`.
    """
    rng = numpy_rng(0, "superb-batches", epoch)
    order = rng.permutation(len(lengths)) if order is None else order
    batches: list[np.ndarray] = []
    for start in range(0, len(order), 8 * batch_size):
        window = order[start : start + 8 * batch_size]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches.extend(window[i : i + batch_size] for i in range(0, len(window), batch_size))
    for index in rng.permutation(len(batches)):
        yield from _fitting(batches[index], lengths, max_length)


def _fitting(batch: np.ndarray, lengths: np.ndarray, max_length: float) -> Iterator[np.ndarray]:
    if len(batch) > 1 and len(batch) * lengths[batch].max() > max_length:
        middle = len(batch) // 2
        yield from _fitting(batch[:middle], lengths, max_length)
        yield from _fitting(batch[middle:], lengths, max_length)
    else:
        yield batch


class MeanProblem:
    """Base of the problems with one answer for an utterance, by heads that are linear before mean pooling.

    The cached time means are exact. A subclass sets `num_outputs` and `_targets` (split -> a tensor with a row for each
    item), and gives `_loss` and `_read`.

    Args:
        splits: rows of train, dev and test.
    """

    every_evaluation, dev_accuracies = False, None
    num_outputs: int
    _targets: dict[str, Tensor]

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        self.settings, self._splits = settings, splits
        self._means = pooled_states(splits, store, settings.standardise)
        self.details: dict = {}

    def make_bank(self) -> Bank:
        """See `Problem`."""
        layers, _, dim = self._means["train"].shape
        return LinearBank(layers, dim, self.num_outputs, self.settings)

    def _order(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.permutation(count)

    def train_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """See `Problem`."""
        rng, size = numpy_rng(0, "superb-batches", epoch), self.settings.batch_size
        order = self._order(rng, len(self._splits["train"]))
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _outputs(self, bank: Bank, split: str, places: np.ndarray | slice) -> list[Tensor]:
        means_LND = self._means[split][:, places]
        ones = torch.ones(means_LND.shape[1], dtype=torch.int64)
        return [logits_B1C[:, 0] for logits_B1C in bank.outputs(means_LND[:, :, None], ones)]

    def _loss(self, logits_NC: Tensor, targets: Tensor) -> Tensor:
        """The mean over items, a scalar."""
        raise NotImplementedError

    def _read(self, logits_NC: Tensor) -> list[Any]:
        """A hypothesis for each item."""
        raise NotImplementedError

    def losses(self, bank: Bank, batch: np.ndarray) -> list[Tensor]:
        """See `Problem`."""
        targets = self._targets["train"][batch].to(self.settings.device)  # once for all heads
        return [self._loss(logits_NC, targets) for logits_NC in self._outputs(bank, "train", batch)]

    def predict(self, bank: Bank, split: str) -> tuple[list[dict[str, list[Any]]], list[float]]:
        """See `Problem`."""
        outputs = self._outputs(bank, split, slice(None))
        losses = [float(self._loss(logits_NC, self._targets[split])) for logits_NC in outputs]
        return [{"": self._read(logits_NC)} for logits_NC in outputs], losses

    def rows(self, split: str) -> list[dict]:
        """See `Problem`."""
        return [{"id": row.id, "reference": row.target} for row in self._splits[split]]


def pooled_states(splits: Splits, store: FeatureStore, standardise: bool) -> dict[str, Tensor]:
    """Time means of the hidden states of each split, (L, N, D); standardised by those of train where asked for."""
    means = {name: store.means([row.key for row in rows]) for name, rows in splits.items()}
    return standardised(means) if standardise else means


def standardised(splits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every dimension of (L, N, D) by its mean and deviation on train, in float32."""
    train_LND = splits["train"].double()
    sums_LD, squares_LD = train_LND.sum(dim=1), train_LND.square().sum(dim=1)
    mean_LD, deviation_LD = standardise_stats(sums_LD, squares_LD, train_LND.shape[1])
    return {name: (x_LND.float() - mean_LD[:, None]) / deviation_LD[:, None] for name, x_LND in splits.items()}


class LabelProblem(MeanProblem):
    """A label for each slot: softmax and cross-entropy.

    Args:
        splits: every target is a list of labels, one for each slot.
        balanced: draws training items with replacement, each class equally often (KS).
    """

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings, balanced: bool = False):
        super().__init__(splits, store, settings)
        self._balanced = balanced
        targets = [row.target for row in splits["train"]]
        self.classes = [sorted({target[slot] for target in targets}) for slot in range(len(targets[0]))]
        self.sizes = [len(names) for names in self.classes]
        self.num_outputs = sum(self.sizes)
        self._targets = {name: self._numbers(rows) for name, rows in splits.items()}
        unseen = {label for row in splits["test"] for s, label in enumerate(row.target) if label not in self.classes[s]}
        self.details = {"num_classes": self.sizes, "test_labels_unseen_in_training": sorted(unseen)}

    def _numbers(self, rows: Sequence[Row]) -> Tensor:
        """(N, slots) class numbers; -100, which no loss counts, for labels that training does not have."""
        places = [{label: number for number, label in enumerate(names)} for names in self.classes]
        return torch.tensor([[places[s].get(label, -100) for s, label in enumerate(row.target)] for row in rows])

    def _order(self, rng: np.random.Generator, count: int) -> np.ndarray:
        if not self._balanced:
            return super()._order(rng, count)
        labels = self._targets["train"][:, 0].numpy()
        weights = 1.0 / np.bincount(labels)[labels]
        return rng.choice(count, size=count, p=weights / weights.sum())

    def _loss(self, logits_NC: Tensor, labels_NS: Tensor) -> Tensor:
        """Sum over slots of the cross-entropy; items whose label is unknown do not count."""
        parts = zip(logits_NC.split(self.sizes, dim=1), labels_NS.to(logits_NC.device).T)
        return sum(
            functional.cross_entropy(part_NC, labels_N, reduction="sum") / (labels_N >= 0).sum().clamp(min=1)
            for part_NC, labels_N in parts
        )

    def _read(self, logits_NC: Tensor) -> list[list[str]]:
        """Lists of labels with the highest logits."""
        picks_NS = torch.stack([part.argmax(dim=1) for part in logits_NC.split(self.sizes, dim=1)], dim=1)
        return [[names[i] for names, i in zip(self.classes, row)] for row in picks_NS.tolist()]


class FrameProblem:
    """Base of the problems on frames: features of batches, standardised where the settings ask for it.

    Args:
        splits: rows of train, dev and test.
    """

    every_evaluation, dev_accuracies = False, None

    def __init__(self, splits: Splits, store: FeatureStore, settings: Settings):
        self.settings, self._splits, self._store = settings, splits, store
        self.lengths = {name: np.asarray([store.num_frames(r.key) for r in rows]) for name, rows in splits.items()}
        first = store.hidden_states(splits["train"][0].key)
        self.num_layers, self.dim = first.shape[0], first.shape[2]
        self.frame_rate_hz = self._frame_rate()
        self._mean_LD, self._deviation_LD = self._statistics() if settings.standardise else (None, None)
        self.details: dict = {}

    def _frame_rate(self) -> float:
        """Frames a second, by the upstream's stride.

        Raises:
            DataError: most training items of known duration have another number of frames.
        """
        rate = self._store.frame_rate_hz
        known = [(n, row.item.duration_seconds) for n, row in zip(self.lengths["train"], self._splits["train"])]
        # Padding, and what the first frame spans, change the number of frames of an item by some.
        excess = [abs(frames - rate * seconds) - 5 for frames, seconds in known if seconds > 0]
        allowed = [0.1 * rate * seconds for _, seconds in known if seconds > 0]
        if excess and np.median(np.asarray(excess) > np.asarray(allowed)) == 1:
            measured = np.median([frames / seconds for frames, seconds in known if seconds > 0])
            raise DataError(
                f"{measured:.1f} frames a second of most training recordings",
                f"{rate:g}, as the upstream's stride says",
                "correct `duration` in the manifest, or the encoder's `stride_samples`",
            )
        return rate

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Over all frames of at most 300 training items, evenly spread."""
        keys = [row.key for row in self._splits["train"]]
        sums = squares = torch.zeros(1)
        count = 0
        for key in keys[:: max(1, len(keys) // 300)]:
            values_LTD = self._store.hidden_states(key).float()
            sums = sums + values_LTD.sum(dim=1, dtype=torch.float64)
            squares = squares + values_LTD.square().sum(dim=1, dtype=torch.float64)
            count += values_LTD.shape[1]
        return standardise_stats(sums, squares, count)

    def item_features(self, split: str, place: int) -> Tensor:
        """Hidden states of one item, (L, T, D); as stored, or standardised in float32."""
        values_LTD = self._store.hidden_states(self._splits[split][place].key)
        if self._mean_LD is not None:
            values_LTD = (values_LTD.float() - self._mean_LD[:, None]) / self._deviation_LD[:, None]
        return values_LTD

    def features(self, split: str, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features (L, B, T, D) with zeros behind shorter items, and lengths (B,)."""
        return padded([self.item_features(split, int(place)) for place in places])

    def train_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """See `Problem`."""
        return self.batches_of(self.lengths["train"], epoch)

    def batches_of(self, lengths: np.ndarray, epoch: int) -> Iterator[np.ndarray]:
        """Shuffled batches of things of so many frames, as the settings say."""
        settings = self.settings
        return shuffled_batches(lengths / self.frame_rate_hz, settings.batch_size, epoch, settings.max_batch_seconds)

    def rows(self, split: str) -> list[dict]:
        """See `Problem`."""
        return [{"id": row.id, "reference": row.target} for row in self._splits[split]]

    def in_batches(self, split: str) -> Iterator[np.ndarray]:
        """Places of a split by length: dev and test are decoded in batches."""
        order = np.argsort(self.lengths[split], kind="stable")
        size, seconds = 2 * self.settings.batch_size, self.lengths[split] / self.frame_rate_hz
        for start in range(0, len(order), size):
            yield from _fitting(order[start : start + size], seconds, self.settings.max_batch_seconds)


def padded(items_LTD: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Items of different lengths to (L, B, T, D) with zeros behind them, and lengths (B,)."""
    lens_B = torch.tensor([values.shape[1] for values in items_LTD])
    layers, _, dim = items_LTD[0].shape
    batch_LBTD = torch.zeros(layers, len(items_LTD), int(lens_B.max()), dim, dtype=items_LTD[0].dtype)
    for row, values_LTD in enumerate(items_LTD):
        batch_LBTD[:, row, : values_LTD.shape[1]] = values_LTD
    return batch_LBTD, lens_B
