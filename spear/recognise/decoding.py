"""One way to decode whatever head a recogniser has: greedy, by beam search, or with a lexicon and a language model."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spear.errors import ConfigError
from spear.evaluate.lexicon_beam import LexiconBeam
from spear.manifest.vocabulary import SPACE, Vocabulary
from spear.models.ctc_head import CtcHead
from spear.models.greedy import Hypothesis, ctc_greedy, transducer_greedy
from spear.models.transducer_head import TransducerHead
from spear.nn.transducer import BLANK
from spear.recognise.beam import ctc_prefix_beam, transducer_beam
from spear.recognise.unit_model import WEIGHT, UnitModel

METHODS = ("greedy", "beam", "lexicon")


@dataclass(frozen=True)
class Decoding:
    """How to decode.

    Attributes:
        method: `greedy`; `beam` (prefix beam search of CTC, modified beam search of transducers); or `lexicon` (CTC on
            characters: words of a file by flashlight-text, with a KenLM model where one is given).
        beam: sequences that are kept; 0 for the default.
        lexicon: a file whose lines begin with a word.
        language_model: a KenLM file; empty for none. Of words with `lexicon`, of units with `beam`.
        weight: of a model of units.

    Raises:
        ConfigError: no such method, a lexicon without the method or the other way round, or a model without a search.
    """

    method: str = "greedy"
    beam: int = 0
    lexicon: str = ""
    language_model: str = ""
    weight: float = WEIGHT

    def __post_init__(self):
        if self.method not in METHODS:
            raise ConfigError(f"the method '{self.method}'", "one of " + ", ".join(METHODS), "correct --method")
        if self.beam < 0:
            raise ConfigError(f"a beam of {self.beam}", "1 or more, or 0 for the default", "correct --beam")
        if not 0 <= self.weight < float("inf"):
            raise ConfigError(f"a weight of {self.weight:g}", "0 or more", "correct --language-model-weight")
        if (self.method == "lexicon") != bool(self.lexicon):
            raise ConfigError(
                f"method {self.method} with lexicon '{self.lexicon}'",
                "method lexicon with a lexicon",
                "give --method lexicon and --lexicon FILE, or neither",
            )
        if self.language_model and self.method == "greedy":
            raise ConfigError(
                f"method {self.method} with language model '{self.language_model}'",
                "a search: method beam (a model of units) or lexicon (a model of words)",
                "choose another --method",
            )


class Decoder:
    """Decodes what a head reads.

    Args:
        head: a `CtcHead` or `TransducerHead`, in evaluation mode.
        vocabulary: of its units.
        decoding: how.

    Raises:
        ConfigError: a lexicon for a transducer, or for other units than characters.
        MissingPackageError, DataError: see `LexiconBeam` and `UnitModel`.
    """

    def __init__(self, head: nn.Module, vocabulary: Vocabulary, decoding: Decoding | None = None):
        self.head, self.vocabulary, self.decoding = head, vocabulary, decoding or Decoding()
        if not isinstance(head, CtcHead | TransducerHead):
            raise ConfigError(
                f"a {type(head).__name__}, which says no words", "a head of CTC or of a transducer", "name another run"
            )
        self._lexicon = self._model = None
        if self.decoding.method == "beam" and self.decoding.language_model:
            self._model = UnitModel(self.decoding.language_model, vocabulary, self.decoding.weight)
        if self.decoding.method == "lexicon":
            if not isinstance(head, CtcHead) or vocabulary.kind != "chars":
                raise ConfigError(
                    f"a lexicon for a {type(head).__name__} on {vocabulary.kind}",
                    "CTC on characters",
                    "choose another --method",
                )
            symbols = ["|" if unit == SPACE else unit for unit in vocabulary.units[1:]]
            files = self.decoding.lexicon, self.decoding.language_model
            self._lexicon = LexiconBeam(symbols, *files, normalise=vocabulary.normalise)

    @torch.no_grad()
    def __call__(self, hidden_BTD: Tensor, lens_B: Tensor) -> list[Hypothesis]:
        """What was said in each utterance.

        Args:
            hidden_BTD: what `head.read` gives.
            lens_B: valid frames.
        """
        greedy, options = self.decoding.method == "greedy", {"beam": self.decoding.beam} if self.decoding.beam else {}
        options |= {"model": self._model}
        if isinstance(self.head, TransducerHead):
            if greedy:
                return transducer_greedy(self.head, hidden_BTD, lens_B)
            return transducer_beam(self.head, hidden_BTD, lens_B, **options)
        log_probs_BTV = self.head.log_probs(hidden_BTD)
        if self._lexicon is not None:
            return [self._by_lexicon(row[:length]) for row, length in zip(log_probs_BTV, lens_B.tolist())]
        return ctc_greedy(log_probs_BTV, lens_B) if greedy else ctc_prefix_beam(log_probs_BTV, lens_B, **options)

    def _by_lexicon(self, log_probs_TV: Tensor) -> Hypothesis:
        """The best path through words; its units are timed as those of a greedy path are."""
        num_frames, num_outputs = log_probs_TV.shape
        values_TV = log_probs_TV.float().cpu().numpy()
        # Texts end without a space, but words of the lexicon end with one: a frame that is nothing else is added.
        end_V = np.full((1, num_outputs), -1e9, dtype=np.float32)
        end_V[0, self.vocabulary.number(SPACE)] = 0.0
        symbols = self._lexicon.symbols_of_frames(np.concatenate([values_TV, end_V]))[:num_frames]
        if not symbols:
            return Hypothesis()
        path_1TV = torch.full((1, num_frames, num_outputs), -torch.inf)
        index = torch.tensor([symbol if 0 <= symbol < num_outputs else BLANK for symbol in symbols])[None, :, None]
        path_1TV.scatter_(2, index, log_probs_TV.float().cpu()[None].gather(2, index))
        return ctc_greedy(path_1TV, torch.tensor([num_frames]))[0]
