"""Transcripts in any script are scored as they are written: marks stay, and vocabularies are large enough."""

import numpy as np
import pytest

from spear import fs
from spear.audio import save_audio
from spear.errors import DataError
from spear.evaluate.corpora import prepare_corpus
from spear.evaluate.corpora.librispeech import read_lexicons
from spear.evaluate.metrics import item_counts
from spear.evaluate.units import normalise_text, sentencepiece_units


@pytest.mark.parametrize(
    "text",
    [
        "नमस्ते दुनिया",  # Devanagari: vowel signs, virama
        "தமிழ் மொழி",  # Tamil
        "বাংলা ভাষা",  # Bengali
        "ភាសាខ្មែរ",  # Khmer
        "สวัสดี ครับ น้ำ",  # Thai: vowels above, tone marks
        "العَرَبِيَّةُ",  # Arabic with short vowels
        "שָׁלוֹם עוֹלָם",  # Hebrew with points
        "မြန်မာ",  # Burmese
    ],
)
def test_marks_are_part_of_their_words(text):
    import unicodedata

    found = normalise_text(f" {text}!  ")
    expected = unicodedata.normalize("NFKC", text)
    assert found == expected and len(found.split()) == len(text.split())


def test_words_that_differ_by_a_mark_differ():
    assert normalise_text("कि") != normalise_text("की") and normalise_text("ما") == normalise_text("ما،")
    assert item_counts("wer", normalise_text("दिन"), normalise_text("दान")) == (1, 1)
    assert item_counts("wer", normalise_text("कल मिलेंगे"), normalise_text("कल मिलेंगे।")) == (0, 2)


def test_what_has_no_width_parts_no_word():
    assert normalise_text("می\u200cخواهم") == "میخواهم"  # zero-width non-joiner
    assert normalise_text("co\u00adoperate \u200fnow\ufeff") == "COOPERATE NOW"
    assert normalise_text("a\u2028b \u0301c ❤\ufe0f d_e") == "A B C D E"
    assert normalise_text("ΐ") == normalise_text("Ϊ́") and normalise_text("e\u0301te\u0301") == "ÉTÉ"


def test_english_is_as_it_was():
    assert normalise_text("It\u2019s 5 o'clock, Mr. Smith-Jones!") == "IT'S 5 O'CLOCK MR SMITH JONES"


def test_a_vocabulary_grows_with_the_characters_of_the_texts(caplog):
    texts = ["".join(chr(0x4E00 + (17 * n + k) % 260) for k in range(8)) for n in range(60)]
    spell, read = sentencepiece_units(texts, 100)
    assert len({piece for text in texts for piece in spell(text)}) >= 260 and "instead of 100" in caplog.text
    assert all(read(spell(text)) == text for text in texts)
    assert len(set(sentencepiece_units(["a b c " * 9] * 9, 100)[0]("a b c " * 9))) <= 100


def lexicon(path, text):
    path.write_bytes(text.encode("utf-8"))
    return read_lexicons([path])


def test_probabilities_of_a_lexicon_are_no_phones(tmp_path):
    path = tmp_path / "lexicon.txt"
    expected = {"HELLO": ["HH", "AH"], "WORLD": ["W", "ER"]}
    assert lexicon(path, "HELLO 1.0 HH AH\n\nWORLD 0.5 W ER\nWORLD 1.0 W ER D\n") == expected
    assert lexicon(path, "hello\tHH AH\r\n\r\nworld W ER\n") == expected
    assert lexicon(path, "HELLO 1 HH AH\nWORLD 0.25 W ER\n") == expected
    assert lexicon(path, "HELLO 1.0 0.2 1.1 0.9 HH AH\nWORLD 1e-05 .5 1 1 W ER\n") == expected  # lexiconp_silprob
    assert lexicon(path, "ma1 m a 1\nyi 1 i\n") == {"MA1": ["m", "a", "1"], "YI": ["1", "i"]}  # phones called 1
    with pytest.raises(DataError, match="UTF-16"):
        path.write_bytes("HELLO HH AH\n".encode("utf-16"))
        read_lexicons([path])


def test_phones_of_librispeech_with_a_lexicon_that_has_probabilities(tmp_path):
    raw = tmp_path / "LibriSpeech"
    for folder in ("train-clean-100", "dev-clean", "test-clean"):
        place = raw / folder / "1" / "2"
        save_audio(place / "1-2-0000.flac", 0.1 * np.ones(8000, dtype=np.float32), 16000)
        (place / "1-2.trans.txt").write_text("1-2-0000 HELLO WORLD\n\n")
    (tmp_path / "lexiconp.txt").write_text("HELLO 1.0 HH AH L OW\n\nWORLD 0.5 W ER L D\n")
    prepare_corpus("librispeech", raw, tmp_path / "data", lexicon=[tmp_path / "lexiconp.txt"])
    rows = fs.read_jsonl(tmp_path / "data" / "superb" / "PR.jsonl")
    assert {tuple(row["target"]) for row in rows} == {("HH", "AH", "L", "OW", "W", "ER", "L", "D")}
