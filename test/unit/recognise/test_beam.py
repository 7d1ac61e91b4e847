"""Beam searches against an enumeration of all alignments."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch.nn import functional

from spear.errors import ConfigError, DataError
from spear.manifest.vocabulary import Vocabulary
from spear.models.ctc_head import CtcHeadSpec
from spear.models.greedy import ctc_greedy, transducer_greedy
from spear.models.transducer_head import TransducerHeadSpec
from spear.recognise.beam import ctc_prefix_beam, transducer_beam
from spear.recognise.decoding import Decoder, Decoding
from spear.recognise.words import timed_words


def collapsed(path):
    return tuple(unit for unit, _ in itertools.groupby(path) if unit)


def test_prefix_beam_finds_the_likeliest_sequence_over_all_alignments():
    log_probs = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(5)).log_softmax(-1)
    lens = torch.tensor([6, 5, 1])
    for row, found in enumerate(ctc_prefix_beam(log_probs, lens, beam=200)):
        totals = defaultdict(list)
        for path in itertools.product(range(3), repeat=int(lens[row])):
            totals[collapsed(path)].append(sum(float(log_probs[row, t, unit]) for t, unit in enumerate(path)))
        sums = {units: math.log(sum(map(math.exp, scores))) for units, scores in totals.items()}
        best = max(sums, key=sums.get)
        assert tuple(found.units) == best and found.score == pytest.approx(sums[best], abs=1e-4)
        assert found.starts == sorted(found.starts) and all(0 < p <= 1 for p in found.probabilities)


def test_prefix_beam_prefers_many_likely_alignments_to_one():
    # Each frame says the blank with 0.52, unit 1 with 0.48: greedy finds nothing, yet a 1 is likelier than nothing.
    log_probs = torch.tensor([[[0.52, 0.48]] * 2]).log()
    lens = torch.tensor([2])
    assert ctc_greedy(log_probs, lens)[0].units == [] and ctc_prefix_beam(log_probs, lens)[0].units == [1]


@pytest.fixture(scope="module")
def transducer(encoder):
    torch.manual_seed(1)
    head = TransducerHeadSpec(3, 8, 8).build(encoder).eval()
    torch.nn.init.normal_(head.output.weight, std=2)
    return head, torch.randn(2, 5, encoder.output_dim, generator=torch.Generator().manual_seed(2)), torch.tensor([5, 3])


@torch.no_grad()
def test_transducer_beam_finds_the_likeliest_sequence_with_one_unit_a_frame(transducer):
    head, hidden, lens = transducer
    for row, found in enumerate(transducer_beam(head, hidden, lens, beam=500)):
        totals = defaultdict(list)
        for path in itertools.product(range(3), repeat=int(lens[row])):
            score, said = 0.0, []
            for frame, arc in enumerate(path):
                context = torch.tensor([([0, 0] + said)[-2:]])
                state = head.from_prediction(head.prediction(context))[0, 0]
                arcs = head.joined(head.from_encoder(hidden[row, frame]), state).log_softmax(-1)
                score += float(arcs[arc])
                said += [arc] if arc else []
            totals[tuple(said)].append(score)
        sums = {units: math.log(sum(map(math.exp, scores))) for units, scores in totals.items()}
        best = max(sums, key=lambda units: sums[units] / (len(units) + 2))
        assert tuple(found.units) == best and found.score == pytest.approx(sums[best], abs=1e-4)


def test_a_beam_of_one_is_greedy_and_batches_change_nothing(transducer):
    head, hidden, lens = transducer
    one = [each.units for each in transducer_beam(head, hidden, lens, beam=1)]
    assert one == [each.units for each in transducer_greedy(head, hidden, lens, most_units=1)]
    together = transducer_beam(head, hidden, lens)
    [alone] = transducer_beam(head, hidden[1:, :3], lens[1:])
    assert alone.units == together[1].units and alone.score == pytest.approx(together[1].score, abs=1e-4)


def certain(vocabulary, text):
    """Log-probabilities of a path that says a text, two frames a unit and a blank after each."""
    numbers = [number for unit in vocabulary.encode(text) for number in (unit, unit, 0)]
    return functional.one_hot(torch.tensor(numbers), vocabulary.size).float().mul(9).log_softmax(-1)[None]


def test_words_have_times_and_confidences():
    vocabulary = Vocabulary.of_characters(["THE CAT"])
    log_probs = certain(vocabulary, "the cat")
    [found] = ctc_greedy(log_probs, torch.tensor([21]))
    first, second = timed_words(found, vocabulary, 50.0)
    assert (first.text, second.text) == ("THE", "CAT")
    assert (first.start_seconds, first.end_seconds) == (0.0, pytest.approx(8 / 50))
    assert (second.start_seconds, second.end_seconds) == (pytest.approx(12 / 50), pytest.approx(20 / 50))
    assert first.confidence == pytest.approx(float(log_probs[0, 0].max().exp()), rel=1e-5)


def test_a_lexicon_corrects_and_times_words(encoder, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder")
    vocabulary = Vocabulary.of_characters(["the cat sat"])
    head = CtcHeadSpec(vocabulary.size).build(encoder).eval()
    (tmp_path / "words.txt").write_text("the\ncat\nsat\n")
    decoder = Decoder(head, vocabulary, Decoding("lexicon", lexicon=str(tmp_path / "words.txt")))
    log_probs = certain(vocabulary, "the hat sat")
    log_probs[0, 12:14] *= 0.2  # the H of HAT is doubtful
    head.log_probs = lambda hidden: log_probs
    [found] = decoder(torch.zeros(1, 33, 4), torch.tensor([33]))
    words = timed_words(found, vocabulary, 50.0)
    assert words[0].text == "THE" and words[-1].text == "SAT" and all(w.text in ("THE", "CAT", "SAT") for w in words)
    assert words[-1].start_seconds == pytest.approx(24 / 50, abs=0.05)


def test_what_cannot_be_decoded_is_refused(encoder, tmp_path):
    with pytest.raises(ConfigError, match="greedy, beam, lexicon"):
        Decoding("viterbi")
    with pytest.raises(ConfigError, match="--lexicon FILE, or neither"):
        Decoding("lexicon")
    with pytest.raises(ConfigError, match="which says no words"):
        Decoder(torch.nn.Linear(1, 1), Vocabulary.of_characters(["a"]))
    pytest.importorskip("flashlight.lib.text.decoder")
    head, vocabulary = CtcHeadSpec(3).build(encoder), Vocabulary.of_characters(["a"])
    with pytest.raises(DataError, match="no file"):
        Decoder(head, vocabulary, Decoding("lexicon", lexicon=str(tmp_path / "none.txt")))
