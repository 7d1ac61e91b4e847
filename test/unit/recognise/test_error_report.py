"""Error rates, and the files that hold what is behind them."""

import pytest

from spear.errors import DataError
from spear.fs import read_json
from spear.recognise.errors import Counts, Utterance, character_counts, count, word_counts, write_report

SAID = [
    Utterance("b-1", "THE CAT SAT", "THE CAT SAT DOWN", "ann"),
    Utterance("a-2", "A DOG RAN HOME", "A FROG RAN", "bob"),
    Utterance("a-1", "A DOG", "A DOG", "bob"),
    Utterance("c-3", "", "OH", ""),
    Utterance("d-4", "HELLO", "", "ann"),
]


def test_counts_of_words_and_characters():
    assert count("A DOG RAN HOME".split(), "A FROG RAN".split()) == Counts(1, 0, 1, 4)
    words = word_counts(SAID)
    assert words == Counts(1, 2, 2, 10) and words.rate == 0.5
    assert str(words) == "50.00% (5 errors over 10: 2 insertions, 2 deletions, 1 substitutions)"
    # " DOWN"; DOG to FROG, " HOME" away; "OH"; "HELLO"
    assert character_counts(SAID) == Counts(1, 5 + 1 + 2, 5 + 5, 11 + 14 + 5 + 0 + 5)


def test_the_report_names_speakers_and_the_worst_utterances(tmp_path):
    found = write_report(tmp_path, "test-greedy", SAID)
    assert found == read_json(tmp_path / "wer-test-greedy.json")
    assert found["words"]["rate"] == 0.5 and found["utterances"] == 5
    assert found["speakers"]["bob"]["rate"] == pytest.approx(2 / 6) and found["speakers"][""]["rate"] is None
    recogs = (tmp_path / "recogs-test-greedy.txt").read_text().splitlines()
    assert recogs[:2] == ["a-1:\tref=['A', 'DOG']", "a-1:\thyp=['A', 'DOG']"] and len(recogs) == 10
    text = (tmp_path / "errs-test-greedy.txt").read_text()
    assert text.startswith("%WER = 50.00\nErrors: 2 insertions, 2 deletions, 1 substitutions, over 10 reference words")
    sections = dict(part.split("\n", 1) for part in text.split("\n\n")[1:])
    speakers = sections["SPEAKERS: WER, errors, words, utterances"].splitlines()
    assert [row.split() for row in speakers] == [
        ["100.00", "1", "0", "1", "(unknown)"],
        ["50.00", "2", "4", "2", "ann"],
        ["33.33", "2", "6", "2", "bob"],
    ]
    assert sections["WORST UTTERANCES: errors, words, id"].splitlines()[0] == "2  4  a-2"
    assert "a-2:\tA (DOG->FROG) RAN (HOME->*)" in sections["PER-UTT DETAILS: corr or (ref->hyp)"]
    assert sections["SUBSTITUTIONS: count ref -> hyp"].strip() == "1   DOG -> FROG"
    assert sections["INSERTIONS: count hyp"].splitlines() == ["1   DOWN", "1   OH"]
    assert "DOG   1  1  2  1" in sections["PER-WORD STATS: word  corr  tot_errs  count_in_ref  count_in_hyp"]


def test_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(DataError, match="no utterance in x"):
        write_report(tmp_path, "x", [])
