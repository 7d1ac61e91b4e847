"""`spear bench`: measures the speed of a part, beside its peers where they are installed.

spear bench                     lists the benchmarks
spear bench quantize --help     lists the settings of one
"""

import difflib
import importlib
import sys
from pathlib import Path

import spear.bench
from spear.bin.main import summaries
from spear.errors import ConfigError

_SUCCESSORS = {"superb": "evaluate"}


def benchmarks() -> dict[str, str]:
    """The benchmarks, each with the first paragraph of its module's docstring; nothing is imported."""
    return summaries(Path(spear.bench.__file__).parent)


def main(argv: list[str] | None = None) -> int:
    """Runs `spear.bench.<NAME>.main` with the remaining arguments.

    Raises:
        ConfigError: no benchmark of that name.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    known = benchmarks()
    if not argv or argv[0] in ("--help", "-h"):
        width = max(map(len, known), default=0)
        lines = [__doc__.strip(), "", "benchmarks:", *(f"  {name:{width}}  {text}" for name, text in known.items())]
        print("\n".join(lines))
        return 0
    name = argv[0].replace("_", "-")
    if name not in known:
        near = [_SUCCESSORS[name]] if name in _SUCCESSORS else difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ConfigError(
            f"the benchmark '{argv[0]}'",
            f"one of {', '.join(known)}",
            f"use 'spear bench {near[0]}'" if near else "spear bench --help says what each measures",
        )
    return importlib.import_module(f"spear.bench.{name.replace('-', '_')}").main(argv[1:])
