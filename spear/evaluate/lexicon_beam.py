"""ASR with a lexicon and a language model: the beam search of flashlight-text.

Words are those of a lexicon file (a word on each line; what follows it is ignored), spelled by letters. The language
model is what KenLM reads, where flashlight-text was built with it, and has the words as the lexicon writes them;
without a model the lexicon alone restricts the search.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.errors import DataError, require
from spear.evaluate.units import normalise_text

_NO_WORD = "\u0001"
BEAM_SIZE, BEAM_THRESHOLD, LM_WEIGHT, WORD_SCORE, SILENCE_SCORE = 5, 25.0, 2.0, -1.0, 0.0


class LexiconBeam:
    """Decodes log-probabilities of CTC symbols to words of a lexicon.

    Args:
        symbols: of the head, numbered from 1; `|` ends words, 0 is the blank.
        lexicon: a file whose lines begin with a word.
        language_model: a KenLM file; empty for none.
        normalise: what is done to the words of the lexicon, as it was to transcripts.

    Raises:
        MissingPackageError: flashlight-text is absent, or has no KenLM and a model is given.
        DataError: no word of the lexicon can be spelled, or the model cannot be read or knows none of them.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        lexicon: str | Path,
        language_model: str | Path = "",
        normalise: Callable[[str], str] = normalise_text,
    ):
        decoder = require("flashlight.lib.text.decoder", "flashlight-text", "decoding with a lexicon")
        numbers = {symbol: number for number, symbol in enumerate(symbols, 1)}
        path = Path(lexicon)
        if not path.exists():
            raise DataError(f"no file {path}", "a lexicon with a word on each line", "correct --lexicon")
        # As the transcripts are normalised; a word of which nothing is left, or several, no transcript has.
        written: dict[str, str] = {}
        for _, line in fs.iter_lines(path):
            if line.strip():
                written.setdefault(normalise(word := line.split()[0]), word)
        words = sorted(word for word in written if word and " " not in word)
        self._words = [word for word in words if all(letter in numbers for letter in word)]
        if not self._words or "|" not in numbers:
            raise DataError(
                f"{path}: no word can be spelled with {len(symbols)} symbols", "words in letters", "check it"
            )
        model = decoder.ZeroLM()
        if language_model:
            model = kenlm(str(language_model), [written[word] for word in self._words])
        trie = decoder.Trie(len(symbols) + 1, numbers["|"])
        start = model.start(False)
        for place, word in enumerate(self._words):
            _, score = model.score(start, place)
            trie.insert([numbers[letter] for letter in word] + [numbers["|"]], place, score)
        trie.smear(decoder.SmearingMode.MAX)
        options = decoder.LexiconDecoderOptions(
            beam_size=BEAM_SIZE,
            beam_size_token=len(symbols) + 1,
            beam_threshold=BEAM_THRESHOLD,
            lm_weight=LM_WEIGHT if language_model else 0.0,
            word_score=WORD_SCORE,
            unk_score=float("-inf"),
            sil_score=SILENCE_SCORE,
            log_add=False,
            criterion_type=decoder.CriterionType.CTC,
        )
        # The trie must outlive the decoder, which only refers to it.
        self._kept = (trie, model)
        self._decoder = decoder.LexiconDecoder(options, trie, model, numbers["|"], 0, len(self._words), [], False)

    def __call__(self, log_probs_TC: np.ndarray) -> str:
        """The best word sequence of one utterance; empty when the beam ends without a word."""
        best = self._best(log_probs_TC)
        places = best.words if best else ()
        return " ".join(self._words[place] for place in places if 0 <= place < len(self._words))

    def symbols_of_frames(self, log_probs_TC: np.ndarray) -> list[int]:
        """The symbol of each frame on the best path of one utterance; empty when the beam ends without a word."""
        best = self._best(log_probs_TC)
        # The decoder adds a symbol before the first frame and one after the last.
        return [int(symbol) for symbol in best.tokens][1 : len(log_probs_TC) + 1] if best else []

    def _best(self, log_probs_TC: np.ndarray):
        emissions_TC = np.ascontiguousarray(log_probs_TC, dtype=np.float32)
        results = self._decoder.decode(emissions_TC.ctypes.data, *emissions_TC.shape)
        return results[0] if results else None


def kenlm(path: str, words: Sequence[str]):
    """An n-gram model that flashlight-text calls, of words by their places.

    Args:
        path: an ARPA file, or a binary one of KenLM.
        words: to ask about.

    Raises:
        MissingPackageError: flashlight-text is absent, or was built without KenLM.
        DataError: no such model, or one that knows none of the words.
    """
    decoder = require("flashlight.lib.text.decoder.kenlm", "flashlight-text", "--language-model")
    fix = "correct --language-model"
    dictionary = require("flashlight.lib.text.dictionary", "flashlight-text", "--language-model").Dictionary()
    for word in [*words, _NO_WORD]:
        dictionary.add_entry(word)
    if not Path(path).is_file():
        raise DataError(f"no file {path}", "an n-gram model (ARPA, or binary of KenLM)", fix)
    try:
        model = decoder.KenLM(path, dictionary)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1][:200]
        raise DataError(f"{path}: {reason}", "an n-gram model (ARPA, or binary of KenLM)", fix) from error
    start = model.start(True)
    unknown = model.score(start, len(words))[1]
    if all(model.score(start, place)[1] == unknown for place in range(len(words))):
        raise DataError(
            f"{path}, which knows none of {len(words)} words: {', '.join(words[:5])}...",
            "a model of these words, written in the same way",
            fix + ", or the letters' case in the lexicon",
        )
    return model
