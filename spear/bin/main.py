"""`spear <command> [flags]`: finds the command, runs it, and prints users' mistakes in three lines, not as a traceback.

Nothing heavy is imported before the command is known, so that `spear --help` answers at once.
"""

import ast
import difflib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import spear
from spear import env
from spear.errors import SpearError, of_machine

RETIRED = {"decode": "evaluate", "superb": "evaluate --suite superb", "report": "evaluate report"}
"""Commands that are no longer there, with what has taken their place."""

USAGE = "usage: spear <command> [--flag value ...]      spear <command> --help lists the flags"


def commands() -> dict[str, str]:
    """The commands, each with the first sentence of its module's docstring, read without importing the module."""
    found = summaries(Path(__file__).parent)
    return {name: text.removeprefix(f"`spear {name}`: ") for name, text in found.items() if name != "main"}


def summaries(folder: Path) -> dict[str, str]:
    """The modules of a folder, as names of commands, each with the first paragraph of its docstring."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem.replace("_", "-")] = " ".join(text.split("\n\n")[0].split())
    return found


def guard(function: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Runs a main function and returns its exit code; scripts of recipes end with ``sys.exit(guard(main))``.

    A `SpearError`, and what the operating system refuses, is printed in three parts and gives code 1; with
    SPEAR_TRACEBACK=1 it is raised. File names that are not UTF-8 are printed with escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    env.provide_home()
    try:
        code = function(argv) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        shown = error if isinstance(error, SpearError) else of_machine(error)
        if shown is None or os.environ.get("SPEAR_TRACEBACK") == "1":
            raise
        rank = f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""
        print(f"{rank}error\n  {shown}", file=sys.stderr)
        return 1


def main(argv: list[str] | None = None) -> int:
    """Dispatches to `spear.bin.<command>`."""
    return guard(_dispatch, argv)


def _dispatch(argv: list[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    known = commands()
    if not argv or argv[0] in ("--help", "-h", "help"):
        width = max(map(len, known))
        print("\n".join([spear.__doc__.strip(), "", USAGE, "", *(f"  {c:{width}}  {s}" for c, s in known.items())]))
        return 0
    if argv[0] == "--version":
        print(spear.__version__)
        return 0
    name = argv[0].replace("_", "-")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        print(
            f"error\n  found: the command '{argv[0]}'\n  expected: one of {', '.join(known)}\n  to fix: "
            + (
                f"use 'spear {RETIRED[name]}', which has taken its place"
                if name in RETIRED
                else f"did you mean 'spear {near[0]}'?"
                if near
                else "see spear --help"
            ),
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module(f"spear.bin.{name.replace('-', '_')}")
    return module.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
