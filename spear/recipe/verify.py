"""`spear recipe verify`: what is wrong with a recipe that somebody else made, before any of it is run, and offline.

It is judged by its structure: whatever can be run and is not spear's own file, byte by byte, is listed, as is every
link. Lists of suspicious words find only what their author thought of; they point to lines here, and decide nothing.
"""

import ast
import os
import re
import subprocess
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import spear
from spear import fs
from spear.errors import SpearError
from spear.recipe.inventory import NO_TIME, Entry, Inventory, shown
from spear.recipe.origin import ROOT, Origin, shared_files
from spear.recipe.unpack import extract
from spear.recipe.verify_data import check_ready, check_settings
from spear.teachers import TeacherSpec, teacher_names

DEFAULT_SECONDS = 8.0
KINDS = ("problem", "code", "note")
_PARTS = ("README.md", "prepare.sh", "train.py", "conf", "shared")
_LISTED_IN_A_FOLDER = 20
_HARMLESS_OPTIONS = {"dtype", "frame_rate_hz", "window_seconds", "overlap_seconds"}
# In data/ and exp/ these are not opened: there may be millions.
_DATA = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".npy", ".json", ".jsonl", ".yaml", ".tsv", ".csv", ".txt"}
_DATA |= {".safetensors", ".gz", ".log", ".done", ".md"}
_HOME = re.compile(r"(?<![\w.$}])/(?:" + "home|Users|" + "root|scratch|mnt)" + r"/[\w.-]+")
_WORTH_READING = {
    r"\b(curl|wget|scp|rsync|ssh|aws|gsutil|nc|urllib|requests|socket)\b": "reaches the network",
    r"\bpip3? install\b": "installs software",
    r"\bsudo\b": "asks for the rights of the administrator",
    r"\brm\s+-\w*r|\brmtree\b": "deletes directories",
    r"\b(eval|exec)\b(?!\s*\))": "runs text as code",
    r"trust_remote_code\W+true": "runs code that comes with weights",
    r"\b(pickle|subprocess|os\.system|popen|ctypes|importlib|__import__)\b|torch\.load": "can run anything",
}


@dataclass(frozen=True)
class Finding:
    """One remark.

    Attributes:
        kind: `problem` (it cannot work, or is not what it says), `code` (can be run and is not spear's own: read it
            before you run anything) or `note`.
        where: file, with a line; what is not printable is escaped.
        what: in words.
    """

    kind: str
    where: str
    what: str


def verify_recipe(recipe: str | Path, max_seconds: float = DEFAULT_SECONDS) -> list[Finding]:
    """Looks at a recipe's files, its settings, and what has been prepared in it; runs nothing and follows no link.

    Lists: every file that is not spear's own, by comparison with what this version ships and what `recipe new` would
    have written; everything that can be run, in data/ and exp/ too; every link, pipe, socket and device; wrong syntax
    and settings; paths of somebody's home; and whether manifests, tokens, cards and quantizers fit one another. Only
    regular files of a bounded size are read. An archive of `pack_recipe` is unpacked into a temporary directory first;
    one that cannot be is a problem.

    Args:
        recipe: its directory, or an archive.
        max_seconds: of computing, after which it ends and says that it has not looked at everything.
    """
    if Path(recipe).is_file():
        try:
            with tempfile.TemporaryDirectory(prefix="spear-verify-") as folder:
                extract(Path(recipe), Path(folder))
                return verify_recipe(folder, max_seconds)
        except SpearError as error:
            return [Finding("problem", shown(str(recipe)), shown(error.found, 400))]
    if not Path(recipe).is_dir():
        return [Finding("problem", shown(str(recipe)), "no such directory")]
    return _Verification(Path(recipe), max_seconds).findings()


