"""The training loop is small and knows no objective by name; what surrounds it knows the interface alone."""

import ast
import re

import repository

from spear.train.objectives import names

MAX_LOOP_LINES = 400
TRAIN = repository.PACKAGE / "train"


def test_the_training_loop_is_small():
    assert len((TRAIN / "loop.py").read_text().splitlines()) <= MAX_LOOP_LINES


def test_the_training_loop_names_no_objective():
    words = {*names(), "token", "codebook", "codes", "mvq"}
    text = (TRAIN / "loop.py").read_text().lower()
    assert not [word for word in words if re.search(rf"\b{word}\b", text)]


def test_only_the_registry_imports_the_files_of_objectives():
    wrong = []
    for path in repository.python_files("spear"):
        if path.is_relative_to(TRAIN / "objectives"):
            continue
        known = {f"spear.train.objectives.{name}" for name in ("base", "registry")}
        inner = {module for module in repository.imports(path) if module.startswith("spear.train.objectives.")}
        inner -= known | {module for module in inner if module.split(".")[-1][:1].isupper()}
        inner -= {f"spear.train.objectives.{name}" for name in ("load", "names")}
        wrong += [f"{repository.name(path)} imports {module}" for module in inner]
    assert not wrong, "\n".join(wrong)


def test_the_trainer_compares_no_names_of_objectives():
    wrong = []
    for path in sorted(TRAIN.glob("*.py")):
        strings = {
            node.value
            for node in ast.walk(repository.tree(path))
            if isinstance(node, ast.Constant) and node.value in names()
        }
        allowed = {"tokens"} if path.name == "config.py" else set()  # what a stream is when it says nothing
        wrong += [f"{repository.name(path)}: '{name}'" for name in strings - allowed]
    assert not wrong, "\n".join(wrong)
