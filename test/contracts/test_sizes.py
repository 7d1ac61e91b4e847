"""The budget: small files, small functions, thin recipes."""

import ast

import pytest
import repository

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MAX_RECIPE_SCRIPT_LINES = 60
MAX_PREPARE_LINES = 120
MAX_RECIPE_PYTHON_LINES = 300
MAX_RECIPE_RATIO = 0.15


def lines(path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_are_small():
    sizes = {repository.name(p): lines(p) for p in repository.python_files("spear", "egs", "local", "test")}
    assert not {name: size for name, size in sizes.items() if size > MAX_FILE_LINES}


def test_functions_are_small():
    wrong = []
    for path in repository.python_files("spear", "egs", "local"):
        for node in ast.walk(repository.tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = node.end_lineno - node.lineno + 1
                if size > MAX_FUNCTION_LINES:
                    wrong.append(f"{repository.name(path)}: {node.name} has {size} lines")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("recipe", repository.RECIPES, ids=repository.name)
def test_recipes_are_thin(recipe):
    files = [path for path in repository.tracked() if recipe in path.parents]
    scripts = {p: lines(p) for p in files if p.suffix == ".py"}
    assert all(n <= MAX_RECIPE_SCRIPT_LINES for p, n in scripts.items() if p.name.startswith(("train", "decode_")))
    assert sum(scripts.values()) <= MAX_RECIPE_PYTHON_LINES
    assert lines(recipe / "prepare.sh") <= MAX_PREPARE_LINES


def test_recipes_are_small_beside_the_library():
    library = sum(lines(path) for path in repository.python_files("spear"))
    assert sum(lines(path) for path in repository.python_files("egs")) < MAX_RECIPE_RATIO * library


@pytest.mark.parametrize("recipe", repository.RECIPES, ids=repository.name)
def test_links_stay_in_the_recipe_but_for_shared(recipe):
    for path in recipe.rglob("*"):
        if path.is_symlink() and path != recipe / "shared" and not {"data", "exp"} & set(_folders(path, recipe)):
            assert recipe in path.resolve().parents, f"{path} leaves the recipe"
    assert (recipe / "shared").resolve() == repository.ROOT / "shared"


def _folders(path, recipe) -> set[str]:
    return {folder.split("_")[0] for folder in path.relative_to(recipe).parts}
