"""What a recogniser or classifier can say: characters, BPE pieces (sentencepiece) or names of classes, by number.

A transcript is normalised before anything is made of it: Unicode NFC, so that a letter with its marks is one text
however it was typed; the case that is asked for; characters without width (joiners, soft hyphens, marks of direction)
and control characters away; runs of white space to one space. Combining marks stay: without them words of Indic, Thai,
Arabic or Hebrew text become other words. Punctuation stays unless it is left out on purpose.
"""

import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spear import fs, records
from spear.errors import CardError, ConfigError, DataError, require

BLANK = 0
CASES = ("upper", "lower", "keep")
KINDS = ("chars", "bpe", "classes")
SPACE = " "
PIECE_SPACE = "\u2581"  # with which sentencepiece begins the pieces that begin words
_FORMAT = "spear-vocabulary-1"
_BPE = re.compile(r"bpe:([1-9]\d*)\Z")


class Word(NamedTuple):
    """A word of a decoded sequence: its text, and the places of its first and last unit."""

    text: str
    first: int
    last: int


@dataclass(frozen=True)
class Normalisation:
    """How transcripts are normalised, see the module's docstring.

    Attributes:
        case: `upper`, `lower` or `keep`.
        punctuation: whether it stays; without, letters, digits, marks and apostrophes alone are left.
    """

    case: str = "upper"
    punctuation: bool = True

    def __post_init__(self):
        if self.case not in CASES:
            raise ConfigError(f"case: '{self.case}'", "one of " + ", ".join(CASES), "correct case")

    def __call__(self, text: str) -> str:
        """The normalised text; empty when nothing is left of it."""
        if self.case != "keep":
            text = text.upper() if self.case == "upper" else text.lower()
        text = unicodedata.normalize("NFC", text)  # after the case, which may take a letter apart
        return " ".join("".join(map(self._kept, text)).split())

    def _kept(self, character: str) -> str:
        kind = unicodedata.category(character)
        if kind == "Cf":
            return ""
        if character.isspace() or kind[0] in "ZC":
            return SPACE
        if self.punctuation or kind[0] in "LNM" or character == "'":
            return character
        return "'" if character == "\u2019" else SPACE


@dataclass
class _File:
    """A vocabulary as it is written; of BPE the model lies beside it."""

    format: str
    kind: str
    units: list[str]
    case: str = "upper"
    punctuation: bool = True
    model_sha256: str = ""


