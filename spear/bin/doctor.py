"""`spear doctor`: versions, devices, disk, and the first thing to repair, in under two seconds."""

import argparse
import sys

from spear import env


def main(argv: list[str] | None = None) -> int:
    """Prints what it finds; the exit code is 1 when something stops a run."""
    parser = argparse.ArgumentParser(prog="spear doctor", description=__doc__)
    parser.add_argument("--directory", default=".", help="where data and experiments will go, for the free disk")
    parser.add_argument("--brief", action="store_true", help="only devices, disk and what is wrong")
    arguments = parser.parse_args(argv)
    found = env.doctor(arguments.directory)
    brief = ("python", "torch", "cpu", "gpu", "memory", "free disk")
    for name, value in found.facts:
        if not arguments.brief or name in brief:
            print(f"  {name:24} {value}")
    for wrong, remedy in found.problems + found.notes:
        print(f"  {'PROBLEM' if (wrong, remedy) in found.problems else 'note':24} {wrong}; to fix: {remedy}")
    if found.problems:
        print(f"first thing to fix: {found.problems[0][1]}")
    else:
        print("nothing to fix")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
