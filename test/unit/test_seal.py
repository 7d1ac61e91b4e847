"""A byte of a sealed file that is another one is noticed."""

import json

import pytest

from spear import seal
from spear.errors import DataError

VALUES = {"step": 7, "name": "ä \u2028", "files": {"a.bin": "0" * 64}, "loss": 0.1, "deep": [{"x": None}]}


def test_what_is_sealed_is_read_back_without_the_seal(tmp_path):
    seal.write_json(tmp_path / "a.json", VALUES)
    assert seal.read_json(tmp_path / "a.json") == VALUES and seal.KEY in json.loads((tmp_path / "a.json").read_text())
    seal.write_json(tmp_path / "b.json", dict(reversed(VALUES.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    seal.write_json(path, VALUES, indent=None)
    data = path.read_bytes()
    silent = []
    for place in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                seal.read_json(path)
            except DataError as error:
                assert str(path) in error.found
            else:
                silent.append((place, bit))
    assert not silent


def test_a_file_without_a_seal_is_read_with_a_note(tmp_path, caplog):
    (tmp_path / "old.json").write_text('{"a": 1}')
    with caplog.at_level("INFO"):
        assert seal.read_json(tmp_path / "old.json") == {"a": 1}
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DataError, match=r"list.json holds a JSON list"):
        seal.read_json(tmp_path / "list.json")


def test_listed_files_are_compared_and_never_sought_outside(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    files = seal.digests(tmp_path, ["a.bin"])
    seal.check_files(tmp_path, files)
    (tmp_path / "a.bin").write_bytes(b"abd")
    with pytest.raises(DataError, match="a.bin is truncated or altered"):
        seal.check_files(tmp_path, files)
    for name in ("../a.bin", "/etc/passwd", ""):
        with pytest.raises(DataError, match="a file named"):
            seal.check_files(tmp_path, {name: "0" * 64})


def test_sealed_values_of_others_are_refused_when_writing(tmp_path):
    with pytest.raises(ValueError, match="sealed values of others"):
        seal.write_json(tmp_path / "a.json", {"card": {seal.KEY: "ab"}})
