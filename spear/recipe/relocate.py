"""Files that a recipe's commands have written, with the paths of this machine made relative."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spear import fs, seal

Replace = Callable[[str], str]


class Relocation:
    """Makes paths relative: in data to the data directory, as the loader wants them, elsewhere to the recipe.

    Args:
        recipe: its directory.
        data_root: folder of corpora on this machine; what lies in `data_root/NAME` becomes `raw/NAME`. Empty: none.
    """

    def __init__(self, recipe: Path, data_root: str = ""):
        self._recipe, self._data_root = recipe, data_root
        self._prefixes: dict[str, list[tuple[str, str]]] = {}

    def _of_folder(self, folder: str) -> list[tuple[str, str]]:
        """(absolute beginning of a path, what takes its place) for a folder of the recipe, longest first."""
        if folder not in self._prefixes:
            found: dict[str, str] = {}
            if folder.split("_")[0] == "data":
                if self._data_root:
                    found |= dict.fromkeys(_spellings(Path(self._data_root)), "raw/")
                raw = self._recipe / folder / "raw"
                for corpus in sorted(raw.iterdir()) if raw.is_dir() else ():
                    if corpus.is_symlink():
                        found |= dict.fromkeys(_spellings(corpus), f"raw/{corpus.name}/")
                found |= dict.fromkeys(_spellings(self._recipe / folder), "")
            self._prefixes[folder] = sorted(found.items(), key=lambda pair: -len(pair[0]))
        return self._prefixes[folder]

    def of(self, name: str) -> Replace:
        """Makes a whole path relative, or those within a text, for a file of the recipe."""
        prefixes = self._of_folder(name.split("/")[0])
        own = "|".join(re.escape(text) for text in _spellings(self._recipe))
        within = re.compile(rf"(?<![\w.-])(?:{own})(?:(?P<more>/)(?=[\w.~])|/?(?![\w/-]|\.\w))")

        def replace(text: str) -> str:
            if text.startswith("/") and "/../" in text:
                text = os.path.normpath(text)
            for begin, relative in prefixes:
                if text.startswith(begin + "/"):
                    return relative + text[len(begin) + 1 :]
            return within.sub(lambda found: "" if found["more"] else ".", text)

        return replace


def _spellings(path: Path) -> list[str]:
    """A path as it may have been written: as it is named, and without links; the root of all files is none."""
    return [text for text in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))) if text.count("/") > 1]


def relocated(name: str, text: str, replace: Replace, scratch: Path) -> str:
    """The text of a file with its paths replaced; a seal fits again. The same text when there are none.

    Args:
        name: of the file; its suffix says what it is.
        text: of the file.
        replace: of `Relocation.of`.
        scratch: a file that may be written over.

    Raises:
        DataError: JSON that is none, or a seal that does not fit the file as it is.
    """
    if not is_json(name):
        return "\n".join(_yaml_line(line, replace) for line in text.split("\n"))
    values = fs.parse_json(text, name)
    changed = mapped(values, replace)
    if changed == values:
        return text
    if isinstance(values, dict) and seal.KEY in values:
        scratch.write_text(text, encoding="utf-8")
        seal.read_json(scratch)  # what was damaged before does not get a seal that fits
        return sealed({key: value for key, value in changed.items() if key != seal.KEY}, scratch)
    return fs.json_text(changed) + "\n"


def sealed(values: dict[str, Any], scratch: Path) -> str:
    """The text of a sealed file with these values."""
    seal.write_json(scratch, values)
    return scratch.read_text(encoding="utf-8")


def is_json(name: str) -> bool:
    """Whether a file holds one JSON value."""
    return name.endswith((".json", "/READY"))


def mapped(value: Any, replace: Replace) -> Any:
    """Nested values with their texts, keys among them, replaced."""
    if isinstance(value, str):
        return replace(value) if "/" in value else value
    if isinstance(value, dict):
        return {mapped(key, replace): mapped(item, replace) for key, item in value.items()}
    return [mapped(item, replace) for item in value] if isinstance(value, list) else value


def _yaml_line(line: str, replace: Replace) -> str:
    """A value that is a whole path may be relative to another folder than a path within a text."""
    begin, colon, value = line.partition(": ")
    quote = value[:1] if value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1 else ""
    inner = value[len(quote) : len(value) - len(quote)]
    changed = replace(inner)
    return f"{begin}{colon}{quote}{changed}{quote}" if colon and changed != inner else replace(line)
