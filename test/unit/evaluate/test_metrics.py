"""Scores against values computed by hand."""

import math

import numpy as np
import pytest

from spear import fs
from spear.errors import DataError
from spear.evaluate import metrics
from spear.evaluate.ctc import Symbols
from spear.evaluate.runs import rescore
from spear.evaluate.units import characters, collapse, normalise_text, sentencepiece_units


def test_word_errors_are_counted_over_the_corpus_not_per_utterance():
    counts = [metrics.item_counts("wer", "A B C D", "A B X D E"), metrics.item_counts("wer", "A", "A")]
    assert counts == [(2, 4), (0, 1)]
    assert metrics.score(*np.asarray(counts).T) == pytest.approx(2 / 5)  # the mean of utterances would be 1/4


@pytest.mark.parametrize(
    ("metric", "reference", "hypothesis", "expected"),
    [
        ("per", ["AH", "B"], ["AH", "D", "B"], (1, 2)),
        ("wer", "", "A B", (2, 0)),
        ("wer", "A B", "", (2, 2)),
        ("cer", "AB C", "ABC", (1, 4)),
        ("accuracy", "on", "on", (1, 1)),
        ("accuracy", ["on", "lamp"], ("on", "lamp"), (1, 1)),
        ("accuracy", ["on", "lamp"], ("on", "heat"), (0, 1)),
    ],
)
def test_item_counts(metric, reference, hypothesis, expected):
    assert metrics.item_counts(metric, reference, hypothesis) == expected


def test_bootstrap_interval_agrees_with_the_binomial_and_is_repeatable():
    rows = [{"reference": "a", "hypotheses": ["a" if number < 80 else "b"]} for number in range(100)]
    low, high = metrics.interval_of_folds("accuracy", rows)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert low == pytest.approx(0.8 - half, abs=0.02) and high == pytest.approx(0.8 + half, abs=0.02)
    assert metrics.interval_of_folds("accuracy", rows) == (low, high)


def test_empty_lists_give_nan_instead_of_a_score():
    assert math.isnan(metrics.score([], [])) and not len(metrics.bootstrap_scores([], []))


def test_rescore_refuses_predictions_of_another_run(tmp_path):
    fs.write_json(
        tmp_path / "a.json", {"scores": {"wer": 0.5}, "num_predictions": 2, "predictions": "a.predictions.jsonl"}
    )
    fs.write_jsonl(tmp_path / "a.predictions.jsonl", [{"id": "x", "reference": "A", "hypotheses": ["A", "B"]}])
    with pytest.raises(DataError, match="1 predictions"):
        rescore(tmp_path / "a.json")


def test_collapse_drops_repeats_then_blanks():
    assert collapse([0, 3, 3, 0, 3, 2, 2, 0]) == [3, 3, 2]


def test_text_is_normalised_and_comes_back_from_characters():
    assert normalise_text(" Don\u2019t  stop, now! ") == "DON'T STOP NOW"
    spell, read = characters()
    symbols = Symbols([spell("AB C"), spell("A")])
    assert symbols.size == 5 and read(symbols.decode(symbols.encode(spell("C AB")))) == "C AB"
    assert symbols.encode("AZ") == symbols.encode("A")  # the head cannot say what training never had


def test_sentencepiece_units_decode_to_text():
    texts = ["THE CAT SAT", "THE DOG SAT", "A CAT AND A DOG"] * 5
    spell, read = sentencepiece_units(texts, 16)
    symbols = Symbols([spell(text) for text in texts])
    assert symbols.size <= 16 and read(symbols.decode(symbols.encode(spell("THE DOG SAT")))) == "THE DOG SAT"
