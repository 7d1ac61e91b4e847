"""Output units of CTC heads: phones, characters, or sentencepiece tokens, always learnt from training text alone."""

import io
import unicodedata
from collections.abc import Iterable, Sequence

from spear.errors import ConfigError, DataError
from spear.log import get_logger

logger = get_logger(__name__)
BLANK = 0
"""The CTC blank; units count from 1."""


def normalise_text(text: str) -> str:
    """Upper case, letters and digits and apostrophes only, single spaces (SUPERB ASR, benchmarks A.2).

    Marks (category M: vowel signs, viramas, points, tones) belong to the letter that they follow, and stay: without
    them words of Indic, Thai, Arabic or Hebrew text become other words or none. Characters without width (joiners, soft
    hyphens, marks of direction) are dropped and part no word.
    """
    # Upper case may take a letter apart; composed again, equal texts are equal.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper()).replace("\u2019", "'")
    kept: list[str] = []
    for character in text:
        kind = unicodedata.category(character)
        if kind[0] in "LN" or character == "'":
            kept.append(character)
        elif kind in ("Mn", "Mc"):
            follows = kept and kept[-1] not in " '"
            if follows and not _is_variation_selector(character):
                kept.append(character)
        elif kind != "Cf":
            kept.append(" ")
    return " ".join("".join(kept).split())


def _is_variation_selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


class SymbolUnits:
    """Phones (lists of strings) or characters (strings; the space is a character).

    Args:
        symbols: in the order of their numbers, from 1.
        joined: whether targets are strings rather than lists.
    """

    def __init__(self, symbols: Sequence[str], joined: bool):
        self.symbols, self.joined = list(symbols), joined
        self._number = {symbol: index for index, symbol in enumerate(self.symbols, 1)}

    @property
    def size(self) -> int:
        """Number of classes, the blank included."""
        return len(self.symbols) + 1

    def encode(self, target: str | Sequence[str]) -> list[int]:
        """Unit numbers; symbols that training never had are left out (the head cannot produce them)."""
        return [self._number[symbol] for symbol in target if symbol in self._number]

    def decode(self, numbers: Sequence[int]) -> str | list[str]:
        """The inverse of `encode`; strings lose repeated and outer spaces, which no reference has."""
        symbols = [self.symbols[number - 1] for number in numbers]
        return " ".join("".join(symbols).split()) if self.joined else symbols


class SentencePieceUnits:
    """Sentencepiece (unigram) tokens trained on the training texts of the task.

    Args:
        size: how many; fewer when the texts do not hold so many, and more when they have more characters than that.

    Raises:
        ConfigError: sentencepiece can make no tokens of the texts.
    """

    def __init__(self, texts: Iterable[str], size: int):
        import sentencepiece

        texts = sorted(texts)
        # Every character is a token, and so are the space and the unknown one.
        least = len(set("".join(texts)) | {" "}) + 1
        if least > size:
            logger.warning("the texts have %d characters: %d tokens instead of %d", least - 2, least, size)
            size = least
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=size,
                model_type="unigram",
                character_coverage=1.0,
                bos_id=-1,
                eos_id=-1,
                unk_id=0,
                hard_vocab_limit=False,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ConfigError(
                f"sentencepiece cannot make {size} tokens ({str(error).splitlines()[-1]})",
                "training texts that tokens can be learnt from",
                "check the transcripts, or choose --units characters",
            ) from error
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        self.symbols = [self._model.id_to_piece(i) for i in range(1, self._model.get_piece_size())]

    @property
    def size(self) -> int:
        """Number of classes, the blank included (it takes the number of the unknown token)."""
        return self._model.get_piece_size()

    def encode(self, target: str) -> list[int]:
        """Unit numbers without unknown ones."""
        return [number for number in self._model.encode(target) if number != BLANK]

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of unit numbers."""
        return self._model.decode(list(numbers))


def make_units(targets: Sequence[str | Sequence[str]], name: str) -> SymbolUnits | SentencePieceUnits:
    """Units learnt from training targets.

    Args:
        targets: texts, or lists of phones.
        name: `phones`, `characters`, or `sentencepiece:SIZE`.

    Raises:
        ConfigError: an unknown name.
        DataError: no target has any symbol.
    """
    if name.startswith("sentencepiece:") and name.partition(":")[2].isdigit():
        return SentencePieceUnits(targets, int(name.partition(":")[2]))
    if name not in ("phones", "characters"):
        raise ConfigError(f"units '{name}'", "phones, characters or sentencepiece:SIZE", "correct --units")
    symbols = sorted({symbol for target in targets for symbol in target})
    if not symbols:
        raise DataError("training targets without any symbol", "transcribed training items", "check the manifests")
    return SymbolUnits(symbols, joined=name == "characters")


def collapse(numbers: Sequence[int]) -> list[int]:
    """Greedy CTC: repeats to one, then blanks away."""
    result, last = [], BLANK
    for number in numbers:
        if number != last and number != BLANK:
            result.append(int(number))
        last = number
    return result
