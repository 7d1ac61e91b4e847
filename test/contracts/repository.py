"""What the contract tests look at: tracked files, modules and their imports."""

import ast
import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "spear"
RECIPES = sorted(path for path in ROOT.glob("egs/*/*") if path.is_dir())


@functools.cache
def tracked() -> list[Path]:
    """Files of the repository: those git tracks or would track; everything outside build folders without git."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        paths = [ROOT / line for line in done.stdout.splitlines()]
    else:
        skipped = {".git", ".venv", "__pycache__", "data", "exp", "build", "dist"}
        paths = [path for path in ROOT.rglob("*") if not skipped & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def python_files(*folders: str) -> list[Path]:
    """Tracked Python files below folders of the repository."""
    return [p for p in tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere in it, for `from a import b` both a and a.b."""
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def name(path: Path) -> str:
    """A file's place in the repository, for messages."""
    return str(path.relative_to(ROOT))
