"""Streams of what people wrote about cuts: transcripts, classes, tags, speakers, from the manifests of the sources.

They are read once, when the stream is opened, and kept as arrays: a key and the numbers of every cut. What numbers
mean, a vocabulary says; it is given, or made from the training cuts alone. Cuts whose supervision is missing or cannot
be used are left out of training and listed with a reason.
"""

import dataclasses
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spear import fs
from spear.audio.fbank import FbankConfig
from spear.data.cuts import Columns, Cut
from spear.data.streams import IGNORE, StreamConfig, TargetStream
from spear.errors import ConfigError, DataError
from spear.log import get_logger
from spear.manifest import Item, iter_items
from spear.manifest.vocabulary import Normalisation, Vocabulary, of_texts
from spear.models.encoders.base import EncoderConfig
from spear.shards import id_key

logger = get_logger(__name__)
WORDS = {"text": "transcript", "class": "class", "tags": "tags", "speaker": "speaker"}
_NAMED = 5  # cuts that a warning names
_TEXT_ROWS_HZ = 15.0  # characters a second of fast speech, for estimates of memory


@dataclass(frozen=True)
class SupervisionStreamConfig(StreamConfig):
    """A stream of supervisions.

    Args:
        kind: `text` (transcripts), `class` (one label of a key), `tags` (several of them) or `speaker`.
        key: of `spear.manifest.Item.labels`, for classes and tags.
        separator: between the tags in a label.
        units: of texts: `chars`, or `bpe:SIZE`.
        vocabulary: a file to use instead of the vocabulary of the training cuts: what `Vocabulary.save` wrote, a
            sentencepiece model, or for labels a text file with a name on each line.
        normalise: what is done to texts first.
        aligned: leave out texts that need more output frames than the encoder gives (CTC).
        units_a_frame: leave out texts of more units than so many in each output frame; 0: no limit.
        encoder: whose frames these are; `for_encoder` sets it.
    """

    kind: str = "text"
    key: str = ""
    separator: str = ";"
    units: str = "chars"
    vocabulary: str = ""
    normalise: Normalisation = field(default_factory=Normalisation)
    aligned: bool = False
    units_a_frame: int = 0
    encoder: EncoderConfig | None = None

    def __post_init__(self):
        if self.kind not in WORDS:
            raise ConfigError(f"stream '{self.name}' of kind '{self.kind}'", "one of " + ", ".join(WORDS), "correct it")
        if self.kind in ("class", "tags") and not self.key:
            raise ConfigError(f"stream '{self.name}' of {self.kind} without a key", "a key of labels", "set its key")

    def for_encoder(self, encoder: EncoderConfig) -> "SupervisionStreamConfig":
        """See `StreamConfig`."""
        return dataclasses.replace(self, encoder=encoder)

    def open_for(
        self,
        sources: Sequence[Any],
        items: Mapping[str, Any] | None = None,
        chosen: Mapping[str, np.ndarray] | None = None,
    ) -> "SupervisionStream":
        """See `StreamConfig`."""
        return SupervisionStream(self, self._read(sources, items or {}, chosen))

    def _read(self, sources, items, chosen) -> Iterator[tuple[Item, bool]]:
        """Items of the stream's domains, and whether they are trained on."""
        for source in sources:
            given = items.get(source.name)
            if given is None or isinstance(given, Columns):
                given = iter_items(source.cuts)  # in the order of the columns
            for place, item in enumerate(given):
                if (source.domain or item.domain) in self.domains:
                    yield item, chosen is None or bool(chosen[source.name][place])

    def said_of(self, item: Item) -> str | None:
        """The text or label of an item; None where there is none."""
        if self.kind == "text":
            return item.text
        return item.speaker if self.kind == "speaker" else item.labels.get(self.key)


class _Row(NamedTuple):
    """A cut with its supervision, while the stream is opened."""

    id: str
    path: Path
    num_samples: int
    trained: bool
    text: str


class SupervisionStream(TargetStream):
    """Supervisions of the cuts of all sources.

    `read` gives int64 (units, 1) for texts, (1, 1) for a class or speaker, and (1, size) of 0 and 1 for tags; -100
    stands where nothing is known. Held-out speakers who are not trained on have numbers from the vocabulary's size on.

    Args:
        config: what is read.
        items: every cut of the stream's domains, and whether it is trained on.

    Attributes:
        vocabulary: what the numbers mean.
        refused: {id, path, reason} of the cuts that cannot be used.
        counts: how many training cuts have each class, tag or unit, (vocabulary.size,) int64.

    Raises:
        DataError: no training cut has a supervision, or a vocabulary cannot be used.
    """

    nothing = IGNORE

    def __init__(self, config: SupervisionStreamConfig, items: Iterable[tuple[Item, bool]]):
        self.config, self.name, self.what = config, config.name, WORDS[config.kind]
        self.mixes_labels = config.kind == "tags"
        self.refused: list[dict] = []
        rows = []
        for item, trained in items:
            text = config.said_of(item)
            if text is None or not text.strip():
                self._refuse(item, f"no {self.what}" if text is None else f"an empty {self.what}")
            else:
                rows.append(_Row(item.id, item.path, item.num_samples, trained, text))
        self.vocabulary = self._make_vocabulary(rows)
        self._keep(rows)
        self.frame_rate_hz = _TEXT_ROWS_HZ if config.kind == "text" else 1.0
        self.row_bytes = 8 * (self.vocabulary.size if config.kind == "tags" else 1)
        self._report(len(rows))

    def _refuse(self, item: Item | _Row, reason: str) -> None:
        self.refused.append({"id": item.id, "path": str(item.path), "reason": reason})

    def _make_vocabulary(self, rows: list[_Row]) -> Vocabulary:
        if self.config.vocabulary:
            return self._load_vocabulary(Path(self.config.vocabulary))
        texts = [row.text for row in rows if row.trained]
        if not texts:
            under = f" under the label '{self.config.key}'" if self.config.key else ""
            raise DataError(
                f"stream '{self.name}': {len(rows)} cuts with a {self.what}{under}, none of them for training",
                f"training cuts with a {self.what}",
                "check the manifest, the key and the domains of the stream",
            )
        if self.config.kind == "text":
            return of_texts(self.config.units, texts, self.config.normalise)
        return Vocabulary.of_classes(name for text in texts for name in self._names(text))

    def _load_vocabulary(self, path: Path) -> Vocabulary:
        of_labels = self.config.kind != "text"
        if of_labels and path.suffix != ".json":
            return Vocabulary.of_classes(line.strip() for _, line in fs.iter_lines(path) if line.strip())
        vocabulary = Vocabulary.load(path, self.config.normalise)
        if of_labels != (vocabulary.kind == "classes"):
            raise DataError(
                f"{path}: a vocabulary of {vocabulary.kind} for the {self.what} of stream '{self.name}'",
                "classes for labels, chars or bpe for transcripts",
                "correct the path of the vocabulary",
            )
        return vocabulary

    def _names(self, text: str) -> list[str]:
        parts = text.split(self.config.separator) if self.config.kind == "tags" else [text]
        return [name for part in parts if (name := part.strip())]

    def _keep(self, rows: list[_Row]) -> None:
        """Fills the arrays, sorted by key."""
        numbers, ends, keys, unknown, strangers = array("i"), array("q"), array("Q"), Counter(), {}
        self.counts = np.zeros(self.vocabulary.size, dtype=np.int64)
        for row in rows:
            try:
                found = self._numbers(row, unknown, strangers)
            except DataError as error:
                self._refuse(row, error.found)
                continue
            numbers.extend(found)
            ends.append(len(numbers))
            keys.append(id_key(row.id))
            if row.trained:
                np.add.at(self.counts, found, 1)
        if unknown:
            logger.warning("stream %s: tags that no training cut has: %s", self.name, _listed(unknown))
        order = np.argsort(np.asarray(keys, dtype=np.uint64), kind="stable")
        ends_N = np.asarray(ends, dtype=np.int64)
        self._keys = np.asarray(keys, dtype=np.uint64)[order]
        self._starts, self._ends = np.concatenate([[0], ends_N])[:-1][order], ends_N[order]
        self._all = np.asarray(numbers, dtype=np.int32)

    def _numbers(self, row: _Row, unknown: Counter, strangers: dict[str, int]) -> list[int]:
        """Units or classes of one cut; counts tags that training lacks, and numbers held-out speakers whom it lacks.

        Raises:
            DataError: they cannot be used; `found` is the reason.
        """
        if self.config.kind == "text":
            numbers = self.vocabulary.encode(row.text).tolist()
            self._check_length(numbers, row.num_samples)
            return numbers
        found = {name: self.vocabulary.number(name) for name in self._names(row.text)}
        known = sorted(number for number in found.values() if number is not None)
        if not known and self.config.kind == "speaker" and not row.trained:
            return [strangers.setdefault(row.text.strip(), self.vocabulary.size + len(strangers))]
        unknown.update(name for name, number in found.items() if number is None)
        if not known:
            text = row.text.strip()[:60]
            raise DataError(
                f"{self.what} {text!r}, which no training cut has", "one of the training cuts", "leave it out"
            )
        return known

    def _check_length(self, numbers: list[int], num_samples: int) -> None:
        encoder = self.config.encoder
        if encoder is None or not (self.config.aligned or self.config.units_a_frame):
            return
        embeddings = max(0, encoder.embedding_frames(FbankConfig().num_frames(num_samples)))
        frames = -(-embeddings // encoder.output_downsampling_factor)
        needed = least_frames(numbers) if self.config.aligned else -(-len(numbers) // self.config.units_a_frame)
        if needed > frames:
            raise DataError(
                f"a transcript of {len(numbers)} units, which needs {needed} output frames, where there are {frames}",
                "no more units and repetitions than frames",
                "use larger units (bpe), or leave it out",
            )

    def _report(self, num_rows: int) -> None:
        """Says what is left out, and which labels are rare."""
        for row in self.refused[:_NAMED]:
            logger.warning("stream %s: left out %s: %s", self.name, row["id"], row["reason"])
        if self.refused:
            count = len(self._keys)
            logger.warning("stream %s: %d of %d cuts left out", self.name, len(self.refused), len(self.refused) + count)
        if self.config.kind != "text":
            once = [self.vocabulary.units[number] for number in np.flatnonzero(self.counts == 1)]
            if once:
                logger.warning("stream %s: %s of one training cut: %s", self.name, self.what, _listed(once))
        logger.info("stream %s: %d of %d with a usable %s", self.name, len(self._keys), num_rows, self.what)

    # Rows ------------------------------------------------------------------------------------------------------------

    def has_keys(self, keys: np.ndarray, source: int) -> np.ndarray:
        """See `TargetStream`."""
        return self._places(keys)[1]

    def num_rows(self, num_samples: int) -> int:
        """See `TargetStream`; of texts as many as it takes, which no length says."""
        return 0 if self.config.kind == "text" else 1

    def empty(self, num_samples: int) -> np.ndarray:
        """See `TargetStream`; int64."""
        width = self.vocabulary.size if self.config.kind == "tags" else 1
        return np.full((self.num_rows(num_samples), width), IGNORE, dtype=np.int64)

    def numbers(self, cut_id: str) -> np.ndarray | None:
        """Units or classes of a cut, (count,) int32; None where there are none."""
        key = np.uint64(id_key(cut_id))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        return self._all[self._starts[place] : self._ends[place]]

    def read(self, cut: Cut) -> np.ndarray:
        """See `TargetStream`; int64."""
        found = self.numbers(cut.id) if cut.domain in self.config.domains else None
        rows = self.empty(cut.num_samples)
        if found is None:
            return rows
        if self.config.kind != "tags":
            return found.astype(np.int64)[:, None]
        rows[:] = 0
        rows[0, found] = 1
        return rows

    def sampling_weights(self, keys: np.ndarray) -> np.ndarray:
        """(num_keys,) sums over a cut's labels of 1 / the number of training cuts that have it; 0 without labels.

        Args:
            keys: `spear.shards.id_key` of the cuts.
        """
        owners, numbers = self._labels(keys)
        return np.bincount(owners, 1.0 / self.counts.clip(min=1)[numbers], len(keys))

    def expected_counts(self, keys: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(vocabulary.size,) how often each label is met when the cuts with these keys occur so often each."""
        owners, numbers = self._labels(keys)
        return np.bincount(numbers, weights[owners], self.vocabulary.size)

    def _labels(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every label of the cuts with these keys: which of the keys has it, and its number."""
        places, known = self._places(keys)
        starts, ends = self._starts[places[known]], self._ends[places[known]]
        return np.repeat(np.flatnonzero(known), ends - starts), self._all[_ranges(starts, ends - starts)]

    def _places(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where keys stand, and whether they do."""
        if not len(self._keys):
            return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return places, self._keys[places] == keys

    def save(self, directory: str | Path) -> None:
        """Writes the vocabulary, and the list of what is left out, beside a run."""
        self.vocabulary.save(Path(directory) / f"vocabulary.{self.name}.json")
        if self.refused:
            fs.write_jsonl(Path(directory) / f"left_out.{self.name}.jsonl", self.refused)


def least_frames(numbers: Sequence[int]) -> int:
    """The fewest frames in which CTC can say a sequence: a blank parts equal neighbours."""
    return len(numbers) + sum(first == second for first, second in zip(numbers, numbers[1:]))


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each range, one range after the other."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes) + np.repeat(starts, sizes)


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
