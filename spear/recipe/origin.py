"""Which files of a recipe are spear's own: what this version ships, and what its `recipe new` would write."""

import functools
import hashlib
import os
import re
import subprocess
from pathlib import Path

import spear
from spear import fs, records
from spear.errors import SpearError
from spear.recipe.inventory import Entry, Inventory
from spear.recipe.templates import FACTS, Facts, render

ROOT = Path(spear.__file__).resolve().parents[1]
_STATED = re.compile(r"\(spear ([\w.+-]{1,40})\)", re.ASCII)


class Origin:
    """What a recipe says about where it comes from, and the files that this spear has to compare with.

    Attributes:
        version: of spear that the recipe states; empty when it states none.
        facts: of `recipe.json`; None without one.
        problem: why `recipe.json` cannot be used; empty when it can.
    """

    def __init__(self, inventory: Inventory):
        self.inventory = inventory
        self.facts, self.problem, self.version = None, "", ""
        facts, readme = inventory.file(FACTS), inventory.file("README.md")
        if facts and facts.names > 1:
            self.problem = "not read: the file has other names (hard links), and may be somebody else's"
        elif facts:
            try:
                text = (inventory.read(facts, 1 << 16) or b"").decode()
                self.facts = records.convert(fs.parse_json(text, FACTS), Facts, FACTS)
                self.version = self.facts.spear_version
            except (SpearError, ValueError) as error:
                self.problem = getattr(error, "found", str(error))
        elif (
            readme
            and readme.names == 1
            and (stated := _STATED.search((inventory.read(readme) or b"").decode(errors="replace")))
        ):
            self.version = stated[1]
        self.written = render(self.facts) if self.facts else {}

    def difference(self, entry: Entry) -> str:
        """How a file differs from spear's; empty when it is spear's own."""
        data = self.inventory.read(entry)
        if entry.name in self.written:
            wanted = self.written[entry.name].encode()
            return "" if data == wanted else f"differs from what `recipe new` writes{_where(data, wanted)}"
        if entry.parts[0] == "shared":
            ours = shared_files().get("/".join(entry.parts[1:]))
            if ours is None:
                return "no file of spear's shared/"
            return "" if data == ours else f"differs from spear's own{_where(data, ours)}"
        name = entry.parts[-1]
        if data is not None and _blob(data) in shipped().get(name, ()):
            return ""
        return f"differs from every {name} of spear's recipes" if name in shipped() else "no file of spear's"


def _where(data: bytes | None, wanted: bytes) -> str:
    if data is None:
        return ""
    pairs = zip(data.split(b"\n"), wanted.split(b"\n"))
    line = next((number for number, (one, other) in enumerate(pairs, 1) if one != other), None)
    return f", from line {line} on" if line else f" ({data.count(10) - wanted.count(10):+d} lines)"


@functools.cache
def shared_files() -> dict[str, bytes]:
    """The content of this spear's shared/, by path below it; empty when it was installed without a checkout."""
    folder = ROOT / "shared"
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@functools.cache
def shipped() -> dict[str, frozenset[str]]:
    """Digests of the files of spear's own recipes, by file name.

    They are those that git has committed, as recipes of others may have been unpacked into egs/.
    """
    command = ["git", "-C", str(ROOT), "ls-tree", "-r", "-z", "HEAD", "egs"]
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    found: dict[str, set[str]] = {}
    try:
        done = subprocess.run(command, capture_output=True, timeout=5, env=surroundings)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    for line in filter(None, done.stdout.decode(errors="replace").split("\0")):
        about, _, path = line.partition("\t")
        found.setdefault(path.rpartition("/")[2], set()).add(about.split()[2])
    return {name: frozenset(digests) for name, digests in found.items()}


def _blob(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
