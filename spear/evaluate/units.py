"""Texts as sequences for CTC heads: how they are normalised, spelled and read; learnt from training texts alone."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence

from spear.errors import ConfigError
from spear.log import get_logger
from spear.manifest.vocabulary import BLANK, learn_pieces, piece_processor

logger = get_logger(__name__)
Spell = Callable[[str], Sequence[str]]
Read = Callable[[Sequence[str]], str]


def normalise_text(text: str) -> str:
    """Upper case, letters and digits and apostrophes only, single spaces (as ASR of SUPERB, arXiv 2105.01051).

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


def characters() -> tuple[Spell, Read]:
    """Texts as characters, of which the space is one; hypotheses lose repeated and outer spaces, which no text has."""
    return list, lambda symbols: " ".join("".join(symbols).split())


def sentencepiece_units(texts: Iterable[str], size: int) -> tuple[Spell, Read]:
    """Texts as sentencepiece (unigram) tokens that are learnt from the training texts of a task.

    Args:
        size: how many; fewer when the texts do not hold so many, and more when they have more characters than that.

    Raises:
        ConfigError: sentencepiece can make no tokens of the texts.
    """
    texts = sorted(texts)
    # Every character is a token, and so are the space and the unknown one.
    least = len(set("".join(texts)) | {" "}) + 1
    if least > size:
        logger.warning("the texts have %d characters: %d tokens instead of %d", least - 2, least, size)
        size = least
    fix = "check the transcripts, or choose --units characters"
    processor = piece_processor(learn_pieces(texts, size, f"{size} tokens", fix, model_type="unigram"))
    return processor.encode_as_pieces, lambda pieces: processor.decode_pieces(list(pieces))


def check_text_units(name: str) -> None:
    """Refuses what is not `characters` or `sentencepiece:SIZE`.

    Raises:
        ConfigError: names it.
    """
    kind, _, size = name.partition(":")
    if name != "characters" and not (kind == "sentencepiece" and size.isdigit() and int(size) > 0):
        raise ConfigError(f"units '{name}'", "characters or sentencepiece:SIZE", "correct --units")


def collapse(numbers: Sequence[int]) -> list[int]:
    """Greedy CTC: repeats to one, then blanks away."""
    result, last = [], BLANK
    for number in numbers:
        if number != last and number != BLANK:
            result.append(int(number))
        last = number
    return result
