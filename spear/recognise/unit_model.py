"""An n-gram model over the units of a recogniser, whose opinion a beam search adds to that of the head."""

import math
from typing import Any

from spear.evaluate.lexicon_beam import kenlm
from spear.manifest.vocabulary import PIECE_SPACE, SPACE, Vocabulary

WEIGHT = 0.3
_NATS = math.log(10)  # KenLM counts in powers of ten


class UnitModel:
    """What KenLM says of sequences of units, times a weight, in nats.

    Args:
        path: an ARPA file or a binary one of KenLM, whose words are units of the vocabulary; the space is U+2581, as in
            pieces of sentencepiece.
        vocabulary: whose units are numbered from 1.
        weight: of the model beside the head.

    Raises:
        MissingPackageError: flashlight-text is absent, or was built without KenLM.
        DataError: no such model, or one that knows none of the units.
    """

    def __init__(self, path: str, vocabulary: Vocabulary, weight: float = WEIGHT):
        units = [PIECE_SPACE if unit == SPACE else unit for unit in vocabulary.units[1:]]
        self._model, self.weight = kenlm(path, units), weight * _NATS

    def start(self) -> Any:
        """The state before the first unit."""
        return self._model.start(False)

    def after(self, state: Any, unit: int) -> tuple[Any, float]:
        """The state behind a unit, and what that adds to a sequence's score."""
        state, score = self._model.score(state, unit - 1)
        return state, self.weight * score

    def end(self, state: Any) -> float:
        """What it adds to a sequence's score that nothing follows."""
        return self.weight * self._model.finish(state)[1]
