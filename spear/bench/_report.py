"""What every benchmark reports beside its numbers, and how its tables look."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import field

from spear import env, fs


def setting(default, text: str):
    """A field of a benchmark's settings with what --help says about it."""
    return field(default=default, metadata={"help": text})


def environment() -> dict:
    """Command, commit, hardware, threads, and the load of the machine (numbers of a shared machine are worth less)."""
    import torch

    words = ["spear", *sys.argv[1:]]
    return {
        "command": shlex.join(words),
        "commit": env.git_commit(),
        "hardware": env.describe_hardware(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def tell(text: str, facts: dict, output: str) -> None:
    """Prints a text and the facts of `environment` below it; writes them too, where there is a name of a file."""
    text += "\n\n" + "\n".join(f"- {name.replace('_', ' ')}: `{value}`" for name, value in facts.items()) + "\n"
    print(text)
    if output:
        fs.write_text(output, text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table; numbers to the right."""
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = [header, ["--:" if right else "---" for right in numeric], *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(cell) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else "-" if cell is None else str(cell)
