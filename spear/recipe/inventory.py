"""What lies in a directory that somebody else has packed: looked at without following a link, running or trusting it.

Nothing is opened but regular files of a bounded size, by their own names; devices and pipes are named, never read. Work
ends at a deadline, whatever there is.
"""

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_TEXT_BYTES = 1 << 20
MAX_ENTRIES = 1_000_000
NO_TIME = "not looked at: no time was left; --max-seconds gives it more"
_PIECE_BYTES = 1 << 20
_TYPES = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
# Beginnings of files that a system, or Python, runs.
_MAGIC = {
    b"#!": "a script",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}
_SUFFIXES = {
    **dict.fromkeys((".sh", ".bash", ".zsh", ".py", ".pyw", ".ipynb", ".pl", ".rb", ".js", ".lua", ".r"), "a script"),
    **dict.fromkeys((".awk", ".sed", ".mk", ".cmake", ".bat", ".ps1", ".service"), "a script"),
    **dict.fromkeys((".so", ".dylib", ".dll", ".exe", ".pyd", ".jar", ".whl", ".egg", ".deb", ".rpm"), "a program"),
    **dict.fromkeys((".pyc", ".pyo", ".pth"), "run by Python when it is found"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".bin", ".ckpt"), "a pickle"),
}
# Names that Python, pip, make, git, direnv and our own shared/setup_environment.sh act on.
_NAMES = {
    **dict.fromkeys(("setup.py", "setup.cfg", "pyproject.toml", "tox.ini", "conftest.py"), "run on installation"),
    **dict.fromkeys(("makefile", "gnumakefile", "dockerfile", "justfile", ".envrc", ".env", "activate"), "a script"),
}


@dataclass(frozen=True)
class Entry:
    """One name below the directory.

    Attributes:
        name: path relative to it, with slashes.
        type: file, directory, link, or what it is instead ("a pipe (FIFO)").
        size_bytes: of a file.
        mode: its rights.
        names: how many names the file has (hard links).
    """

    name: str
    type: str
    size_bytes: int
    mode: int
    names: int

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its directories, and its own."""
        return tuple(self.name.split("/"))


def shown(text: str, limit: int = 200) -> str:
    """A text of others on one line of a terminal: what is not printable is escaped, what is long is cut."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[:limit] + "..."


class Inventory:
    """The entries of a directory, and safe ways to look into them.

    Args:
        root: the directory.
        max_seconds: of computing (of waiting for a busy machine, four times as much), after which no more is read.
    """

    def __init__(self, root: str | Path, max_seconds: float):
        self.root = Path(root)
        self.max_seconds, self.begin = max_seconds, (time.process_time(), time.monotonic())
        self.entries: dict[str, Entry] = {}
        self.unread: list[tuple[str, str]] = []
        self._list()

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        cpu_seconds, seconds = time.process_time() - self.begin[0], time.monotonic() - self.begin[1]
        return cpu_seconds > self.max_seconds or seconds > 4 * self.max_seconds

    def leave(self, name: str, why: str = NO_TIME) -> None:
        """Notes what was not looked at, to be said at the end."""
        self.unread.append((name, why))

    def _list(self) -> None:
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self.root / folder) as scan:
                    for found in scan:
                        if len(self.entries) >= MAX_ENTRIES or self.late:
                            self.leave(folder or ".", "more entries than could be looked at")
                            return
                        entry = self._entry(f"{folder}/{found.name}".lstrip("/"), found)
                        self.entries[entry.name] = entry
                        if entry.type == "directory":
                            waiting.append(entry.name)
            except OSError as error:
                self.leave(folder or ".", f"cannot be looked into: {error.strerror}")
        self.entries = dict(sorted(self.entries.items()))

    @staticmethod
    def _entry(name: str, found: os.DirEntry) -> Entry:
        status = found.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        known = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
        type_ = known.get(kind) or _TYPES.get(kind, "neither a file nor a directory")
        return Entry(name, type_, status.st_size, status.st_mode, status.st_nlink)

    def file(self, name: str) -> Entry | None:
        """The entry of that name if it is a regular file that no link leads to."""
        entry = self.entries.get(name)
        return entry if entry and entry.type == "file" else None

    def is_directory(self, name: str) -> bool:
        """Whether there is a directory of that name, and no link."""
        return name in self.entries and self.entries[name].type == "directory"

    def read(self, entry: Entry, max_bytes: int = MAX_TEXT_BYTES) -> bytes | None:
        """The content of a file; None when it is larger, or has become something else."""
        if entry.type != "file" or entry.size_bytes > max_bytes:
            return None
        data = b"".join(self._pieces(entry, max_bytes + 1))
        return data if len(data) <= max_bytes else None

    def head(self, entry: Entry) -> bytes:
        """The first bytes of a file; empty when it cannot be read."""
        return next(self._pieces(entry, 8), b"")

    def sha256(self, entry: Entry) -> str:
        """Hex digest of a file; empty when there is no time left to read it whole."""
        digest, size = hashlib.sha256(), 0
        for piece in self._pieces(entry, entry.size_bytes):
            digest.update(piece)
            size += len(piece)
            if self.late:
                return ""
        return digest.hexdigest() if size == entry.size_bytes else ""

    def _pieces(self, entry: Entry, max_bytes: int) -> Iterator[bytes]:
        # Should the name have become a link or a pipe since it was listed, it is neither followed nor waited for.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with contextlib.suppress(OSError):
            descriptor = os.open(self.root / entry.name, flags)
            with open(descriptor, "rb", buffering=0) as handle:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return
                while max_bytes > 0 and (piece := handle.read(min(_PIECE_BYTES, max_bytes))):
                    max_bytes -= len(piece)
                    yield piece

    def runnable(self, entry: Entry) -> str:
        """Why a file may be run (by the system, Python, pip, make...); empty when nothing says so."""
        name = entry.parts[-1].lower()
        if name in _NAMES or name.startswith("requirements"):
            return _NAMES.get(name, "read by pip, which runs what it installs")
        suffix = os.path.splitext(name)[1]
        if suffix in _SUFFIXES:
            return _SUFFIXES[suffix]
        if ".git" in entry.parts:  # what git runs by itself, or reads commands from
            by_git = entry.parts[-2] == "hooks" and not name.endswith(".sample")
            return "run by git" if by_git else ""
        head = self.head(entry) if entry.size_bytes else b""
        for magic, what in _MAGIC.items():
            if head.startswith(magic):
                return what
        return "executable" if entry.mode & 0o111 else ""
