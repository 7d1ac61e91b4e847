"""`spear recipe pack`: one archive of a recipe that another laboratory can unpack, examine, and compare with its own.

It holds scripts, settings, cards, manifests and results, and on request tokens and checkpoints; never recordings,
links, or what belongs to the machine. Paths in files that spear has written become relative; in others they are refused
by file and line.
"""

import fnmatch
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import spear
from spear import env, fs, seal
from spear.errors import ConfigError, DataError
from spear.recipe.archive import FORMAT, MANIFEST, MAX_FILES, ArchiveWriter, PackManifest, list_problem, listed
from spear.recipe.inventory import shown
from spear.recipe.origin import ROOT
from spear.recipe.privacy import Privacy
from spear.recipe.relocate import Relocation, is_json, mapped, relocated, sealed

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_DATA = ("*/stats.json", "*/manifests/*", "*/superb/*.jsonl", "*/card.json")
_TOKENS = ("*/READY", "*/tokens/*", "*/quantizer/*")
_RUNS = ("*/RESULTS.*", "*/evaluate/*/*/*.json", "*/config.yaml", "*/finetune.yaml", "*/run.json", "*/score.json")
_TABLES = (".json", ".jsonl", ".jsonl.gz", ".yaml", ".tsv", ".txt", ".csv")
_NEITHER = (".pyc", ".pyo", ".log", ".wav", ".flac", ".zip", *SUFFIXES)
_MAX_SHOWN = 20


@dataclass
class PackSettings:
    """What `pack_recipe` is told.

    Attributes:
        recipe: its directory.
        output: the archive, .tar or .tar.gz.
        tokens: whether tokens and quantizers come along.
        checkpoints: directories of checkpoints in the recipe, such as exp/student/final.
        exclude: patterns of files to leave out, such as exp/old/*.
        data_root: folder of corpora on this machine; recordings in `data_root/NAME` are called `raw/NAME` in manifests.
    """

    recipe: str
    output: str
    tokens: bool = False
    checkpoints: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    data_root: str = ""


@dataclass(frozen=True)
class Packed:
    """What came of it: the list in the archive, and the files whose paths were made relative."""

    manifest: PackManifest
    relocated: list[str]


def pack_recipe(settings: PackSettings) -> Packed:
    """Writes the archive, whole or not at all; the same recipe gives the same bytes.

    Raises:
        ConfigError: no such recipe or checkpoint, or another kind of archive. DataError: links, devices, names that
            cannot be packed, or text that names this machine or its folders; all are listed, with their lines.
    """
    recipe, output = Path(settings.recipe), Path(settings.output)
    if not recipe.is_dir():
        raise ConfigError(f"no directory {recipe}", "a recipe", "correct the path")
    if not output.name.endswith(SUFFIXES):
        raise ConfigError(f"--output {output}", f"a name that ends with {', '.join(SUFFIXES)}", "choose another name")
    for checkpoint in settings.checkpoints:
        if PurePosixPath(checkpoint).is_absolute() or not (recipe / checkpoint / "checkpoint.json").is_file():
            found = f"no {checkpoint}/checkpoint.json in {recipe}"
            raise ConfigError(found, "the directory of a checkpoint, relative to the recipe", "correct --checkpoint")
    with tempfile.TemporaryDirectory(prefix="spear-pack-") as scratch:
        packing = _Packing(settings, Path(scratch))
        sources = dict(sorted(packing.sources()))
        packing.refuse_any()
        files = [listed(name, path) for name, path in sources.items()]
        manifest = PackManifest(FORMAT, spear.__version__, env.git_commit(), sorted(packing.audio), files)
        with fs.atomic(output) as temporary, open(temporary, "wb") as handle:
            writer = ArchiveWriter(output, handle)
            writer.write_manifest(manifest)
            for file in files:
                writer.write_file(file, sources[file.name])
            writer.close()
    return Packed(manifest, sorted(packing.relocated))


class _Packing:
    """Chooses and examines the files of one archive."""

    def __init__(self, settings: PackSettings, scratch: Path):
        self.settings, self.recipe, self.scratch = settings, Path(settings.recipe), scratch
        self.privacy = Privacy()
        self.relocation = Relocation(self.recipe, settings.data_root)
        self.checkpoints = [PurePosixPath(checkpoint).as_posix() for checkpoint in settings.checkpoints]
        self.audio: set[str] = set()
        self.relocated: dict[str, Path] = {}
        self.offences: list[tuple[str, str]] = []

    def sources(self) -> Iterator[tuple[str, Path]]:
        """(name in the archive, file with its content) of all files."""
        chosen = dict(self._chosen())
        name, reason = list_problem(sorted(chosen))
        if reason:
            self.offences.append((name, reason))
            return
        if len(chosen) > MAX_FILES:
            raise DataError(f"{len(chosen)} files", f"at most {MAX_FILES}", "leave some out with --exclude")
        ready = []
        for name, path in sorted(chosen.items()):
            if name.endswith("/READY"):  # it names the digests of manifests, which may become others
                ready.append(name)
            else:
                yield name, self._examined(name, path)
        for name in ready:
            yield name, self._declared_again(name, chosen[name])

    def refuse_any(self) -> None:
        """Raises DataError with what must not be packed, if there is any."""
        if self.offences:
            by_file: dict[str, list[str]] = {}
            for where, what in self.offences:
                by_file.setdefault(where.partition(":")[0], []).append(f"{shown(where)}: {shown(what)}")
            more = {name: f" (and {len(lines) - 1} more lines)" if lines[1:] else "" for name, lines in by_file.items()}
            lines = [f"{lines[0]}{more[name]}" for name, lines in by_file.items()]
            lines[_MAX_SHOWN:] = [f"and {len(lines) - _MAX_SHOWN} more files"] if lines[_MAX_SHOWN:] else []
            raise DataError(
                f"{len(self.offences)} places that cannot be handed on:\n    " + "\n    ".join(lines),
                "text without absolute paths, home directories and names of machines; regular files with plain names",
                "make the paths relative or options of the scripts, or leave files out: --exclude PATTERN",
            )

    def _chosen(self) -> Iterator[tuple[str, Path]]:
        waiting = [self.recipe]
        while waiting:
            with os.scandir(waiting.pop()) as scan:
                for entry in sorted(scan, key=lambda entry: entry.name):
                    name = Path(entry.path).relative_to(self.recipe).as_posix()
                    if entry.name.startswith(".") or entry.name == "__pycache__" or self._excluded(name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if not _of_recordings(name):
                            waiting.append(Path(entry.path))
                    elif entry.is_symlink() and name == "shared" and _is_shared(entry.path):
                        yield from ((f"shared/{file}", ROOT / "shared" / file) for file in _shared_names())
                    elif self._wanted(name):
                        self._take(entry, name)
                        yield name, Path(entry.path)

    def _take(self, entry: os.DirEntry, name: str) -> None:
        if entry.is_symlink():
            self.offences.append((name, f"a link, to {os.readlink(entry.path)}"))
        elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            self.offences.append((name, "a device, pipe or socket"))

    def _excluded(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern.rstrip("/")) for pattern in self.settings.exclude)

    def _wanted(self, name: str) -> bool:
        top, _, rest = name.partition("/")
        if name == MANIFEST or name.endswith(_NEITHER) or name.endswith("~"):
            return False
        if not is_generated(name):
            return True
        if not rest:  # data or exp itself: a link, which is refused
            return True
        if top.split("_")[0] == "exp":
            return _fits(name, _RUNS) or any(name.startswith(f"{place}/") for place in self.checkpoints)
        if self.settings.tokens and _fits(name, _TOKENS):
            return True
        return _fits(name, _DATA) and name.endswith(_TABLES)

    def _examined(self, name: str, path: Path) -> Path:
        """The file to pack in the place of `path`: itself, or a copy with relative paths."""
        if path.is_symlink() or not path.is_file():
            return path
        if name.endswith(".jsonl") and is_generated(name):
            return self._lines(name, path)
        if name.endswith(".gz"):
            self._offences(name, fs.iter_lines(path, escape=True))
            return path
        with open(path, "rb") as handle:
            if b"\0" in handle.read(4096):
                return path
        if not is_generated(name):
            self._offences(name, fs.iter_lines(path, escape=True))
            return path
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        changed = relocated(name, text, self.relocation.of(name), self.scratch / "sealed.json")
        if is_json(name):
            if offence := self.privacy.offence_of_value(fs.parse_json(changed, name)):
                self.offences.append((self._place(name, changed), offence))
        else:
            self._offences(name, enumerate(changed.split("\n"), 1))
        return self._copy(name, changed) if changed != text else path

    def _place(self, name: str, text: str) -> str:
        """The first line of a JSON file that has something, as `name:line`."""
        lines = enumerate(text.split("\n"), 1)
        return next((f"{name}:{number}" for number, line in lines if self.privacy.offence(line)), name)

    def _offences(self, name: str, lines: Iterable[tuple[int, str]]) -> None:
        for number, line in lines:
            if offence := self.privacy.offence(line):
                self.offences.append((f"{name}:{number}", offence))

    def _lines(self, name: str, path: Path) -> Path:
        replace, changed = self.relocation.of(name), False
        copy = self._new_copy()
        with open(copy, "w", encoding="utf-8", newline="\n", errors="surrogateescape") as handle:
            for number, line in fs.iter_lines(path):
                values = fs.parse_json(line, f"{name}:{number}") if line.strip() else {}
                moved = mapped(values, replace)
                if moved != values:
                    changed, line = True, fs.json_text(moved, indent=None)
                if offence := self.privacy.offence_of_value(moved):
                    self.offences.append((f"{name}:{number}", offence))
                self.audio |= _folders_of_audio(moved)
                handle.write(line + "\n")
        if not changed:
            copy.unlink()
            return path
        self.relocated[name] = copy
        return copy

    def _declared_again(self, name: str, path: Path) -> Path:
        """READY with the digests of the manifests as they are packed: the same cuts, with relative paths."""
        if path.is_symlink() or not path.is_file():
            return path
        values, changed = seal.read_json(path), False
        for cuts, content in values.get("cuts", {}).items():
            copy = self.relocated.get(f"{name.removesuffix('READY')}manifests/{cuts}")
            if (
                copy
                and isinstance(content, dict)
                and content.get("sha256") == fs.sha256_file(self._original(name, cuts))
            ):
                content["sha256"], changed = fs.sha256_file(copy), True
        return self._copy(name, sealed(values, self.scratch / "sealed.json")) if changed else path

    def _original(self, ready: str, cuts: str) -> Path:
        return self.recipe / ready.removesuffix("READY") / "manifests" / cuts

    def _copy(self, name: str, text: str) -> Path:
        copy = self._new_copy()
        copy.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        self.relocated[name] = copy
        return copy

    def _new_copy(self) -> Path:
        descriptor, path = tempfile.mkstemp(dir=self.scratch)
        os.close(descriptor)
        return Path(path)


def is_generated(name: str) -> bool:
    """Whether a file lies in data* or exp*, where the commands of a recipe write."""
    return name.split("/")[0].split("_")[0] in ("data", "exp")


def _of_recordings(name: str) -> bool:
    parts = name.split("/")
    return is_generated(name) and len(parts) == 2 and parts[1] in ("raw", "audio")


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_shared(path: str) -> bool:
    try:
        return os.path.samefile(path, ROOT / "shared")
    except OSError:
        return False


def _shared_names() -> list[str]:
    folder = ROOT / "shared"
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [
        path.as_posix() for path in paths if not any(part[0] == "." or part == "__pycache__" for part in path.parts)
    ]


def _folders_of_audio(cut: Any) -> set[str]:
    """The first two folders of a cut's recordings, such as raw/librispeech."""
    try:
        sources = [source["source"] for source in cut["recording"]["sources"]]
        return {"/".join(PurePosixPath(source).parent.parts[:2]) for source in sources} - {""}
    except (KeyError, TypeError, AttributeError):
        return set()
