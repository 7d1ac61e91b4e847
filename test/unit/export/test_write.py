"""Where an export lands: whole or not at all, and nothing of others is touched."""

import pytest

from spear.bin.export import main
from spear.errors import ConfigError
from spear.export import write as writing


@pytest.fixture
def files(monkeypatch):
    """A format that writes one file."""

    def write_one(source, directory, licence=""):
        (directory / "model").write_text("weights")
        return ["checked"]

    monkeypatch.setitem(writing.WRITERS, "one", write_one)


def test_an_export_into_the_current_folder_leaves_it_where_it_is(files, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = folder.stat().st_ino
    assert writing.write(None, writing.Path("."), "one") == ["checked"]
    assert folder.stat().st_ino == before and (folder / "model").read_text() == "weights"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_removes_no_folder_of_another(files, tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "theirs").write_text("kept")
    writing.write(None, tmp_path / "out", "one")
    assert (tmp_path / ".out.tmp" / "theirs").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.tmp", "out"]


@pytest.mark.parametrize("flags", [["--precision", "int8"], ["--input", "audio"], ["--hidden-states"]])
def test_flags_of_onnx_are_refused_where_nobody_reads_them(tmp_path, flags):
    with pytest.raises(ConfigError, match="--format hf"):
        main(["nowhere", "--format", "hf", "--output", str(tmp_path / "out"), *flags])