class Vocabulary:
    """Units by number. Those of texts count from 1, since 0 is the blank; classes count from 0.

    Use `of_characters`, `of_pieces`, `of_classes` or `load`.

    Attributes:
        kind: `chars`, `bpe` or `classes`.
        units: their names by number, the blank's (`<blk>`) included.
        normalise: what is done to a text before it is encoded.
        sha256: of all that decides what numbers mean; two vocabularies with the same one are the same.
    """

    def __init__(self, kind: str, units: Sequence[str], normalise: Normalisation, model: bytes = b""):
        if kind not in KINDS:
            raise DataError(f"a vocabulary of kind '{kind}'", "one of " + ", ".join(KINDS), "correct its file")
        self.kind, self.units, self.normalise, self.model = kind, list(units), normalise, model
        self._numbers = {unit: number for number, unit in enumerate(self.units)}
        if len(self._numbers) != len(self.units):
            twice = next(unit for number, unit in enumerate(self.units) if self._numbers[unit] != number)
            raise DataError(f"'{twice}' twice in a vocabulary", "every unit once", "remove one of them")
        self._processor, self._shift = None, 0
        if kind == "bpe":
            self._processor = piece_processor(model)
            self._shift = len(self.units) - self._processor.get_piece_size()
        rule = {"case": normalise.case, "punctuation": normalise.punctuation} if kind != "classes" else {}
        self._content = {"kind": kind, "units": self.units, "model_sha256": fs.sha256_bytes(model) if model else ""}
        self.sha256 = fs.sha256_json(self._content | rule)

    # Making them -----------------------------------------------------------------------------------------------------

    @classmethod
    def of_characters(cls, texts: Iterable[str], normalise: Normalisation | None = None) -> "Vocabulary":
        """The characters of training texts, of which the space is one.

        Raises:
            DataError: there are none.
        """
        normalise = normalise or Normalisation()
        found: set[str] = set()
        for text in texts:
            found.update(normalise(text))
        if not found - {SPACE}:
            raise DataError("training texts without a character", "transcribed training cuts", "check the manifest")
        return cls("chars", ["<blk>", *sorted(found | {SPACE})], normalise)

    @classmethod
    def of_pieces(cls, texts: Iterable[str], size: int, normalise: Normalisation | None = None) -> "Vocabulary":
        """BPE pieces learnt from training texts.

        Args:
            texts: of the training cuts alone.
            size: number of units, the blank included; fewer where the texts do not hold so many.

        Raises:
            ConfigError: sentencepiece can make no such pieces of the texts.
        """
        normalise = normalise or Normalisation()
        normal = (normalise(text) for text in texts)
        fix = "check the transcripts, or choose another size or units: chars"
        settings = {"model_type": "bpe", "normalization_rule_name": "identity"}
        model = learn_pieces((text for text in normal if text), size - 1, f"{size} pieces", fix, **settings)
        return cls.of_model(model, normalise)

    @classmethod
    def of_model(cls, model: bytes, normalise: Normalisation | None = None) -> "Vocabulary":
        """The pieces of a sentencepiece model; icefall's have the blank among them, to others it is added.

        Raises:
            DataError: this is no such model.
        """
        processor = piece_processor(model)
        pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
        units = pieces if pieces[0] == "<blk>" else ["<blk>", *pieces]
        return cls("bpe", units, normalise or Normalisation(), model)

    @classmethod
    def of_classes(cls, names: Iterable[str]) -> "Vocabulary":
        """Names of classes, tags or speakers in alphabetical order.

        Raises:
            DataError: there are none.
        """
        units = sorted(set(names))
        if not units:
            raise DataError("training cuts without a label", "labelled training cuts", "check the manifest and its key")
        return cls("classes", units, Normalisation("keep"))

    # Files -----------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes a JSON file; of BPE, the model goes beside it, with the suffix .model."""
        path = Path(path)
        if self.model:
            with fs.atomic(path.with_suffix(".model")) as temporary:
                temporary.write_bytes(self.model)
        rule = {"case": self.normalise.case, "punctuation": self.normalise.punctuation}
        fs.write_json(path, {"format": _FORMAT, **self._content, **rule})

    @classmethod
    def load(cls, path: str | Path, normalise: Normalisation | None = None) -> "Vocabulary":
        """Reads what `save` wrote, or a bare sentencepiece model (any other suffix than .json).

        Args:
            path: of the file.
            normalise: for a bare model, which does not say it.

        Raises:
            DataError: there is no such file, or it is no vocabulary.
        """
        path = Path(path)
        if path.suffix != ".json":
            return cls.of_model(_read_bytes(path), normalise)
        found = records.read(path, _File, "restore the file of the run")
        if found.format != _FORMAT or not found.units:
            raise DataError(f"{path} of format '{found.format[:60]}'", f"'{_FORMAT}'", "correct the path")
        model = _read_bytes(path.with_suffix(".model")) if found.kind == "bpe" else b""
        if model and fs.sha256_bytes(model) != found.model_sha256:
            raise DataError(
                f"{path.with_suffix('.model')} is not the model of {path.name}",
                f"SHA-256 {found.model_sha256}",
                "restore both files of the run",
            )
        return cls(found.kind, found.units, Normalisation(found.case, found.punctuation), model)

    def card(self) -> dict:
        """What a checkpoint says about it."""
        return {"kind": self.kind, "size": self.size, "sha256": self.sha256}

    def check(self, card: dict, where: str) -> None:
        """Refuses a checkpoint that was trained with another vocabulary.

        Raises:
            CardError: names both.
        """
        if card.get("sha256") == self.sha256:
            return
        raise CardError(
            f"{where} of a vocabulary of {card.get('size')} {card.get('kind')}, SHA-256 {card.get('sha256')}",
            f"{self.size} {self.kind}, SHA-256 {self.sha256}",
            "use the vocabulary that lies beside the checkpoint, or train with this one",
        )

    # Numbers and texts -----------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of units, the blank of texts included."""
        return len(self.units)

    def number(self, name: str) -> int | None:
        """The number of a unit or class; None where there is no such one."""
        return self._numbers.get(name)

    def encode(self, text: str) -> np.ndarray:
        """Units of a text, (U,) int64.

        Raises:
            DataError: nothing is left of the text, or it has characters that the vocabulary lacks; they are named.
        """
        normal = self.normalise(text)
        if not normal:
            raise DataError("an empty transcript", "words", "transcribe it, or leave it out")
        if self.kind == "chars":
            numbers = [self._numbers.get(character, -1) for character in normal]
            unknown = {character for character, number in zip(normal, numbers) if number < 0}
        else:
            pieces = self._processor.encode_as_pieces(normal)
            numbers = [number + self._shift for number in self._processor.encode_as_ids(normal)]
            unknown = {
                piece for piece, number in zip(pieces, numbers) if number == self._processor.unk_id() + self._shift
            }
        if unknown:
            listed = ", ".join(f"{text!r}" for text in sorted(unknown)[:10])
            raise DataError(
                f"characters outside the vocabulary: {listed}",
                f"those of the {self.size} {self.kind} of the training texts",
                "correct the transcript, or train with a vocabulary that has them",
            )
        return np.asarray(numbers, dtype=np.int64)

    def words(self, numbers: Sequence[int]) -> list[Word]:
        """Words of a sequence of units, with the places of their units; spaces belong to no word."""
        words: list[Word] = []
        begins = True
        for place, number in enumerate(numbers):
            unit = self.units[number]
            if self.kind == "bpe":
                begins, unit = begins or unit.startswith(PIECE_SPACE), unit.replace(PIECE_SPACE, "")
            elif unit == SPACE:
                begins, unit = True, ""
            if not unit:
                continue
            if begins or not words:
                words.append(Word(unit, place, place))
            else:
                words[-1] = Word(words[-1].text + unit, words[-1].first, place)
            begins = False
        return words

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of a sequence of units."""
        return SPACE.join(word.text for word in self.words(numbers))


def of_texts(units: str, texts: Iterable[str], normalise: Normalisation) -> Vocabulary:
    """The vocabulary of training texts.

    Args:
        units: `chars`, or `bpe:SIZE`.
        texts: of the training cuts alone.
        normalise: what is done to them first.

    Raises:
        ConfigError: no such units. DataError: texts that hold nothing.
    """
    if units == "chars":
        return Vocabulary.of_characters(texts, normalise)
    if found := _BPE.match(units):
        return Vocabulary.of_pieces(texts, int(found[1]), normalise)
    raise ConfigError(f"units: '{units}'", "chars, or bpe:SIZE such as bpe:500", "correct units")


def learn_pieces(texts: Iterable[str], size: int, what: str, fix: str, **settings: str) -> bytes:
    """A sentencepiece model with every character of texts and no other marks than the unknown piece, which is 0.

    Args:
        texts: to learn from; their order counts.
        size: pieces; fewer where the texts do not hold so many.
        what, fix: for the message.
        settings: of sentencepiece.

    Raises:
        ConfigError: sentencepiece can make no such pieces of the texts.
    """
    sentencepiece = require("sentencepiece", "sentencepiece", "pieces of words")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            unk_id=0,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
            **settings,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"sentencepiece cannot make {what} ({str(error).splitlines()[-1]})",
            "training texts that they can be learnt from, and a size above their number of characters",
            fix,
        ) from error
    return model.getvalue()


def piece_processor(model: bytes):
    """A sentencepiece processor."""
    sentencepiece = require("sentencepiece", "sentencepiece", "pieces of words")
    try:
        if not model:  # which sentencepiece takes for none yet
            raise RuntimeError("an empty file")
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise DataError("no sentencepiece model", "a .model file of sentencepiece", "correct the path") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"no vocabulary {path} ({error.strerror})", "a file that can be read", "correct the path"
        ) from error
