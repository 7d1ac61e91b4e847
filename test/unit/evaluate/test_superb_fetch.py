"""Downloads from a server that works, one that is absent, and one that sends something else."""

import functools
import hashlib
import http.server
import tarfile
import threading

import pytest

from spear.errors import DataError
from spear.evaluate.corpora.fetch import ARCHIVES, LICENCES, Archive, fetch


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves files, and the rest of a file where asked."""

    asked: list[str] = []

    def do_GET(self):
        span = self.headers.get("Range")
        type(self).asked.append(f"{self.path} {span}")
        data = open(self.translate_path(self.path), "rb").read()
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """(address, archive path) of a tar with corpus/a.txt."""
    folder = tmp_path / "served"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus/a.txt").write_text("hello" * 1000)
    with tarfile.open(folder / "corpus.tar.gz", "w:gz") as tar:
        tar.add(folder / "corpus", "corpus")
    Ranged.asked = []
    handler = functools.partial(Ranged, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder / "corpus.tar.gz"
        httpd.shutdown()


def archive(path, *urls, checksum=""):
    checksum = checksum or "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
    return (Archive("corpus.tar.gz", urls, checksum, "corpus/a.txt"),)


def test_the_second_mirror_serves_and_a_second_call_does_nothing(server, tmp_path):
    address, path = server
    wanted = archive(path, "http://127.0.0.1:1/corpus.tar.gz", f"{address}/corpus.tar.gz")
    assert fetch("x", tmp_path / "raw", wanted) == ["corpus.tar.gz"]
    assert (tmp_path / "raw/corpus/a.txt").read_text() == "hello" * 1000
    assert fetch("x", tmp_path / "raw", wanted) == [] and len(Ranged.asked) == 1
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["corpus"]


def test_an_interrupted_download_continues(server, tmp_path):
    address, path = server
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/corpus.tar.gz.part").write_bytes(path.read_bytes()[:50])
    fetch("x", tmp_path / "raw", archive(path, f"{address}/corpus.tar.gz"))
    assert Ranged.asked == ["/corpus.tar.gz bytes=50-"] and (tmp_path / "raw/corpus/a.txt").exists()


def test_a_file_with_another_checksum_is_refused(server, tmp_path):
    address, path = server
    wanted = archive(path, f"{address}/corpus.tar.gz", checksum="md5:" + "0" * 32)
    with pytest.raises(DataError, match="another checksum"):
        fetch("x", tmp_path / "raw", wanted)
    assert not list((tmp_path / "raw").iterdir())


def test_an_archive_that_lies_there_is_checked_too(server, tmp_path):
    address, path = server
    (tmp_path / "raw").mkdir()
    lying = tmp_path / "raw/corpus.tar.gz"
    lying.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="raw/corpus.tar.gz of .*differs from its checksum"):
        fetch("x", tmp_path / "raw", archive(path, f"{address}/corpus.tar.gz"))
    assert lying.exists() and not (tmp_path / "raw/corpus").exists() and not Ranged.asked
    lying.write_bytes(path.read_bytes())
    assert fetch("x", tmp_path / "raw", archive(path)) == ["corpus.tar.gz"]
    assert (tmp_path / "raw/corpus/a.txt").exists() and not lying.exists()


def test_every_archive_has_mirrors_and_every_corpus_a_licence():
    assert set(ARCHIVES) == set(LICENCES)
    for archives in ARCHIVES.values():
        for entry in archives:
            assert len(entry.urls) >= 2 and all(url.startswith("https://") for url in entry.urls)
            kind, _, digest = entry.checksum.partition(":")
            assert len(digest) == {"md5": 32, "sha256": 64, "": 0}[kind]


@pytest.mark.parametrize("old_python", [False, True])
@pytest.mark.parametrize("kind", ["outside", "link"])
def test_no_member_of_an_archive_gets_outside(old_python, kind, tmp_path, monkeypatch):
    if old_python:  # 3.11.2, say
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    raw = tmp_path / "raw"
    raw.mkdir()
    member = tarfile.TarInfo("../evil.txt" if kind == "outside" else "corpus/a.txt")
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(raw / "corpus.tar.gz", "w:gz") as tar:
        tar.addfile(member)
    with pytest.raises((DataError, tarfile.TarError)):
        fetch("x", raw, archive(raw / "corpus.tar.gz"))
    assert not (tmp_path / "evil.txt").exists() and not (raw / "corpus/a.txt").is_symlink()


def test_an_old_python_unpacks_too(server, tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    address, path = server
    fetch("x", tmp_path / "raw", archive(path, f"{address}/corpus.tar.gz"))
    assert (tmp_path / "raw/corpus/a.txt").read_text() == "hello" * 1000
