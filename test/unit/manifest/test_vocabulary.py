"""Vocabularies: what is done to texts, what units say, and what is refused."""

import unicodedata

import pytest

from spear.errors import CardError, ConfigError, DataError
from spear.manifest.vocabulary import Normalisation, Vocabulary, of_texts

TEXTS = ["the cat sat on the mat", "a dog ran to the cat", "dogs and cats"]


def test_texts_are_composed_and_marks_stay():
    decomposed = unicodedata.normalize("NFD", "déjà  vu\u200b\n")
    assert Normalisation()(decomposed) == "DÉJÀ VU"
    assert Normalisation("lower")("İÇ") == unicodedata.normalize("NFC", "İÇ".lower())
    hindi = "हिन्दी"  # vowel signs and a virama, none of which has a composed form
    assert Normalisation("keep", punctuation=False)(hindi + "।") == hindi
    assert Normalisation("keep")("Well, it\u2019s") == "Well, it\u2019s"
    assert Normalisation("keep", punctuation=False)("Well, it\u2019s") == "Well it's"
    with pytest.raises(ConfigError, match="upper, lower, keep"):
        Normalisation("title")


def test_characters_count_from_one_and_the_space_is_one_of_them():
    vocabulary = Vocabulary.of_characters(TEXTS)
    assert vocabulary.units[:3] == ["<blk>", " ", "A"] and vocabulary.size == 2 + len(set("".join(TEXTS)) - {" "})
    numbers = vocabulary.encode(" the  mat ")
    assert [vocabulary.units[number] for number in numbers] == list("THE MAT")
    assert vocabulary.decode(numbers) == "THE MAT"
    assert vocabulary.words(numbers) == [("THE", 0, 2), ("MAT", 4, 6)]
    with pytest.raises(DataError, match="characters outside the vocabulary: 'X', 'Ü'"):
        vocabulary.encode("tüx")
    with pytest.raises(DataError, match="an empty transcript"):
        vocabulary.encode(" \u200b ")


def test_pieces_are_learnt_and_say_where_words_begin(tmp_path):
    vocabulary = of_texts("bpe:30", TEXTS * 4, Normalisation("lower"))
    assert vocabulary.kind == "bpe" and vocabulary.size == 30 and vocabulary.units[0] == "<blk>"
    numbers = vocabulary.encode("The dogs")
    assert vocabulary.decode(numbers) == "the dogs"
    first, second = vocabulary.words(numbers)
    assert (first.first, first.last + 1, second.last) == (0, second.first, len(numbers) - 1)
    with pytest.raises(DataError, match="outside the vocabulary: 'ü'"):
        vocabulary.encode("tüthe")
    vocabulary.save(tmp_path / "v.json")
    loaded = Vocabulary.load(tmp_path / "v.json")
    assert loaded.sha256 == vocabulary.sha256 and loaded.encode("the dogs").tolist() == numbers.tolist()
    bare = Vocabulary.load(tmp_path / "v.model", Normalisation("lower"))
    assert bare.units == vocabulary.units and bare.sha256 == vocabulary.sha256
    (tmp_path / "v.model").write_bytes(b"another")
    with pytest.raises(DataError, match="is not the model of v.json"):
        Vocabulary.load(tmp_path / "v.json")


def test_bad_units_and_files_are_named(tmp_path):
    for units in ("words", "bpe:0", "bpe:x"):
        with pytest.raises(ConfigError, match="chars, or bpe:SIZE"):
            of_texts(units, TEXTS, Normalisation())
    with pytest.raises(ConfigError, match="cannot make 3 pieces"):
        of_texts("bpe:3", TEXTS, Normalisation())
    with pytest.raises(DataError, match="without a character"):
        Vocabulary.of_characters([" ", ""])
    with pytest.raises(DataError, match="no vocabulary .*no.model"):
        Vocabulary.load(tmp_path / "no.model")
    (tmp_path / "x.model").write_bytes(b"text")
    with pytest.raises(DataError, match="no sentencepiece model"):
        Vocabulary.load(tmp_path / "x.model")


def test_a_checkpoint_of_another_vocabulary_is_refused():
    first, second = Vocabulary.of_characters(TEXTS), Vocabulary.of_characters(TEXTS, Normalisation("lower"))
    first.check(first.card(), "the checkpoint")
    with pytest.raises(CardError, match=f"the checkpoint of a vocabulary of .* chars, SHA-256 {first.sha256}"):
        second.check(first.card(), "the checkpoint")


def test_classes_are_sorted_names(tmp_path):
    vocabulary = Vocabulary.of_classes(["dog", "cat", "dog"])
    assert vocabulary.units == ["cat", "dog"] and vocabulary.number("dog") == 1 and vocabulary.number("cow") is None
    vocabulary.save(tmp_path / "classes.json")
    assert Vocabulary.load(tmp_path / "classes.json").sha256 == vocabulary.sha256


def test_an_empty_file_is_no_sentencepiece_model():
    pytest.importorskip("sentencepiece")
    with pytest.raises(DataError, match="no sentencepiece model"):
        Vocabulary.of_model(b"")
