"""Stores of a teacher's frames (`spear embed`): their card, and whether they are what it says."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spear import records, seal
from spear.errors import CardError, DataError
from spear.fs import sha256_json
from spear.shards import ShardStore
from spear.teachers import IDENTITY_KEYS
from spear.tokens.card import TokenCard

FORMAT = "spear-embeddings-1"
_AGAIN = "run spear embed again"


@dataclass
class _Frames:
    dim: records.PositiveCount
    frame_rate_hz: records.Positive
    sample_rate_hz: records.PositiveCount


@dataclass(frozen=True)
class FeatureCard:
    """Provenance of stored frames.

    Attributes:
        teacher: the teacher's fingerprint.
        max_frames: cap of the sample, informative.
        seed: of the draw of the sample, informative.
    """

    teacher: dict[str, Any]
    max_frames: int = 0
    seed: int = 0

    @property
    def sha256(self) -> str:
        """Hash of what decides the frames."""
        return sha256_json({"format": FORMAT, "teacher": self.teacher})

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the card") -> "FeatureCard":
        """From JSON values.

        Raises:
            CardError: not such a card, or an entry is missing (named).
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise CardError(f"{source} is not a card of embeddings", f'"format": "{FORMAT}"', _AGAIN)
        try:
            card = records.convert(values, cls, source)
            missing = [key for key in IDENTITY_KEYS if key not in card.teacher]
            if missing:
                raise CardError(f"{source} without teacher.{missing[0]}", "a complete card", _AGAIN)
            records.convert(card.teacher, _Frames, f"{source}, field teacher")
            return card
        except DataError as error:
            raise CardError(error.found, error.expected, _AGAIN) from error

    @classmethod
    def load(cls, directory: str | Path) -> "FeatureCard":
        """Reads `card.json` of a store.

        Raises:
            CardError: missing, unreadable or incomplete; names the file.
        """
        path = Path(directory) / "card.json"
        try:
            return cls.from_dict(seal.read_json(path), str(path))
        except DataError as error:
            raise CardError(error.found, "the card of a teacher's frames", _AGAIN) from error

    def shape_problem(self, store: ShardStore) -> tuple[str, str] | None:
        """What the rows of a store are and should be; None where that is the same."""
        dim = int(self.teacher["dim"])
        if store.dtype == np.float16 and store.width == dim:
            return None
        return f"rows of {store.width} x {store.dtype}", f"{dim} x float16"


def card_from_dict(values: Mapping[str, Any], source: str) -> TokenCard | FeatureCard:
    """The card of a stream, whatever its rows are.

    Raises:
        CardError: it is the card of no stream, or incomplete.
    """
    is_frames = isinstance(values, Mapping) and values.get("format") == FORMAT
    return (FeatureCard if is_frames else TokenCard).from_dict(values, source)


def load_card(directory: str | Path) -> TokenCard | FeatureCard:
    """Reads `card.json` of a stream's directory.

    Raises:
        CardError: missing, unreadable or incomplete; names the file.
    """
    path = Path(directory) / "card.json"
    try:
        values = seal.read_json(path)
    except DataError as error:
        raise CardError(error.found, "the card of a token stream", "run spear extract-tokens") from error
    return card_from_dict(values, str(path))


def open_features(directory: str | Path) -> tuple[ShardStore, FeatureCard]:
    """Opens a teacher's stored frames.

    Raises:
        CardError: no card, or one that does not fit the store. DataError: damaged or missing shards.
    """
    card, store = FeatureCard.load(directory), ShardStore(directory)
    if problem := card.shape_problem(store):
        raise CardError(f"{problem[0]} in {directory}", f"{problem[1]}, as its card says", _AGAIN)
    return store, card
