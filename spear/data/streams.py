"""Streams of targets from stores: token ids by cut id, with the card that says what made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spear import seal
from spear.audio.fbank import FbankConfig
from spear.data.cuts import SAMPLE_RATE_HZ, Cut
from spear.errors import DataError
from spear.shards import ShardStore
from spear.tokens.card import TokenCard, open_stream

IGNORE = -100


@dataclass(frozen=True)
class StreamConfig:
    """A stream of tokens as a training target; other kinds of streams are opened by subclasses.

    Args:
        name: names the stream in batches, heads and logs; equal to the card's `stream`.
        path: directory of token shards with ``card.json``.
        domains: domains whose cuts are trained on this stream; a cut without tokens is dropped and counted.
        optional_domains: domains whose cuts use tokens where there are any, and otherwise have no target.
        mix_tokens: whether token mixing applies (speech teachers; SPEAR mixes no others).
        quantizer: directory of the quantizer that the tokens must come from; empty for any.
        expect: further card entries that must hold, by dotted key: {"teacher.layer": 21}.
    """

    name: str
    path: str
    domains: tuple[str, ...] = ("speech", "audio")
    optional_domains: tuple[str, ...] = ()
    mix_tokens: bool = False
    quantizer: str = ""
    expect: dict[str, str | int | float] = field(default_factory=dict)

    def open(self, paths: Sequence[str] = ()) -> "TargetStream":
        """Opens the stream; `paths` are those of every source where they are not all `path`."""
        return TokenStream(self, list(paths))

    def open_for(
        self,
        sources: Sequence[Any],
        items: Mapping[str, Any] | None = None,
        chosen: Mapping[str, np.ndarray] | None = None,
    ) -> "TargetStream":
        """Opens the stream for the cuts of some sources (`spear.data.SourceConfig`).

        Args:
            sources: the corpora.
            items: by source name, what stands for the cuts of its manifest.
            chosen: by source name, which of its cuts are trained on; None for all.
        """
        return self.open([source.tokens.get(self.name, self.path) for source in sources])

    def for_encoder(self, encoder: Any) -> "StreamConfig":
        """The stream as targets of an encoder (its configuration), where that decides which cuts can be used."""
        return self


class TargetStream:
    """What batches need of a stream of targets: rows by cut, at a rate of its own.

    Attributes:
        name: of the stream.
        what: its rows in words, for messages.
        config: its settings; `domains` are those whose cuts must have rows.
        frame_rate_hz: of the rows.
        row_bytes: of one row in a batch.
        nothing: the value that stands where there is no target.
        mixes_labels: whether its rows can be added up in proportion when cuts are (mixup of tags).
    """

    name: str
    what: str
    config: StreamConfig
    frame_rate_hz: float
    row_bytes: int
    nothing: int | float
    mixes_labels: bool = False

    @property
    def mix_tokens(self) -> bool:
        """Whether token mixing applies."""
        return self.config.mix_tokens

    def has_keys(self, keys: np.ndarray, source: int) -> np.ndarray:
        """Whether there are rows for cuts with these `spear.shards.id_key`."""
        raise NotImplementedError

    def num_rows(self, num_samples: int) -> int:
        """Rows of targets for so many samples at 16 kHz."""
        return int(num_samples * self.frame_rate_hz / SAMPLE_RATE_HZ)

    def read(self, cut: Cut) -> np.ndarray:
        """Targets of a cut, (num_rows, width); `nothing` where there is none.

        Raises:
            DataError: they are there but cannot be read.
        """
        raise NotImplementedError

    def empty(self, num_samples: int) -> np.ndarray:
        """Rows for so many samples, all of them `nothing`."""
        raise NotImplementedError


class TokenStream(TargetStream):
    """The stores of one stream, opened and checked.

    Args:
        config: what is expected.
        paths: directory of the store of every source; equal directories are opened once.

    Raises:
        DataError: a store or its card is missing.
        CardError: a card does not fit the configuration, the store, or the other cards; both values are named.
    """

    what, nothing = "tokens", IGNORE

    def __init__(self, config: StreamConfig, paths: list[str]):
        self.config, self.name = config, config.name
        self._stores: list[ShardStore] = []
        self._store_of_source: list[int] = []
        opened: dict[str, int] = {}
        cards = []
        for path in paths or [config.path]:
            if path not in opened:
                opened[path] = len(self._stores)
                store, card = _open(config, Path(path))
                self._stores.append(store)
                cards.append((path, card))
            self._store_of_source.append(opened[path])
        first_path, self.card = cards[0]
        alike = {"quantizer": self.card.quantizer, "frame_rate_hz": self.card.frame_rate_hz}
        for path, card in cards[1:]:
            card.check_compatible(alike, f"tokens of the same stream in {first_path}; {path} differs")
        self.frame_rate_hz = float(self.card.frame_rate_hz)
        self.num_codebooks, self.codebook_size = self.card.num_codebooks, self.card.codebook_size
        self.row_bytes = 8 * self.num_codebooks

    def has(self, cut_id: str, source: int) -> bool:
        """Whether there are tokens for a cut."""
        return cut_id in self._stores[self._store_of_source[source]]

    def has_keys(self, keys: np.ndarray, source: int) -> np.ndarray:
        """See `TargetStream`."""
        return self._stores[self._store_of_source[source]].contains_keys(keys)

    def empty(self, num_samples: int) -> np.ndarray:
        """See `TargetStream`; int64."""
        return np.full((self.num_rows(num_samples), self.num_codebooks), IGNORE, dtype=np.int64)

    def read(self, cut: Cut) -> np.ndarray:
        """See `TargetStream`; int64."""
        targets_TN = self.empty(cut.num_samples)
        used = cut.domain in self.config.domains or cut.domain in self.config.optional_domains
        if used and self.has(cut.id, cut.source):
            tokens_TN = self._stores[self._store_of_source[cut.source]].read(cut.id)[: len(targets_TN)]
            targets_TN[: len(tokens_TN)] = tokens_TN
        return targets_TN


def _open(config: StreamConfig, path: Path) -> tuple[ShardStore, TokenCard]:
    if not (path / "card.json").exists():
        raise DataError(
            f"no tokens of stream '{config.name}' in {path}",
            "token shards with a card.json",
            "run the token stage (prepare.sh --stage 5 --stop-stage 5), or remove the stream from the configuration",
        )
    fbank = FbankConfig()
    expected = {
        "stream": config.name,
        "fbank_sha256": fbank.definition_hash(),
        **_nested(config.expect),
    }
    store, card = open_stream(path, expected, f"what stream '{config.name}' is trained with; found in {path}")
    if config.quantizer:
        content = seal.read_json(Path(config.quantizer) / "card.json").get("content_sha256")
        card.check_compatible(
            {"quantizer": {"content_sha256": content}},
            f"the quantizer in {config.quantizer}; tokens in {path}",
            "extract the tokens again with this quantizer (prepare.sh --stage 5 --stop-stage 5)",
        )
    return store, card


def _nested(dotted: dict) -> dict:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    nested: dict = {}
    for key, value in dotted.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested
