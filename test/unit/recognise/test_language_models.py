"""Searches with n-gram models of KenLM: of units against an enumeration of all alignments, of words with a lexicon."""

import itertools
import math
import weakref
from collections import defaultdict

import pytest
import torch
from torch.nn import functional

from spear.errors import ConfigError, DataError, MissingPackageError
from spear.manifest.vocabulary import Vocabulary
from spear.models.ctc_head import CtcHeadSpec
from spear.models.transducer_head import TransducerHeadSpec
from spear.recognise.beam import ctc_prefix_beam, transducer_beam
from spear.recognise.decoding import Decoder, Decoding
from spear.recognise.unit_model import UnitModel

UNITS = ("\u2581", "A", "B")  # as transcripts are normalised


def arpa(path, words, bigrams: dict, rest: float = -3.0):
    """Writes a bigram model in powers of ten; words alone, and what is no bigram, have `rest`."""
    lines = ["\\data\\", f"ngram 1={len(words) + 3}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines += ["-99\t<s>\t0", f"{rest}\t</s>", f"{rest - 1}\t<unk>"] + [f"{rest}\t{word}\t0" for word in words]
    lines += ["", "\\2-grams:"] + [f"{value}\t{first} {second}" for (first, second), value in bigrams.items()]
    path.write_text("\n".join([*lines, "", "\\end\\"]) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def bigrams() -> dict:
    pairs = [(first, second) for first in ("<s>", *UNITS) for second in (*UNITS, "</s>")]
    values = torch.randn(len(pairs), generator=torch.Generator().manual_seed(3)).tolist()
    return {pair: round(-abs(value), 4) for pair, value in zip(pairs, values)}


@pytest.fixture(scope="module")
def model(bigrams, tmp_path_factory) -> UnitModel:
    pytest.importorskip("flashlight.lib.text.decoder")
    path = arpa(tmp_path_factory.mktemp("lm") / "units.arpa", UNITS, bigrams)
    return UnitModel(path, Vocabulary.of_characters(["a b"]), 0.8)


def opinion(bigrams: dict, units) -> float:
    words = ["<s>", *(UNITS[unit - 1] for unit in units), "</s>"]
    return 0.8 * math.log(10) * sum(bigrams[pair] for pair in itertools.pairwise(words))


def best_of(totals: dict, said, normal=lambda units: 1) -> tuple:
    sums = {units: math.log(sum(map(math.exp, scores))) + said(units) for units, scores in totals.items()}
    best = max(sums, key=lambda units: sums[units] / normal(units))
    return best, sums[best]


def test_prefix_beam_adds_the_opinion_of_a_model_of_units(bigrams, model):
    log_probs = (1.5 * torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(5))).log_softmax(-1)
    lens, changed = torch.tensor([5, 5, 5, 5, 3, 1]), 0
    alone = ctc_prefix_beam(log_probs, lens, beam=500)
    for row, found in enumerate(ctc_prefix_beam(log_probs, lens, beam=500, model=model)):
        totals = defaultdict(list)
        for path in itertools.product(range(4), repeat=int(lens[row])):
            units = tuple(unit for unit, _ in itertools.groupby(path) if unit)
            totals[units].append(sum(float(log_probs[row, t, unit]) for t, unit in enumerate(path)))
        best, score = best_of(totals, lambda units: opinion(bigrams, units))
        assert tuple(found.units) == best and found.score == pytest.approx(score, abs=1e-3)
        changed += found.units != alone[row].units
    assert changed > 1


@torch.no_grad()
def test_transducer_beam_adds_the_opinion_of_a_model_of_units(encoder, bigrams, model):
    torch.manual_seed(1)
    head = TransducerHeadSpec(4, 8, 8).build(encoder).eval()
    torch.nn.init.normal_(head.output.weight, std=2)
    hidden = torch.randn(3, 4, encoder.output_dim, generator=torch.Generator().manual_seed(2))
    lens, changed = torch.tensor([4, 4, 2]), 0
    alone = transducer_beam(head, hidden, lens, beam=500)
    for row, found in enumerate(transducer_beam(head, hidden, lens, beam=500, model=model)):
        totals = defaultdict(list)
        for path in itertools.product(range(4), repeat=int(lens[row])):
            score, said = 0.0, []
            for frame, arc in enumerate(path):
                state = head.from_prediction(head.prediction(torch.tensor([([0, 0] + said)[-2:]])))[0, 0]
                score += float(head.joined(head.from_encoder(hidden[row, frame]), state).log_softmax(-1)[arc])
                said += [arc] if arc else []
            totals[tuple(said)].append(score)
        best, score = best_of(totals, lambda units: opinion(bigrams, units), lambda units: len(units) + 2)
        assert tuple(found.units) == best and found.score == pytest.approx(score, abs=1e-3)
        changed += found.units != alone[row].units
    assert changed


@torch.no_grad()
def test_the_search_of_a_transducer_remembers_no_more_of_a_model_than_it_keeps(encoder):
    torch.manual_seed(1)
    head = TransducerHeadSpec(4, 8, 8).build(encoder).eval()
    torch.nn.init.normal_(head.output.weight, std=2)
    states, counts = weakref.WeakSet(), []

    class State:
        """Behind a sequence."""

    class Silent:
        def start(self):
            states.add(state := State())
            return state

        def after(self, state, unit):
            counts.append(len(states))
            return self.start(), 0.0

        def end(self, state):
            return 0.0

    hidden = torch.randn(2, 40, encoder.output_dim, generator=torch.Generator().manual_seed(2))
    transducer_beam(head, hidden, torch.tensor([40, 40]), beam=2, model=Silent())
    assert len(counts) > 40 and max(counts) <= 2 * (2 + 4)  # of each recording two that are kept, and four looked at


def certain(vocabulary, text):
    """Log-probabilities of a path that says a text, two frames a unit and a blank after each."""
    numbers = [number for unit in vocabulary.encode(text) for number in (unit, unit, 0)]
    return functional.one_hot(torch.tensor(numbers), vocabulary.size).float().mul(9).log_softmax(-1)[None]


def test_a_model_of_words_decides_between_words_of_the_lexicon(encoder, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder")
    vocabulary = Vocabulary.of_characters(["the cat hat sat"])
    head = CtcHeadSpec(vocabulary.size).build(encoder).eval()
    (tmp_path / "words.txt").write_text("the\ncat\nhat\nsat\n")  # as the model writes them; transcripts are in capitals
    log_probs = certain(vocabulary, "the hat sat")
    cat, hat = (vocabulary.encode(word)[0] for word in ("cat", "hat"))
    log_probs[0, 12:14, cat] = log_probs[0, 12:14, hat] - 0.1  # C is nearly as likely as H
    head.log_probs = lambda hidden: log_probs

    def said(*files) -> str:
        decoder = Decoder(head, vocabulary, Decoding("lexicon", 0, str(tmp_path / "words.txt"), *files))
        return vocabulary.decode(decoder(torch.zeros(1, 33, 4), torch.tensor([33]))[0].units)

    words = ("the", "cat", "hat", "sat")
    likes_cats = {("<s>", "the"): -0.1, ("the", "cat"): -0.1, ("cat", "sat"): -0.1, ("the", "hat"): -2.0}
    assert said() == "THE HAT SAT"
    assert said(arpa(tmp_path / "words.arpa", words, likes_cats)) == "THE CAT SAT"
    with pytest.raises(DataError, match="knows none of 4 words: cat, hat"):
        said(arpa(tmp_path / "capitals.arpa", [word.upper() for word in words], {("<s>", "THE"): -0.1}))


def test_models_that_cannot_be_used_are_refused(encoder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="a search: method beam"):
        Decoding("greedy", language_model="x.arpa")
    with pytest.raises(ConfigError, match="--language-model-weight"):
        Decoding("beam", weight=float("nan"))
    vocabulary = Vocabulary.of_characters(["ab"])
    head = CtcHeadSpec(vocabulary.size).build(encoder).eval()
    pytest.importorskip("flashlight.lib.text.decoder")
    with pytest.raises(DataError, match="no file"):
        Decoder(head, vocabulary, Decoding("beam", language_model=str(tmp_path / "none.arpa")))
    (tmp_path / "text.arpa").write_text("no model\n")
    with pytest.raises(DataError, match=r"text\.arpa: "):
        Decoder(head, vocabulary, Decoding("beam", language_model=str(tmp_path / "text.arpa")))
    with pytest.raises(DataError, match="knows none of 3 words"):
        path = arpa(tmp_path / "words.arpa", ["hat"], {("<s>", "hat"): -0.1})
        Decoder(head, vocabulary, Decoding("beam", language_model=path))
    monkeypatch.setitem(__import__("sys").modules, "flashlight.lib.text.decoder.kenlm", None)
    with pytest.raises(MissingPackageError, match="pip install 'flashlight-text'"):
        Decoder(head, vocabulary, Decoding("beam", language_model=path))
