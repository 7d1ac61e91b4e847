"""No id decides where a file goes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear import names
from spear.errors import DataError

HOSTILE = [
    "../../etc/x",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "a\\b",
    "a\nb",
    "a\u2028b",
    "C:\\x",
    "nul",
    ".hidden",
    "x" * 5000,
]


@pytest.mark.parametrize("item_id", [*HOSTILE, "ü-1", "日本", "क्ष", "a b", "\udcff.wav", "a.", "%41"])
def test_a_file_name_is_one_part_of_a_path(tmp_path, item_id):
    path = tmp_path / names.file_name(item_id, ".npy")
    path.write_bytes(b"")
    assert path.parent.resolve() == tmp_path.resolve() == path.resolve().parent and path.suffix == ".npy"


@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=5, unique=True))
def test_other_ids_have_other_names_that_fit_everywhere(ids):
    found = [names.file_name(item_id) for item_id in ids]
    assert len(set(found)) == len(ids)
    assert all(len(name.encode()) <= 255 and Path(name).name == name for name in found)


def test_innocent_ids_keep_their_names():
    for item_id in ("1089-134686-0000", "as-Y_x-30.000", "señor 7", "क्षत्रिय", "日本語"):
        assert names.file_name(item_id, ".npy") == item_id + ".npy" and names.id_problem(item_id) == ""


def test_what_cannot_be_an_id_is_said_in_words():
    assert [bool(names.id_problem(item_id)) for item_id in HOSTILE] == [True] * 9 + [False, False, True]
    assert names.id_problem("") and names.id_problem(7) and names.id_problem("\udcff") and names.id_problem("a\x85b")
    assert names.id_problem("a/b", separators="\\") == "" and names.id_problem("a/../b", separators="\\")
    with pytest.raises(DataError, match="empty id"):
        names.file_name("")
