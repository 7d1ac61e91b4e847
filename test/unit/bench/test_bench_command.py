"""`spear bench`: finds its benchmarks by their files and refuses what it does not know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spear.bench
from spear.bench._report import environment, markdown_table
from spear.bin.bench import benchmarks, main
from spear.errors import ConfigError


def test_unknown_benchmarks_are_refused():
    with pytest.raises(ConfigError, match="no-such"):
        main(["no-such"])


def test_every_benchmark_has_a_summary_a_config_and_answers_help(tmp_path):
    for name, summary in benchmarks().items():
        assert len(summary) > 20, name
        tree = ast.parse((Path(spear.bench.__file__).parent / f"{name.replace('-', '_')}.py").read_text())
        assert any(isinstance(node, ast.ClassDef) and node.decorator_list for node in tree.body), name
        words = [sys.executable, "-m", "spear.bin.main", "bench", name]
        done = subprocess.run([*words, "--help"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and len(done.stdout.splitlines()) > 3, done.stderr
        wrong = subprocess.run([*words, "--no-such-flag=1"], capture_output=True, text=True, cwd=tmp_path)
        assert wrong.returncode != 0 and "no-such-flag" in wrong.stderr.replace("_", "-"), wrong.stderr


def test_the_environment_names_commit_hardware_and_threads():
    found = environment()
    assert found["threads"] >= 1 and "torch" in found["hardware"] and found["commit"]


def test_tables_are_markdown():
    table = markdown_table(["what", "vectors/s"], [["ours", 12345.6], ["theirs", 7]])
    assert table.splitlines() == ["| what | vectors/s |", "| --- | --: |", "| ours | 12,346 |", "| theirs | 7 |"]
