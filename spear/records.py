"""Typed records from JSON and YAML: what others wrote is checked once, where it enters, and then has a type.

A record is a dataclass (or a `msgspec.Struct`) whose annotations are the rules; ranges are `Annotated[float,
msgspec.Meta(ge=0)]`. Keys that the record does not have are left aside. msgspec checks; a message names the file, the
line and the field, and says what stood there.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from spear import fs
from spear.errors import DataError

Record = TypeVar("Record")

# Numbers that JSON lets through and no quantity of ours can have: NaN fails every comparison, infinity this one.
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e300)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e300)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


def convert(value: Any, record: type[Record], where: str, fix: str = "correct that field") -> Record:
    """Plain values (of JSON or YAML) as a record.

    Args:
        value: nested dicts, lists, texts, numbers.
        record: a dataclass, a Struct, or any annotation such as ``dict[str, float]``.
        where: the file and line, for the message.
        fix: what to do about it.

    Raises:
        DataError: a field is missing, or has another type or a value out of its range; the field is named.
    """
    try:
        return msgspec.convert(value, record)
    except msgspec.ValidationError as error:
        text, _, field = str(error).partition(" - at `$")
        field = field.strip("`").lstrip(".")
        found = _look_up(value, field)
        raise DataError(
            f"{where}{f', field {field}' if field else ''}{found}", text[0].lower() + text[1:], fix
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: values nested too deeply", "a flat record", fix) from error
    except UnicodeEncodeError as error:  # half a character, as JSON can escape it, or a byte that `iter_lines` escaped
        raise DataError(f"{where}: text that is not UTF-8", "text in UTF-8", fix) from error


def read(path: str | Path, record: type[Record], fix: str = "run the stage that writes it again") -> Record:
    """A JSON file as a record.

    Raises:
        DataError: the file is missing, is not JSON, or a field does not fit; file and field are named.
    """
    return convert(fs.read_json(path), record, str(path), fix)


def iterate(
    path: str | Path,
    record: type[Record],
    refuse: Callable[[int, DataError], None] | None = None,
    fix: str = "correct or remove that line",
) -> Iterator[tuple[int, Record]]:
    """The lines of a JSONL file (of gzipped ones, too) as (line number, record).

    Args:
        path: of the file.
        record: the type of every line.
        refuse: is told the number and the error of each line that is no such record; None: the first one is raised.

    Raises:
        DataError: see `read`; the line is named as well.
    """
    for number, line in fs.iter_lines(path, escape=refuse is not None):
        try:
            yield (
                number,
                convert(fs.parse_json(line, f"line {number} of {path}"), record, f"line {number} of {path}", fix),
            )
        except DataError as error:
            if refuse is None:
                raise
            refuse(number, error)


def _look_up(value: Any, field: str) -> str:
    """What stands at a field such as `recording.sources[0].type`, shortened; empty when it cannot be said."""
    try:
        for part in field.replace("[...]", "").replace("[", ".[").split("."):
            if part.startswith("["):
                value = value[int(part[1:-1])]
            elif part:
                value = value[part]
    except (KeyError, IndexError, TypeError, ValueError):
        return ""
    if isinstance(value, str | int | float | bool) or value is None:
        text = ascii(value) if isinstance(value, str) else str(value)[:60]
        return f": {text[:60]}"
    return (
        f": {'a list' if isinstance(value, list) else 'an object' if isinstance(value, dict) else type(value).__name__}"
    )
