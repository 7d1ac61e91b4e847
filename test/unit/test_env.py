"""What the program knows about its surroundings, and the dispatcher of commands."""

import subprocess
import sys
import time

import pytest
import torch

from spear import env, errors
from spear.bin import doctor
from spear.bin import main as dispatcher


def test_hardware_is_described_in_one_line():
    facts = env.hardware()
    assert facts["cores"] >= 1 and facts["memory_gb"] > 0.5 and facts["torch"] == torch.__version__
    line = env.describe_hardware()
    assert "\n" not in line and f"{facts['cores']} cores" in line and torch.__version__ in line
    assert isinstance(env.fast_bf16("cpu"), bool) and isinstance(env.fast_bf16(torch.device("cpu")), bool)


def test_versions_and_commit():
    versions = env.package_versions()
    assert versions["torch"].startswith(torch.__version__.split("+")[0]) and "spear" in versions
    assert not {"pytest", "k2", "distributed"} & set(versions)
    commit = env.git_commit()
    assert commit == "unknown" or len(commit.partition("-")[0]) == 12


def test_commit_of_a_foreign_repository_is_not_ours(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(env, "PACKAGE_DIR", tmp_path / "venv" / "spear")
    (tmp_path / "venv" / "spear").mkdir(parents=True)
    assert env.git_commit() == "unknown"


def test_the_commit_of_a_checkout_is_never_unknown(tmp_path, monkeypatch):
    """Not inside a hook of another repository, not without git, not in a worktree, not with packed references."""

    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *names, *map(str, words)], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    root, tree = tmp_path / "checkout", tmp_path / "tree"
    git("init", "-q", root)
    (root / "spear").mkdir()
    (root / "spear/a.py").write_text("1")
    git("-C", root, "add", ".")
    git("-C", root, "commit", "-q", "-m", "first")
    git("-C", root, "worktree", "add", "-q", tree)
    commit = git("-C", root, "rev-parse", "HEAD")[:12]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    for place in (root, tree):
        monkeypatch.setattr(env, "PACKAGE_DIR", place / "spear")
        assert env.git_commit() == commit
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(tmp_path))
            assert env.git_commit() == f"{commit}-unchecked"
    monkeypatch.delenv("GIT_DIR")
    git("-C", root, "pack-refs", "--all")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert env.git_commit() == f"{commit}-unchecked"
    (tree / "spear/a.py").write_text("2")
    monkeypatch.undo()
    monkeypatch.setattr(env, "PACKAGE_DIR", tree / "spear")
    assert env.git_commit() == f"{commit}-dirty"


def test_doctor_answers_in_two_seconds_and_names_the_first_thing_to_fix(tmp_path, capsys, monkeypatch):
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "spear.bin.doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert time.monotonic() - start < 2 and done.stdout.strip()
    assert "torch" in done.stdout and "free disk" in done.stdout
    monkeypatch.setattr(env, "required_packages", lambda: ["a-package-nobody-has"])
    monkeypatch.setattr(env, "MIN_FREE_DISK_BYTES", 1e18)
    assert doctor.main(["--directory", str(tmp_path / "not" / "there")]) == 1
    assert "first thing to fix: pip install a-package-nobody-has" in capsys.readouterr().out


def test_help_lists_every_command_without_importing_torch():
    code = (
        "import sys; from spear.bin.main import main; main(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'lhotse')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    for name, summary in dispatcher.commands().items():
        assert name in done.stdout and summary and summary in done.stdout
    assert "doctor" in dispatcher.commands()


def test_unknown_commands_get_the_nearest_one(capsys):
    assert dispatcher.main(["docter"]) == 2
    assert "did you mean 'spear doctor'?" in capsys.readouterr().err
    assert dispatcher.main(["--version"]) == 0


def test_mistakes_are_printed_without_a_traceback(capsys, monkeypatch):
    def wrong(argv):
        raise errors.DataError("a tooth", "a claw", "grow one")

    assert dispatcher.guard(wrong, []) == 1
    printed = capsys.readouterr().err
    assert "found: a tooth" in printed and "expected: a claw" in printed and "to fix: grow one" in printed
    assert "Traceback" not in printed
    monkeypatch.setenv("SPEAR_TRACEBACK", "1")
    with pytest.raises(errors.DataError):
        dispatcher.guard(wrong, [])
    assert dispatcher.guard(lambda argv: None) == 0


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(f"{sys.executable} -m spear.bin.main --help | head -1", shell=True, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
