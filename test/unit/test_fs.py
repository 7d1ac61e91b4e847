"""Files are whole or absent."""

import gzip
import os
import stat

import numpy as np
import pytest

from spear import fs
from spear.errors import DataError


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    fs.write_text(path, "old")
    with pytest.raises(RuntimeError), fs.atomic(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent and temporary.suffix == path.suffix
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_what_a_killed_writer_left_is_not_found(tmp_path):
    with fs.atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("{")
        assert list(tmp_path.glob("*.json")) == [temporary] and fs.finished(tmp_path, "*.json") == []
    assert fs.finished(tmp_path, "*.json") == [tmp_path / "a.json"]


def test_files_get_the_usual_mode(tmp_path):
    fs.write_text(tmp_path / "ours", "x")
    (tmp_path / "usual").write_text("x")
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("ours", "usual")]
    assert modes[0] == modes[1]


def test_numpy_keeps_the_temporary_name(tmp_path):
    with fs.atomic(tmp_path / "a.npy") as temporary:
        np.save(temporary, np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]


def test_json_and_jsonl_name_what_is_wrong(tmp_path):
    fs.write_json(tmp_path / "a.json", {"b": 1, "a": "ü"})
    assert fs.read_json(tmp_path / "a.json") == {"a": "ü", "b": 1}
    assert fs.write_jsonl(tmp_path / "a.jsonl", [{"x": 1}, {"x": 2}]) == 2
    assert fs.read_jsonl(tmp_path / "a.jsonl") == [{"x": 1}, {"x": 2}]
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x"')
    with pytest.raises(DataError, match="line 2 of .*a.jsonl"):
        fs.read_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text("{")
    for read, name in [(fs.read_json, "a.json"), (fs.read_json, "no.json"), (fs.read_jsonl, "no.jsonl")]:
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


def test_hashes_depend_on_content_alone(tmp_path):
    assert fs.sha256_json({"a": 1, "b": 2}) == fs.sha256_json({"b": 2, "a": 1}) != fs.sha256_json({"a": 1, "b": 3})
    (tmp_path / "x").write_bytes(b"spear" * 1_000_000)
    assert fs.sha256_file(tmp_path / "x") == fs.sha256_bytes(b"spear" * 1_000_000)


def test_sizes():
    assert [fs.human_bytes(n) for n in (12, 1_234_567, 2.5e12)] == ["12 B", "1.2 MB", "2.5 TB"]
    assert fs.free_bytes("not/there/yet") > 0


def test_lines_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "text.tsv"
    path.write_bytes("\ufeffeins\u2028zwei\x85\x0b\x1c\r\ndrei\rvier\nfünf".encode())
    assert list(fs.iter_lines(path)) == [(1, "eins\u2028zwei\x85\x0b\x1c"), (2, "drei\rvier"), (3, "fünf")]


def test_gzip_is_known_by_content_and_damage_by_name(tmp_path):
    data = gzip.compress(b"a\nb\n" * 5000)
    for name, content in (("a.gz", b"a\nb\n"), ("b.txt", data)):
        (tmp_path / name).write_bytes(content)
        assert [line for _, line in fs.iter_lines(tmp_path / name)][:2] == ["a", "b"]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 64
    for content in (data[:-9], data[: len(data) // 2], bytes(flipped), data[:-8] + bytes(8)):
        (tmp_path / "c.gz").write_bytes(content)
        with pytest.raises(DataError, match="c.gz is a damaged gzip"):
            list(fs.iter_lines(tmp_path / "c.gz"))


def test_other_encodings_are_named_with_their_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a\n", encoding="utf-16")
    with pytest.raises(DataError, match="text.txt is text in UTF-16"):
        list(fs.iter_lines(path))
    path.write_bytes("gut\nschön\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"line 2 of .*text.txt is not UTF-8 \(byte 0xf6 at place 4\)"):
        list(fs.iter_lines(path))
    assert list(fs.iter_lines(path, escape=True))[1] == (2, "sch\udcf6n")


def test_json_of_file_names_that_are_not_utf8_can_be_written_and_read(tmp_path):
    fs.write_jsonl(tmp_path / "a.jsonl", [{"path": "\udcff.wav"}, {"path": "ü"}])
    assert fs.read_jsonl(tmp_path / "a.jsonl") == [{"path": "\udcff.wav"}, {"path": "ü"}]
    fs.write_json(tmp_path / "a.json", {"path": "\udcff.wav"})
    assert fs.read_json(tmp_path / "a.json") == {"path": "\udcff.wav"}
    assert len(fs.sha256_json({"path": "\udcff.wav"})) == 64


@pytest.mark.parametrize("text", ["[1]", "7", "null", '"a"'])
def test_a_line_that_is_json_but_no_object_is_named(tmp_path, text):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + text + "\n")
    with pytest.raises(DataError, match="line 2 of .*a.jsonl is JSON, but a"):
        fs.read_jsonl(tmp_path / "a.jsonl")
