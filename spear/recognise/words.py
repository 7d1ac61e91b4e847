"""Words in time, from the units and frames that decoders find."""

import math
from dataclasses import dataclass

from spear.manifest.vocabulary import Vocabulary
from spear.models.greedy import Hypothesis


@dataclass(frozen=True)
class TimedWord:
    """A word in time.

    Attributes:
        text: of the word.
        start_seconds, end_seconds: from the beginning of what was decoded. Models say units at points, so both are
            estimates: a word ends a frame after its last unit began to be said.
        confidence: geometric mean of its units' probabilities, 0 to 1.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float


def timed_words(found: Hypothesis, vocabulary: Vocabulary, frame_rate_hz: float) -> list[TimedWord]:
    """The words of a hypothesis.

    Args:
        found: of a decoder.
        vocabulary: of its units.
        frame_rate_hz: of the frames that it counts.
    """
    words = []
    for text, first, last in vocabulary.words(found.units):
        product = math.prod(found.probabilities[first : last + 1])
        start, end = found.starts[first] / frame_rate_hz, (found.ends[last] + 1) / frame_rate_hz
        words.append(TimedWord(text, start, end, product ** (1 / (last - first + 1))))
    return words
