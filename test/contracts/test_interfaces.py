"""The training loop is small and knows no objective by name; what surrounds it knows the interface alone."""

import ast
import re

import repository

from spear.models import encoders
from spear.train.objectives import names

MAX_LOOP_LINES = 400
TRAIN = repository.PACKAGE / "train"


def test_the_training_loop_is_small():
    assert len((TRAIN / "loop.py").read_text().splitlines()) <= MAX_LOOP_LINES


def test_the_training_loop_names_no_objective():
    text = (TRAIN / "loop.py").read_text().lower()
    of_its_own = {"features"}  # an ordinary word of the loop; that nothing compares names, another test looks at
    words = {*names(), "token", "codebook", "codes", "mvq"} - of_its_own
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
        compared = [node for node in ast.walk(repository.tree(path)) if isinstance(node, ast.Compare | ast.MatchValue)]
        for node in compared:
            constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            wrong += [f"{repository.name(path)}:{node.lineno}: '{name}'" for name in constants & set(names())]
    assert not wrong, "\n".join(wrong)


def test_the_trainer_names_no_encoder():
    words = re.compile("|".join(encoders.names()), re.IGNORECASE)
    # The configuration says which there are.
    assert not [
        path.name for path in TRAIN.rglob("*.py") if path.name != "config.py" and words.search(path.read_text())
    ]
