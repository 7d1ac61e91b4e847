"""What a recipe must not carry to others: absolute paths, home directories and names of machines in its text."""

import re
import socket
from collections.abc import Iterator
from typing import Any

# The same on every machine, an example in a manual, or no path at all: AudioSet's labels (/m/09x0r).
_EVERYWHERE = ("bin", "dev", "proc", "sys", "usr", "path", "corpora", "m", "t", "g")
_NOT_EVERYWHERE = rf"/(?!(?:{'|'.join(_EVERYWHERE)})(?![\w.@+-]))"
_PART = r"[\w@+~][\w.@+~-]*"
_PATH = re.compile(
    rf"(?<![\w.$}}~:/<>)\]*%+\\?^|&{{-]){_NOT_EVERYWHERE}{_PART}(?:/{_PART})+"
    rf"|(?<=[=\"']){_NOT_EVERYWHERE}{_PART}/?(?=[\s\"';]|\Z)"
    r"|\bfile:/+\w|(?<![\w\\])[A-Za-z]:\\+\w|(?<![\w\\])\\\\\w[\w.-]*\\\w",
    re.ASCII,
)
_HOME = re.compile(r"(?<![\w~/.=])~[\w-]*/[\w.]|(?<==)~[\w-]*/[\w.]", re.ASCII)
_HOST = re.compile(
    r"\b[\w.-]+@[\w.-]+:[~/]"  # somebody@machine:path
    r"|\b[\w-]+\.[\w-]+\.(?:internal|lan|intranet|corp|localdomain)\b"
    r"|\b(?:https?|ssh|rsync|s?ftp)://(?!localhost\b|127\.)[\w-]+(?=[:/\s\"']|\Z)"  # no dot: a machine of one network
    r"|(?<![\w.])(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?![\w.])",
    re.ASCII,
)
_MIN_HOST_CHARACTERS = 4  # "vm" is also a word


class Privacy:
    """Finds in text what belongs to the machine that it was written on, whose own name is known, too."""

    def __init__(self) -> None:
        names = {name for full in [socket.gethostname()] for name in (full, full.split(".")[0])}
        names = {re.escape(name) for name in names if len(name) >= _MIN_HOST_CHARACTERS and name != "localhost"}
        self._here = re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(names))})(?![\w-])", re.IGNORECASE) if names else None

    def offence(self, text: str) -> str:
        """What is wrong with a line or a value, with the part that is; empty when nothing is."""
        if "/" in text or "\\" in text:
            if found := _HOME.search(text):
                return f"a home directory ({found[0]}...)"
            if found := _PATH.search(text):
                return f"an absolute path ({found[0]})"
        if found := _HOST.search(text):
            return f"the address of a machine ({found[0]})"
        if self._here and (found := self._here.search(text)):
            return f"the name of this machine ({found[0]})"
        return ""

    def offence_of_value(self, value: Any) -> str:
        """The same for whatever JSON holds, in keys and in values."""
        for text in strings(value):
            if re.match(_NOT_EVERYWHERE + _PART, text):
                return f"an absolute path ({text[:80]})"
            if found := self.offence(text):
                return found
        return ""


def strings(value: Any) -> Iterator[str]:
    """All texts in nested lists and dictionaries, keys among them."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
