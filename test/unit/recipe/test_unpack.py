"""Archives from people who mean harm, each refused by the name of what is wrong in it, with nothing left behind."""

import gzip
import hashlib
import io
import os
import tarfile
import zipfile

import pytest

from spear import seal
from spear.errors import DataError
from spear.recipe import unpack_recipe, verify_recipe
from spear.recipe.archive import FORMAT, MANIFEST

GOOD = {"README.md": b"hello\n", "conf/a.yaml": b"seed: 1\n"}


def listed(files):
    rows = [{"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files]
    return {"format": FORMAT, "spear_version": "1", "commit": "", "audio": [], "files": rows}


def packed(tmp_path, members, manifest=None, head=None):
    """An uncompressed archive with any members, as (name or header, content), and any list."""
    pairs = [(member.name if isinstance(member, tarfile.TarInfo) else member, data) for member, data in members]
    seal.write_json(tmp_path / "list", listed(pairs) if manifest is None else manifest)
    buffer, text = io.BytesIO(), (tmp_path / "list").read_bytes()
    (tmp_path / "list").unlink()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member, data in [(MANIFEST, text) if head is None else head, *members]:
            header = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            header.size = header.size or len(data)
            tar.fileobj.write(header.tobuf(tarfile.GNU_FORMAT))
            tar.fileobj.write(data + bytes(-len(data) % 512))
    return buffer.getvalue()


def member(name, type_=tarfile.REGTYPE, link="", **more):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = type_, link
    for key, value in more.items():
        setattr(header, key, value)
    return header


def named(name):
    return lambda t: packed(t, [(name, b"x\n"), *GOOD.items()])


def with_member(*arguments, **more):
    """A member of another kind in the place of README.md."""
    return lambda t: packed(t, [(member(*arguments, **more), b""), *GOOD.items()], listed(GOOD.items()))


def changed(old, new):
    return lambda t: packed(t, list(GOOD.items())).replace(old, new)


def a_bomb(tmp_path):
    zeros = bytes(64 << 20)
    return gzip.compress(packed(tmp_path, [("zeros.txt", zeros)]), 9)


def a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as file:
        file.writestr("README.md", "x" * 1000)
    data = (tmp_path / "z").read_bytes()
    (tmp_path / "z").unlink()
    return data


def a_list_of(tmp_path, files, **more):
    return packed(tmp_path, list(GOOD.items()), listed(GOOD.items()) | {"files": files} | more)


def huge(name="zeros.txt"):
    return {"name": name, "size_bytes": 10**13, "sha256": "0" * 64}


TWICE = [("a.txt", b"1"), ("a.txt", b"1")]
HOSTILE = {
    "traversal": (named("../evil"), r"\.\./evil: a path that leaves"),
    "traversal inside": (named("conf/../../evil"), r"evil: a path that leaves"),
    "an absolute name": (named("/" + "tmp/evil"), r"evil: an absolute path"),
    "a drive": (named("C:evil"), "C:evil: an absolute path"),
    "backslashes": (named("..\\evil"), "an absolute path, or one of Windows"),
    "a hook of git": (named(".git/hooks/post-checkout"), "post-checkout: a hidden"),
    "an escape sequence": (named("a\x1b[2Kb"), "unprintable"),
    "a device of Windows": (named("conf/CON.txt"), "the name of a device"),
    "the list in itself": (named(MANIFEST), "a name that comes twice"),
    "a duplicate in the list": (lambda t: packed(t, TWICE), "a.txt: a name that comes twice"),
    "a duplicate in the archive": (lambda t: packed(t, TWICE, listed(TWICE[:1])), "a.txt: a name that comes twice"),
    "a duplicate but for case": (lambda t: packed(t, [("a.txt", b""), ("A.TXT", b"")]), "A.TXT: a name that"),
    "a file and a folder": (lambda t: packed(t, [("a", b"x"), ("a/b", b"x")]), "both a file and a folder"),
    "a link": (with_member("README.md", tarfile.SYMTYPE, "conf"), "README.md: a link"),
    "an absolute link": (with_member("README.md", tarfile.SYMTYPE, "/" + "etc/passwd"), "README.md: a link"),
    "a hard link": (with_member("README.md", tarfile.LNKTYPE, "../x"), "README.md: a link"),
    "a device": (with_member("README.md", tarfile.CHRTYPE, devmajor=1, devminor=5), "README.md: a device"),
    "a disk": (with_member("README.md", tarfile.BLKTYPE, devmajor=8), "README.md: a device"),
    "a pipe": (with_member("README.md", tarfile.FIFOTYPE), "README.md: a pipe"),
    "a folder": (with_member("conf", tarfile.DIRTYPE, mode=0), "conf: a folder"),
    "setuid": (with_member("README.md", mode=0o4755), "README.md: rights of another user"),
    "a 10 GB header": (with_member("././@PaxHeader", tarfile.XHDTYPE, size=10**10), "an extended header"),
    "a 10 GB name": (with_member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=10**10), "an extended header"),
    "a file with holes": (with_member("README.md", tarfile.GNUTYPE_SPARSE), "README.md: a file with holes"),
    "a 10 GB list": (lambda t: packed(t, [], head=(member(MANIFEST, size=10**10), b"")), "10.0 GB, a giant header"),
    "a bomb": (a_bomb, "a bomb"),
    "a declared petabyte": (lambda t: a_list_of(t, [huge()]), "over the limit"),
    "more than declared": (lambda t: packed(t, [("a", b"xx")], listed([("a", b"x")])), "a: 2 bytes, 1 in"),
    "a negative size": (with_member("README.md", size=-512), "README.md: -512 bytes"),
    "a bad hash": (changed(b"hello", b"hullo"), "README.md: another content"),
    "a list that was changed": (changed(b'"spear_version": "1"', b'"spear_version": "2"'), "PACK.json: .*seal"),
    "a bad header": (changed(b"README.md\0", b"README.mb\0"), "a damaged header"),
    "not in the list": (lambda t: packed(t, list(GOOD.items()), listed([])), "README.md: not in PACK.json"),
    "missing": (lambda t: packed(t, [], listed(GOOD.items())), "README.md: missing"),
    "no list": (lambda t: packed(t, [], head=("README.md", b"x")), "README.md: first, where PACK.json should be"),
    "a list of nothing": (lambda t: packed(t, [], head=(MANIFEST, b"[" * 100_000)), "nested too deeply|not valid JSON"),
    "another format": (lambda t: a_list_of(t, [], format="other"), "PACK.json: .*format"),
    "sizes below nothing": (lambda t: a_list_of(t, [huge() | {"size_bytes": -1}]), "PACK.json: .*size_bytes"),
    "cut off": (lambda t: packed(t, list(GOOD.items()))[:-11_000], "cut off|damaged"),
    "cut off in a file": (lambda t: packed(t, list(GOOD.items()))[:2600], "cut off"),
    "cut off and compressed": (lambda t: gzip.compress(packed(t, list(GOOD.items())))[:-30], "cut off or damaged"),
    "a damaged gzip": (lambda t: gzip.compress(packed(t, list(GOOD.items())))[:-8] + bytes(8), "cut off or damaged"),
    "a second archive after its end": (lambda t: packed(t, list(GOOD.items())) * 2, "the end: more"),
    "zeros without end": (lambda t: gzip.compress(packed(t, list(GOOD.items())) + bytes(1 << 25)), "the end: more"),
    "a zip": (a_zip, "a damaged header"),
    "nothing": (lambda t: b"", "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused_by_name_and_leave_nothing(what, tmp_path):
    make, message = HOSTILE[what]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    archive = tmp_path / "received.tar"
    archive.write_bytes(make(scratch))
    (tmp_path / "lab").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        unpack_recipe(archive, tmp_path / "lab" / "theirs")
    assert "received.tar" in caught.value.found and caught.value.found.isprintable()
    assert not list((tmp_path / "lab").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab", "received.tar", "scratch"]


def test_verify_names_what_is_wrong_with_an_archive(tmp_path):
    (tmp_path / "a.tar").write_bytes(with_member("README.md", tarfile.SYMTYPE, "conf")(tmp_path))
    (finding,) = verify_recipe(tmp_path / "a.tar")
    assert finding.kind == "problem" and "README.md: a link" in finding.what


def test_the_others_are_unpacked_whole_into_an_empty_folder_too(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(packed(tmp_path, list(GOOD.items())))
    (tmp_path / "b.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for archive, place in ((tmp_path / "a.tar", tmp_path / "new"), (tmp_path / "b.tar", ".")):
        assert [file.name for file in unpack_recipe(archive, place).files] == list(GOOD)
    for place in (tmp_path / "new", tmp_path / "here"):
        found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert found.pop(MANIFEST) and found == GOOD
        assert not [path for path in place.rglob("*") if path.is_file() and os.access(path, os.X_OK)]


def test_the_limit_is_the_users(tmp_path):
    (tmp_path / "a.tar").write_bytes(packed(tmp_path, list(GOOD.items())))
    with pytest.raises(DataError, match="over the limit of 1e-09 GB"):
        unpack_recipe(tmp_path / "a.tar", tmp_path / "a", max_gigabytes=1e-9)
    assert not (tmp_path / "a").exists()
