"""The protocols: `superb` and `hear`, as published, and `mini`, the same tasks and heads for a small corpus.

`superb` has the published heads, losses, batch sizes, steps and evaluation intervals; only the learning rate may be
searched, and the best on dev decides. The grids hold the rates with which published rows were made, half decades among
them (SID from 5e-3 to 1e-1, PR and SD 5e-4, ASV 5e-5). `mini` has smaller recurrent heads and few steps, scales every
dimension of every layer (with few steps the filterbank cannot be trained without) and lets the learning rate fall to
zero instead of choosing a checkpoint on dev sets of a few items. Numbers of `mini` and of the others are never
comparable, and every run file names its protocol. `hear` is the predictor of HEAR 2021: perceptrons, whose grid has
more than learning rates.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from spear.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """How the heads of one task are trained; equal for all upstreams of a comparison.

    Attributes:
        learning_rates: the grid.
        seeds: of the initial weights; scores are means over seeds.
        hidden_dim: units between the two linear layers of a linear head, and before recurrent ones.
        max_steps: optimizer steps.
        batch_size: utterances in a batch.
        accumulate: batches in an optimizer step.
        schedule: `constant`, `linear` (to zero over `max_steps`), or `warm-up` (a tenth of the steps up, then linear).
        least_dev_items: tasks of time means with fewer on dev select the learning rate by folds of train and dev: eight
            items rank no learning rates. 0: always by dev.
        num_folds: see above.
        default_rate: taken among the learning rates that dev cannot tell from the best (`engine.select`); None: the
            best on dev decides, as in the published protocol.
        eval_every: steps between evaluations on dev.
        early_stopping: score each head with the weights of its best evaluation on dev. Not in `mini`: on dev sets of 4
            to 100 items the best of twelve noisy evaluations is often that of a hardly trained head (16 pairs of a mini
            task and the filterbank or an untrained encoder: mean test accuracy 44 % with it, 50 % without).
        max_gradient_norm: of each head.
        standardise: scale every dimension of every layer by its mean and deviation on the training items.
        weight_decay: decoupled, as in AdamW.
        text_units: of linear CTC heads on texts, `sentencepiece:SIZE` or `characters`. With a head that is linear and
            sees one frame at a time, whole characters give word error rates close to 100 % for every encoder.
        rnn_dim: units of recurrent heads in each direction.
        rnn_layers: of them.
        dropout: of recurrent heads.
        max_rnn_rate_hz: ASR and SF: frames are joined until a recurrent head sees no more of them a second than this
            (half as many again are let through); 0 takes the upstream's frames as they are.
        spec_augment: time warp and masks on the weighted features (ASR, SF).
        lexicon: ASR: a word list; test is also decoded with it, see `lexicon_beam`.
        language_model: ASR: a KenLM file for that.
        chunk_frames: SD trains on chunks of so many frames.
        embedding_dim: ASV: channels of the x-vector head and size of its embedding.
        pooled_dim: ASV: channels before the statistics.
        max_batch_seconds: a batch of more seconds, padding included, is halved until it is below (SUPERB halves batches
            with long utterances). In seconds, so that encoders of different frame rates train on the same batches.
        gain_db: added to the level of every recording (sox's gain in KS, QbE and ASV).
        device: where the heads train.
        precision: of the heads' products: `float32`, or on a GPU also `tf32` or `bfloat16`, faster and not equal.
    """

    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)
    hidden_dim: int = 256
    max_steps: int = 300
    batch_size: int = 64
    accumulate: int = 1
    schedule: str = "constant"
    least_dev_items: int = 0
    num_folds: int = 5
    default_rate: float | None = None
    eval_every: int = 50
    early_stopping: bool = True
    max_gradient_norm: float = 1.0
    standardise: bool = False
    weight_decay: float = 0.0
    text_units: str = "sentencepiece:100"
    rnn_dim: int = 1024
    rnn_layers: int = 2
    dropout: float = 0.2
    max_rnn_rate_hz: float = 0.0
    lexicon: str = ""
    language_model: str = ""
    spec_augment: bool = False
    chunk_frames: int = 2000
    embedding_dim: int = 512
    pooled_dim: int = 1500
    max_batch_seconds: float = 1200.0
    gain_db: float = 0.0
    device: str = "cpu"
    precision: str = "float32"

    patience: ClassVar[int] = 0
    """Evaluations without a better score after which a head stops; 0: none does. See `PerceptronSettings`."""

    @property
    def heads(self) -> list[tuple[float, int]]:
        """(learning rate, seed) of every head."""
        return [(rate, seed) for rate in self.learning_rates for seed in self.seeds]

    @property
    def point_names(self) -> list[str]:
        """For each head the name of its point of the grid; none where points are learning rates."""
        return []


@dataclass(frozen=True)
class PerceptronPoint:
    """A point of the grid of `PerceptronSettings`.

    Attributes:
        hidden_layers: 1 or 2; 0: one linear layer.
        initial: distribution of the first weights (Glorot and Bengio), `uniform` or `normal`.
        learning_rate: of Adam.
    """

    hidden_layers: int
    initial: str
    learning_rate: float

    @property
    def name(self) -> str:
        """In tables and run files."""
        count = self.hidden_layers
        layers = "1 hidden layer" if count == 1 else f"{count} hidden layers" if count else "no hidden layer"
        return f"{layers}, {self.initial}, {self.learning_rate:g}"


# The first eight of the sixteen after shuffling with seed 42, as heareval does.
_PUBLISHED_POINTS = (
    *((1, "normal", 1e-4), (2, "uniform", 1e-3), (1, "normal", 1e-3), (1, "normal", 3.2e-4)),
    *((2, "normal", 3.2e-4), (2, "uniform", 3.2e-4), (2, "normal", 3.2e-3), (2, "uniform", 3.2e-3)),
)
GRIDS = ("published", "all")
STATES = ("last", "mean", "weighted", "concat")


@dataclass(frozen=True)
class PerceptronSettings(Settings):
    """How the predictors of HEAR 2021 (arXiv 2203.03022) are trained: perceptrons in passes over the embeddings.

    `max_steps` is a limit beside `max_epochs`; a problem turns passes into steps.

    Attributes:
        states: what an embedding is: the last hidden state, the mean over states, a sum with learned weights, or all of
            them side by side.
        grid: `published`, the eight points that are drawn of sixteen; or `all`. With other learning rates than the
            published ones it is always all.
        max_epochs: passes at most.
        epochs_per_evaluation: passes between evaluations on dev.
        patience: see `Settings`.
        only: the name of the one point that is trained; empty: those of the grid.
    """

    states: str = "last"
    grid: str = "published"
    max_epochs: int = 500
    epochs_per_evaluation: int = 3
    patience: int = 20
    only: str = ""

    def __post_init__(self):
        for name, allowed in (("states", STATES), ("grid", GRIDS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} '{getattr(self, name)}'", " or ".join(allowed), f"correct --{name}")

    @property
    def points(self) -> list[PerceptronPoint]:
        """Of the grid, or the one that was chosen."""
        rates = {point[2] for point in _PUBLISHED_POINTS}
        if self.grid == "published" and set(self.learning_rates) == rates:
            found = [PerceptronPoint(*point) for point in _PUBLISHED_POINTS]
        else:
            found = [PerceptronPoint(*p) for p in itertools.product((1, 2), ("uniform", "normal"), self.learning_rates)]
        return [point for point in found if self.only in ("", point.name)]

    @property
    def heads(self) -> list[tuple[float, int]]:
        """See `Settings`."""
        return [(point.learning_rate, seed) for point in self.points for seed in self.seeds]

    @property
    def point_names(self) -> list[str]:
        """See `Settings`."""
        return [point.name for point in self.points for _ in self.seeds]

    def at(self, point: str) -> "PerceptronSettings":
        """The settings of one point alone."""
        return dataclasses.replace(self, only=point)


@dataclass(frozen=True)
class LinearProbeSettings(PerceptronSettings):
    """One linear layer on embeddings, as ARCH trains it (La Quatra et al., 2024): perceptrons without hidden layers.

    Nothing stops early; `early_stopping` says whether the best checkpoint on dev is scored, or the last one.
    """

    patience: int = 10**9

    @property
    def points(self) -> list[PerceptronPoint]:
        """See `PerceptronSettings`."""
        found = [PerceptronPoint(0, "uniform", rate) for rate in self.learning_rates]
        return [point for point in found if self.only in ("", point.name)]


_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_UTTERANCE = Settings(_GRID, max_steps=200_000, batch_size=32, eval_every=5000)
_SEQUENCES = dataclasses.replace(
    _UTTERANCE,
    learning_rates=(1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 1e-1),
    max_steps=100_000,
    batch_size=16,
    accumulate=2,
    eval_every=1000,
)
_RECURRENT = dataclasses.replace(
    _UTTERANCE, learning_rates=(1e-5, 1e-4, 1e-3), eval_every=2000, spec_augment=True, hidden_dim=1024
)
_MASKS = dataclasses.replace(_UTTERANCE, rnn_dim=896, rnn_layers=3, dropout=0.5, weight_decay=0.01)
_GAIN_DB = -3.0
_SUPERB = {
    "KS": dataclasses.replace(_UTTERANCE, gain_db=_GAIN_DB),
    "IC": _UTTERANCE,
    "SID": dataclasses.replace(
        _UTTERANCE, learning_rates=(1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1), batch_size=8, accumulate=4
    ),
    "ER": dataclasses.replace(_UTTERANCE, max_steps=30_000, batch_size=4, accumulate=8, eval_every=1000),
    "PR": _SEQUENCES,
    "ASR": _RECURRENT,
    "SF": _RECURRENT,
    "QbE": Settings((0.0,), max_steps=0, gain_db=_GAIN_DB),
    "ASV": dataclasses.replace(
        _UTTERANCE,
        learning_rates=(1e-5, 5e-5, 1e-4, 5e-4),
        batch_size=10,
        accumulate=5,
        eval_every=20_000,
        max_gradient_norm=1000.0,
        weight_decay=0.01,
        early_stopping=False,
        gain_db=_GAIN_DB,
    ),
    "SD": dataclasses.replace(
        _UTTERANCE,
        learning_rates=(1e-5, 1e-4, 5e-4, 1e-3, 1e-2),
        max_steps=30_000,
        batch_size=8,
        accumulate=4,
        eval_every=500,
        rnn_dim=512,
        rnn_layers=1,
    ),
    "SS": dataclasses.replace(_MASKS, max_steps=150_000, batch_size=8, eval_every=2000),
    "labels": _UTTERANCE,
    "sequence": _SEQUENCES,
    "retrieval": Settings((0.0,), max_steps=0),
    "SED": _SEQUENCES,
}
_FEW = Settings(
    (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    seeds=(0, 1),
    max_steps=300,
    batch_size=64,
    eval_every=50,
    schedule="linear",
    standardise=True,
    early_stopping=False,
    least_dev_items=30,
    default_rate=1e-2,
)
_FEW_SEQUENCES = dataclasses.replace(
    _FEW, learning_rates=(1e-2, 3e-2, 1e-1), seeds=(0,), max_steps=400, batch_size=8, eval_every=100
)
_FEW_SMALL = dataclasses.replace(
    _FEW,
    learning_rates=(1e-3, 3e-3, 1e-2),
    seeds=(0,),
    batch_size=32,
    eval_every=300,
    default_rate=3e-3,
    rnn_dim=96,
    rnn_layers=1,
)
_FEW_RECURRENT = dataclasses.replace(_FEW_SMALL, batch_size=12, hidden_dim=128, dropout=0.1, max_rnn_rate_hz=25.0)
_FEW_FRAMES = dataclasses.replace(_FEW_SMALL, batch_size=8, max_steps=200, eval_every=100, chunk_frames=400)
_MINI = {
    "KS": _FEW,
    "IC": _FEW,
    "SID": _FEW,
    "ER": _FEW,
    "PR": _FEW_SEQUENCES,
    "ASR": dataclasses.replace(_FEW_RECURRENT, max_steps=400, eval_every=400),
    "SF": _FEW_RECURRENT,
    "QbE": Settings((0.0,), max_steps=0),
    "ASV": dataclasses.replace(
        _FEW_SMALL,
        learning_rates=(3e-4, 1e-3, 3e-3),
        default_rate=1e-3,
        batch_size=16,
        max_steps=200,
        eval_every=50,
        max_gradient_norm=1000.0,
        hidden_dim=64,
        embedding_dim=64,
        pooled_dim=128,
    ),
    "SD": _FEW_FRAMES,
    "SS": dataclasses.replace(_FEW_FRAMES, dropout=0.1),
    "labels": _FEW,
    "sequence": _FEW_SEQUENCES,
    "retrieval": Settings((0.0,), max_steps=0, standardise=True),
    "SED": dataclasses.replace(_FEW_SEQUENCES, learning_rates=(3e-3, 1e-2, 3e-2)),
}
_PERCEPTRONS = PerceptronSettings(
    (3.2e-3, 1e-3, 3.2e-4, 1e-4),
    hidden_dim=1024,
    max_steps=10**9,
    batch_size=1024,
    eval_every=1,
    max_gradient_norm=1e30,
    dropout=0.1,
)
_HEAR = {"hear": _PERCEPTRONS}
_MINI["hear"] = dataclasses.replace(
    _PERCEPTRONS,
    learning_rates=(3.2e-3, 1e-3),
    hidden_dim=128,
    batch_size=64,
    max_epochs=60,
    patience=10,
    standardise=True,
)
# Sixty passes over three of its five folds.
_ESC50 = {"labels": dataclasses.replace(_FEW, seeds=(0, 1, 2), max_steps=1500, batch_size=48, eval_every=25)}
_ESC50["labels"] = dataclasses.replace(_ESC50["labels"], early_stopping=True, least_dev_items=0, default_rate=None)
# Thirty passes over AudioSet-20k.
_TAGS = dataclasses.replace(_ESC50["labels"], seeds=(0,), max_steps=4000, batch_size=128, eval_every=200)
_ARCH = LinearProbeSettings(
    (1e-3,),
    max_steps=10**9,
    batch_size=32,
    eval_every=1,
    max_gradient_norm=1e30,
    dropout=0.0,
    schedule="warm-up",
    max_epochs=200,
    epochs_per_evaluation=5,
)
_MINI["arch"] = dataclasses.replace(_ARCH, learning_rates=(1e-2,), max_epochs=40, standardise=True)
PROTOCOLS = {
    "superb": _SUPERB,
    "mini": _MINI,
    "hear": _HEAR,
    "esc50": _ESC50,
    "tags": {"labels": _TAGS},
    "arch": {"arch": _ARCH},
    "arch_legacy": {"arch": dataclasses.replace(_ARCH, early_stopping=False, epochs_per_evaluation=200)},
}


def settings_of(protocol: str, task: str, changes: Mapping[str, object] | None = None) -> Settings:
    """The settings of a task.

    Args:
        changes: fields that are replaced, for all tasks; None as value changes nothing.

    Raises:
        ConfigError: no such protocol, or the task has no settings in it.
    """
    if protocol not in PROTOCOLS or task not in PROTOCOLS[protocol]:
        raise ConfigError(f"protocol '{protocol}' for {task}", " or ".join(PROTOCOLS), "correct --protocol")
    settings = PROTOCOLS[protocol][task]
    if not settings.max_steps:  # nothing is trained
        return settings
    changes = {key: value for key, value in (changes or {}).items() if value is not None}
    settings = dataclasses.replace(settings, **changes)
    return dataclasses.replace(settings, eval_every=min(settings.eval_every, settings.max_steps))
