"""Tests that can run do run: what they import is required, golden numbers are here, and the rest is told by kind."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import repository

TEST = repository.ROOT / "test"


def test_packages_that_tests_ask_for_are_required():
    listed = "".join(
        path.read_text(encoding="utf-8")
        for path in [repository.ROOT / "requirements.txt", *sorted(TEST.glob("requirements*.txt"))]
    )
    required = {canonical(re.match(r"[\w.-]+", line)[0]) for line in listed.splitlines() if re.match(r"\w", line)}
    of_module = importlib.metadata.packages_distributions()
    absent = {}
    for path in sorted(set(TEST.rglob("test_*.py")) - {Path(__file__)}):
        for module in re.findall(r"importorskip\(\s*[\"']([\w.]+)", path.read_text(encoding="utf-8")):
            top = module.partition(".")[0]
            packages = {canonical(name) for name in of_module.get(top, [top])}
            indirect = {"scipy"}  # scikit-learn asks for it
            if not packages & (required | indirect):
                absent[module] = path.name
    assert not absent


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_compact_golden_set_is_part_of_the_repository_and_small():
    files = list((TEST / "golden" / "data").iterdir())
    assert {path.name.partition(".")[0] for path in files} == {"spear_uniform", "mvq", "scaled_adam", "transducer"}
    assert sum(path.stat().st_size for path in files) <= 2_000_000


def test_the_last_line_tells_skips_by_kind(tmp_path):
    shutil.copy(TEST / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_runs(): pass\n"
        "@pytest.mark.skipif(True, reason='torch sees no GPU')\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_a(n): pass\n"
        "def test_b(): pytest.skip('../shared/data/real-mini is not beside the checkout')\n"
        "def test_c(): pytest.importorskip('no_such_module')\n"
        "def test_d(): pytest.skip('of the moon')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    for more in ([], ["-n", "2"]):
        result = subprocess.run([*command, *more], capture_output=True, text=True, cwd=tmp_path)
        said = [line for line in result.stdout.splitlines() if line.startswith("skipped: ")]
        assert said == ["skipped: 2 for a GPU, 1 for a package, 1 for real recordings, 1 because: of the moon"], (
            result.stdout
        )
