"""What the machine refuses is said in three parts, and nothing half-written is left.

Reported as: tracebacks on full disks and on folders without the right to write; a home directory that is not there.
"""

import errno
import os
import subprocess
import sys

import miniatures
import pytest

from spear import fs
from spear.bin import manifests
from spear.bin.main import guard
from spear.errors import DataError, of_machine


def run(capsys, function):
    """Exit code and the three parts that were printed."""
    code = guard(lambda argv: function())
    text = capsys.readouterr().err
    assert code == 1 and "Traceback" not in text
    assert text.count("found:") == text.count("expected:") == text.count("to fix:") == 1
    return text


@pytest.fixture
def prepared(tmp_path):
    for name in ("a", "b"):
        miniatures.noise(tmp_path / f"raw/{name}.wav", 0.2)
    return lambda: manifests.main(
        ["--raw", str(tmp_path / "raw"), "--output", str(tmp_path / "data/manifests"), "--num-jobs", "1"]
    )


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and ".done" not in path.parts)


def test_a_full_disk_in_stage_1_leaves_no_half_of_it(tmp_path, prepared, capsys, monkeypatch):
    """The third file of stage 1 does not fit: none of the new ones appears, and the old ones stay as they were."""
    real, written = fs.write_jsonl, []

    def write(path, rows):
        written.append(path)
        if len(written) == 3:
            with fs.atomic(path) as temporary:
                temporary.write_text("half a li")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, rows)

    monkeypatch.setattr(fs, "write_jsonl", write)
    text = run(capsys, prepared)
    assert "no room to write" in text and "cuts_audio_train.jsonl" in text and ".tmp" not in text
    assert files(tmp_path / "data") == ["quarantine.jsonl"]
    monkeypatch.setattr(fs, "write_jsonl", real)
    assert prepared() == 0
    before = {path: path.read_bytes() for path in (tmp_path / "data/manifests").glob("[a-z]*.*")}
    miniatures.noise(tmp_path / "raw/c.wav", 0.2)
    written.clear()
    monkeypatch.setattr(fs, "write_jsonl", write)
    run(capsys, prepared)
    assert {path: path.read_bytes() for path in (tmp_path / "data/manifests").glob("[a-z]*.*")} == before


WRITERS = {
    "text": "fs.write_text(f'{out}/x.txt', 'x' * 100000)",
    "shard": "writer.add('a', np.zeros((100000, 4), np.uint8))",
    "shard whose last rows wait in a buffer": "writer.add('a', np.zeros((300, 4), np.uint8))",
    "safetensors": "save()",
}


@pytest.mark.parametrize("writer", WRITERS, ids=str)
def test_a_limit_of_file_sizes_is_met_by_a_real_process(tmp_path, writer):
    """A limit of the shell (ulimit -f) refuses the same writes as a full disk."""
    text = f"""
import resource, sys
import numpy as np
from safetensors.numpy import save_file
from spear import fs
from spear.bin.main import guard
from spear.shards import ShardWriter
out = sys.argv[1]
def save():
    with fs.atomic(f"{{out}}/x.safetensors") as temporary:
        save_file({{"a": np.zeros(100000)}}, temporary)
def work(argv):
    if {writer.startswith("shard")}:
        with ShardWriter(out, "x", np.uint8, 4) as writer:
            {WRITERS[writer]}
    else:
        {WRITERS[writer]}
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.exit(guard(work))
"""
    done = subprocess.run([sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "no room to write" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "x." in done.stderr.partition("expected:")[0] or writer == "safetensors"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.EIO])
def test_every_command_says_what_the_system_refused(capsys, number):
    def fail():
        raise OSError(number, os.strerror(number), "some/file")

    text = run(capsys, fail)
    assert os.strerror(number) in text and ("some/file" in text)
    assert ("no right" in text) == (number in (errno.EACCES, errno.EPERM, errno.EROFS))


def test_a_folder_without_the_right_to_write_is_named(tmp_path, capsys, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/somewhere/.quarantine.jsonl.xyz.tmp")

    monkeypatch.setattr(fs.tempfile, "mkstemp", refuse)
    text = run(capsys, lambda: fs.write_text(tmp_path / "quarantine.jsonl", "x"))
    assert "no right" in text and str(tmp_path / "quarantine.jsonl") in text and ".tmp" not in text


def test_errors_of_libraries_that_write_by_themselves():
    full = of_machine(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert "no room to write" in str(full)
    assert of_machine(RuntimeError("something else")) is None and of_machine(DataError("a", "b", "c")) is None


def test_a_folder_in_place_of_a_file_and_the_other_way_round(tmp_path, prepared, capsys):
    (tmp_path / "data").write_text("a file")
    assert "data" in run(capsys, prepared)


def test_names_that_are_not_utf8_are_printed_with_escapes(capfd):
    def say():
        print(os.fsdecode(b"caf\xe9.wav"))

    assert guard(lambda argv: say()) == 0
    assert "caf\\udce9.wav" in capfd.readouterr().out


def test_without_a_home_directory(tmp_path):
    """HOME is unset and the user has no entry, as in many containers."""
    miniatures.noise(tmp_path / "raw/a.wav", 0.2)
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
    text = (
        "import pwd, sys\n"
        "def nobody(number): raise KeyError(number)\n"
        "pwd.getpwuid = nobody\n"
        "from spear.bin.main import main\n"
        "sys.exit(main('manifests --raw raw --output data/manifests --num-jobs 1'.split())"
        " or main(['train', '--print-config']))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/manifests/summary.json").exists()
