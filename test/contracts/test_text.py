"""What files of the repository may not contain, and what public names must have."""

import ast
import collections
import itertools
import re

import repository

MAX_SHARED_LINES = 40
# Put together from pieces, so that this file does not contain them itself.
HOME = re.compile(r"(?<![\w.])/(?:" + "home|Users|" + "root|work" + r")/[\w.-]+|[A-Z]:\\Users")
HOST = re.compile(
    "|".join([r"py" + r"pi\.org", "files.python" + "hosted", "huggingface" + r"\.co\b", "download.py" + "torch"])
)
TEXT = {".py", ".sh", ".md", ".txt", ".toml", ".yaml", ".yml", ".cfg", ".json", ".tsv", ""}


def test_no_home_directories_or_package_registries():
    wrong = []
    for path in repository.tracked():
        if path.suffix not in TEXT or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if HOME.search(line) or HOST.search(line):
                wrong.append(f"{repository.name(path)}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def test_no_file_that_collects_what_has_no_home():
    names = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py", "utils.sh"}
    assert not [repository.name(path) for path in repository.tracked() if path.name in names]


def test_test_files_have_different_names():
    # pytest imports them by their base name.
    names = collections.Counter(p.name for p in repository.python_files("test") if p.name.startswith("test_"))
    assert not [name for name, count in names.items() if count > 1]


def test_scripts_of_recipes_are_not_copies():
    contents = {
        path: {line.strip() for line in path.read_text().splitlines() if line.strip()}
        for path in repository.python_files("egs", "local")
    }
    for one, other in itertools.combinations(contents, 2):
        shared = contents[one] & contents[other]
        assert len(shared) <= MAX_SHARED_LINES, f"{repository.name(one)} and {repository.name(other)}"


def test_public_names_have_docstrings():
    wrong = []
    for path in repository.python_files("spear", "egs", "local"):
        module = repository.tree(path)
        if not ast.get_docstring(module):
            wrong.append(repository.name(path))
        for node in _public(module):
            if not ast.get_docstring(node):
                wrong.append(f"{repository.name(path)}:{node.lineno} {node.name}")
    assert not wrong, "\n".join(wrong)


def _public(node: ast.AST):
    """Public classes and functions of a module, and public methods of its public classes, without overrides."""
    inherited = {"forward", "backward", "setup_context", "step", "load_state_dict", "state_dict", "extra_repr"}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            if isinstance(node, ast.ClassDef) and child.name in inherited:
                continue
            yield child
            if isinstance(child, ast.ClassDef):
                yield from _public(child)


def test_shell_scripts_say_what_they_do():
    for path in repository.tracked():
        if path.suffix == ".sh":
            first = [line for line in path.read_text().splitlines() if not line.startswith("#!")][0]
            assert first.startswith("# "), repository.name(path)
            assert path.parent.name in ("shared", "local") or "set -euo pipefail" in path.read_text()