class _Verification:
    def __init__(self, recipe: Path, max_seconds: float):
        self.recipe = recipe
        self.inventory = Inventory(recipe, max_seconds)
        self.origin = Origin(self.inventory)
        self.found: list[Finding] = []
        self.own: set[str] = set()  # files that are spear's

    def add(self, kind: str, where: str, what: str) -> None:
        self.found.append(Finding(kind, shown(where), shown(what, 400)))

    def findings(self) -> list[Finding]:
        for name in _PARTS:
            if name not in self.inventory.entries:
                self.add("problem", name, "missing")
        self._origin()
        for entry in self.inventory.entries.values():
            if entry.type == "link":
                self._link(entry)
            elif entry.type == "file":
                self._file(entry)
            elif entry.type != "directory":
                self.add("problem", entry.name, f"{entry.type}, which no recipe needs")
            if self.inventory.late:
                self.inventory.leave(entry.name, f"what follows it was {NO_TIME}")
                break
        check_settings(self.inventory, self.add, self.own)
        check_ready(self.inventory, self.add)
        for name, why in self.inventory.unread:
            self.add("problem", name, why)
        return _condensed(self.found)

    def _origin(self) -> None:
        origin, here = self.origin, spear.__version__
        if origin.problem:
            self.add("problem", "recipe.json", origin.problem)
        if not shared_files():
            self.add("problem", "shared", "this spear has no shared/ to compare with; use one from a checkout")
        if not origin.version:
            self.add("note", ".", f"does not say which spear it was made with; compared with {here}")
        elif origin.version != here:
            self.add("note", ".", f"says it was made with spear {origin.version}; compared with {here}")
        if ".git" in self.inventory.entries:
            self.add("note", ".git", "a git repository, whose settings git obeys: clone it rather than take it over")
        if self.inventory.is_directory("shared"):
            for name in shared_files():
                if f"shared/{name}" not in self.inventory.entries:
                    self.add("problem", f"shared/{name}", "missing")
        if origin.facts and origin.facts.teacher:
            spec = TeacherSpec.parse(origin.facts.teacher)
            if set(spec.options) - _HARMLESS_OPTIONS or spec.name not in teacher_names():
                self.add("code", "recipe.json", f"the teacher {spec} may run code that comes with it")

    def _link(self, entry: Entry) -> None:
        path = self.recipe / entry.name
        try:
            inside = path.resolve().is_relative_to(self.recipe.resolve())
            there = path.exists()
            ours = there and os.path.samefile(path, ROOT / "shared")
        except (OSError, RuntimeError):
            inside = there = ours = False
        target = os.readlink(path)
        beside_code = _of_data(entry) and (len(entry.parts) == 1 or entry.parts[1] == "raw")
        if not there:
            self.add("problem", entry.name, "a link to nothing")
        elif entry.name == "shared" and not ours:
            self.add("problem", entry.name, "a link out of the recipe" if not inside else "a link, not spear's shared/")
        elif entry.name == "shared":
            self.add("note", entry.name, "a link to the shared/ of this spear")
        elif inside:
            self.add("note", entry.name, f"a link within the recipe, to {target}")
        elif beside_code:
            self.add("note", entry.name, f"a link out of the recipe, to {target}; what is there was not looked at")
        else:
            self.add("problem", entry.name, "a link out of the recipe")

    def _file(self, entry: Entry) -> None:
        of_data = _of_data(entry)
        suffix = PurePosixPath(entry.name).suffix.lower()
        if of_data and suffix in _DATA and not entry.mode & 0o111:
            return
        runnable = self.inventory.runnable(entry)
        if of_data:
            if runnable:
                self.add("note" if runnable == "a pickle" else "code", entry.name, f"{runnable} among the data")
            return
        difference = self.origin.difference(entry)
        if difference:
            kind = "problem" if entry.parts[0] == "shared" else "code" if runnable else "note"
            size = fs.human_bytes(entry.size_bytes)
            self.add(kind, entry.name, "; ".join(filter(None, [runnable, difference, size])))
        else:
            self.own.add(entry.name)
        if entry.names > 1:
            self.add("note", entry.name, f"a hard link: the file has {entry.names} names")
        data = self.inventory.read(entry)
        if data is not None and b"\0" not in data[:4096]:
            self._text(entry, data, suffix, bool(difference))

    def _text(self, entry: Entry, data: bytes, suffix: str, foreign: bool) -> None:
        if foreign and suffix == ".py":
            self._python(entry, data)
        if foreign and suffix == ".sh":
            self._shell(entry, data)
        quote = entry.names == 1  # else it may be a file of somebody else's, under another name
        for number, line in enumerate(data.decode(errors="replace").split("\n"), 1):
            where, text = f"{entry.name}:{number}", f": {line.strip()[:80]}" if quote else ""
            line = line[:2000]
            if _HOME.search(line):
                self.add("problem", where, f"a path of another machine{text}")
            if foreign and suffix != ".md" and not line.lstrip().startswith("#"):
                for pattern, why in _WORTH_READING.items():
                    if re.search(pattern, line, re.IGNORECASE):
                        self.add("note", where, f"{why}{text}")

    def _python(self, entry: Entry, data: bytes) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(data)
        except SyntaxError as error:
            self.add("problem", entry.name, f"line {error.lineno}: {error.msg}")
        except (ValueError, RecursionError, MemoryError) as error:
            self.add("problem", entry.name, f"not Python ({type(error).__name__})")

    def _shell(self, entry: Entry, data: bytes) -> None:
        try:  # -n: bash reads, and runs nothing
            done = subprocess.run(["bash", "--norc", "-n"], input=data, capture_output=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.add("note", entry.name, f"its syntax was not checked ({type(error).__name__})")
            return
        if done.returncode:
            self.add("problem", entry.name, (done.stderr.decode(errors="replace").splitlines() or ["wrong"])[0][-120:])


def _of_data(entry: Entry) -> bool:
    """Whether it lies in data*, exp* or .git: what spear or git has written, and not the recipe itself."""
    return entry.parts[0].split("_")[0] in ("data", "exp", ".git")


def _condensed(found: list[Finding]) -> list[Finding]:
    """Sorted by kind and place; of many alike in one directory the first few, and how many there are."""
    groups: dict[tuple, list[Finding]] = defaultdict(list)
    for finding in sorted(set(found), key=lambda finding: (KINDS.index(finding.kind), finding.where)):
        groups[finding.kind, os.path.dirname(finding.where)].append(finding)
    result = []
    for group in groups.values():
        result += group[:_LISTED_IN_A_FOLDER]
        if len(group) > _LISTED_IN_A_FOLDER:
            folder = os.path.dirname(group[0].where) or "."
            more = f"{len(group) - _LISTED_IN_A_FOLDER} more like the {_LISTED_IN_A_FOLDER} listed of this folder"
            result.append(replace(group[0], where=folder, what=more))
    return result
