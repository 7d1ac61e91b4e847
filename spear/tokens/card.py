"""The card of a token stream: where the tokens come from, and the refusal of tokens that do not fit.

Codebook count and size are read from here and are never flags. Every comparison that fails names both values.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from spear import records, seal
from spear.errors import CardError, DataError
from spear.fs import sha256_json
from spear.shards import ShardStore
from spear.teachers import IDENTITY_KEYS

FORMAT = "spear-tokens-1"
MAX_CODEBOOK_SIZE = 1 << 16  # two bytes
CodebookSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_CODEBOOK_SIZE)]
_NOT_COMPARED = ("spear_version", "domains", "teacher.dtype", "teacher.path")


@dataclass
class _Sizes:
    num_codebooks: records.PositiveCount
    codebook_size: CodebookSize


@dataclass(frozen=True)
class TokenCard:
    """Provenance of one stream.

    Attributes:
        stream: its name.
        teacher: the teacher's fingerprint (teacher, weights_sha256, layer, frame_rate_hz, frame_rule...).
        quantizer: content_sha256, num_codebooks, codebook_size.
        frame_rate_hz: of the tokens.
        sample_rate_hz: of the audio that the teacher heard.
        fbank_sha256: hash of the student's feature definition when the tokens were made.
        domains: domains of the cuts that have tokens in this stream; empty means all.
        spear_version: that wrote the tokens; informative.
    """

    stream: str
    teacher: dict[str, Any]
    quantizer: dict[str, Any]
    frame_rate_hz: records.Positive
    sample_rate_hz: records.PositiveCount
    fbank_sha256: str
    domains: tuple[str, ...] = field(default=())
    spear_version: str = ""

    @property
    def num_codebooks(self) -> int:
        """N: tokens of a frame."""
        return int(self.quantizer["num_codebooks"])

    @property
    def codebook_size(self) -> int:
        """K: number of different tokens in each codebook."""
        return int(self.quantizer["codebook_size"])

    @property
    def dtype(self) -> np.dtype:
        """Of the stored tokens: one byte each, or two where there are more than 256 of them in a codebook."""
        return np.dtype("uint8" if self.codebook_size <= 256 else "<u2")

    def shape_problem(self, store: ShardStore) -> tuple[str, str] | None:
        """What the rows of a store are and should be; None where that is the same."""
        if store.dtype == self.dtype and store.width == self.num_codebooks:
            return None
        return f"rows of {store.width} x {store.dtype}", f"{self.num_codebooks} x {self.dtype}"

    @property
    def sha256(self) -> str:
        """Hash of what decides the tokens (the writer's version and paths do not)."""
        return sha256_json({k: v for k, v in _flatten(self.to_dict()).items() if k not in _NOT_COMPARED})

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"format": FORMAT, **dataclasses.asdict(self), "domains": list(self.domains)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the card") -> "TokenCard":
        """From JSON values.

        Raises:
            CardError: not a token card, or an entry is missing (named).
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            found = values.get("format", "no format") if isinstance(values, Mapping) else type(values).__name__
            raise CardError(
                f"{source} is not a token card ({found})",
                f'"format": "{FORMAT}"',
                "use a directory that spear extract-tokens wrote",
            )
        needed = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
        missing = sorted(needed - set(values))
        missing += [
            f"quantizer.{key}"
            for key in ("content_sha256", "num_codebooks", "codebook_size")
            if key not in _mapping(values.get("quantizer"))
        ]
        missing += [f"teacher.{key}" for key in IDENTITY_KEYS if key not in _mapping(values.get("teacher"))]
        if missing:
            raise CardError(
                f"{source} without {', '.join(missing)}", "a complete token card", "extract the tokens again"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        chosen = {key: value for key, value in values.items() if key in known}
        try:
            records.convert(values["quantizer"], _Sizes, f"{source}, field quantizer")
            return records.convert(chosen, cls, source)
        except DataError as error:
            raise CardError(error.found, error.expected, "extract the tokens again") from error

    @classmethod
    def load(cls, directory: str | Path) -> "TokenCard":
        """Reads `card.json` of a stream's directory.

        Raises:
            CardError: missing, unreadable or incomplete; names the file.
        """
        path = Path(directory) / "card.json"
        try:
            values = seal.read_json(path)
        except DataError as error:
            raise CardError(error.found, "the card of a token stream", "run spear extract-tokens") from error
        return cls.from_dict(values, str(path))

    def save(self, directory: str | Path) -> None:
        """Writes `card.json`."""
        seal.write_json(Path(directory) / "card.json", self.to_dict())

    def differences(self, expected: "TokenCard | Mapping[str, Any]") -> list[tuple[str, Any, Any]]:
        """(key, value here, expected value) of all that differs; nested keys are joined by dots.

        Args:
            expected: another card, or any part of one (only the keys it has are compared).
        """
        return _differences(self.to_dict(), expected.to_dict() if isinstance(expected, TokenCard) else expected)

    def check_compatible(self, expected: "TokenCard | Mapping[str, Any]", source: str = "", fix: str = "") -> None:
        """Refuses tokens that are not what is expected.

        Args:
            expected: another card (of a checkpoint, of the directory to be continued), or any part of one, such as
                `{"sample_rate_hz": 16000, "fbank_sha256": FbankConfig().definition_hash()}`.
            source: where the expectation comes from, for the message.
            fix: what to do about it, for the message.

        Raises:
            CardError: something differs; names every key with both values.
        """
        differences = self.differences(expected)
        if differences:
            raise CardError(
                f"tokens of stream '{self.stream}' with " + ", ".join(f"{k} = {a!r}" for k, a, _ in differences),
                ", ".join(f"{k} = {b!r}" for k, _, b in differences) + (f" ({source})" if source else ""),
                fix or "point to the tokens that belong here, or extract them again with spear extract-tokens",
            )


def check_teacher(found: Mapping[str, Any], expected: Mapping[str, Any], found_in: str, expected_by: str) -> None:
    """Refuses a quantizer (or embeddings) of another teacher; compares what makes a teacher the same teacher.

    Raises:
        CardError: names every differing key with both values.
    """
    keys = [key for key in (*IDENTITY_KEYS, "part") if found.get(key) != expected.get(key)]
    if keys:
        raise CardError(
            f"{found_in} was made with a teacher of " + ", ".join(f"{k} = {found.get(k)!r}" for k in keys),
            ", ".join(f"{k} = {expected.get(k)!r}" for k in keys) + f" ({expected_by})",
            "give the teacher it was made with, or run spear embed and spear train-quantizer for this one",
        )


def open_stream(
    directory: str | Path, expected: Mapping[str, Any] | None = None, source: str = ""
) -> tuple[ShardStore, TokenCard]:
    """Opens the tokens of a stream together with their card.

    Args:
        directory: such as data/tokens/speech.
        expected: parts of a card that must agree (see `TokenCard.check_compatible`).
        source: where the expectation comes from.

    Raises:
        CardError: no card, or one that does not fit; DataError: damaged shards.
    """
    card = TokenCard.load(directory)
    card.check_compatible(expected or {}, source)
    store = ShardStore(directory)
    if problem := card.shape_problem(store):
        raise CardError(f"{problem[0]} in {directory}", f"{problem[1]}, as its card says", "extract the tokens again")
    return store, card


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    here, there = _flatten(found), _flatten(expected)
    return [(k, here.get(k), v) for k, v in there.items() if k not in _NOT_COMPARED and here.get(k) != v]
