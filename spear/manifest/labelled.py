"""Labels of anybody's: a table with paths and labels (CSV, TSV, JSONL), or a folder with one for each class.

Every row is a record: names of columns and what stands there. Lines that are no rows are refused by name, and the rest
goes on.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spear import fs, records
from spear.errors import DataError, reasons
from spear.manifest.corpora.tables import read_records
from spear.manifest.scan import READABLE, Scan, files_below
from spear.names import id_problem

PATHS = ("path", "file", "filename", "audio", "audio_path", "audio_filepath", "wav")
"""Names of the column of paths."""
CLASS = "class"
"""Name of the column of what a folder's folders are called."""


def labelled_records(path: Path, columns: Sequence[str], found: Scan) -> Iterator[dict[str, Any]]:
    """The rows of a table, or {path, class} of the recordings in the folders of a folder.

    Args:
        path: of the table or folder; JSONL is known by its suffix, tabs and semicolons by the first line.
        columns: that the table must have (JSONL is not asked).
        found: receives {id, reason} of bad lines in `refused`.

    Raises:
        DataError: a table without one of the columns.
    """
    if path.is_dir():
        for name in files_below(path)[0]:
            if Path(name).suffix.lower() in READABLE and len(Path(name).parts) > 1:
                yield {"path": name, CLASS: Path(name).parts[0]}
    elif path.name.removesuffix(".gz").endswith((".jsonl", ".json")):

        def refuse(number: int, error: DataError) -> None:
            found.refused.append({"id": f"line {number}", "reason": error.found})

        yield from (record for _, record in records.iterate(path, dict[str, Any], refuse))
    else:
        _, header = next(fs.iter_lines(path), (0, ""))
        delimiter = "\t" if "\t" in header else ";" if ";" in header and "," not in header else ","
        yield from read_records(path, found, columns, delimiter)


def path_of(record: dict[str, Any]) -> str:
    """The path that a row gives, as it is written; empty where it gives none."""
    return next((str(record[name]) for name in PATHS if record.get(name)), "")


def named(record: dict[str, Any]) -> tuple[str, str]:
    """The id of a row (its path, unless it gives one), and the path.

    Raises:
        DataError: no path, one that no file can have, or an id that can be none.
    """
    path, fix = path_of(record), "correct that row"
    if "\0" in path:
        raise DataError("a path with a NUL", "the name of a file", fix)
    if not path:
        raise DataError(f"no path in a row with {', '.join(map(str, record))[:200]}", f"one of {PATHS}", fix)
    row_id = str(record.get("id") or path)
    if problem := id_problem(row_id, separators=""):
        raise DataError(f"id {row_id[:200]!r}: {problem}", "an id of its own", fix)
    return row_id, path


def group_in(record: dict[str, Any], column: str, path: str) -> str:
    """What a column says is never divided; without a column, the recording itself.

    Raises:
        DataError: nothing stands in the column.
    """
    group = text_of(record.get(column)) if column else path
    if not group:
        raise DataError(f"no {column}", "a group in every row", "correct that row")
    return group


def no_usable_row(where: str, target: str, refused: Iterable[dict]) -> DataError:
    """The error of tables in which every row was refused, with the reasons."""
    return DataError(
        f"no usable row in {where}{reasons(refused)}",
        f"paths (a column {', '.join(PATHS[:3])}...) and {target}",
        "correct the table, or --target",
    )


def text_of(value: Any) -> str:
    """A cell as text; empty for null and NaN, with which tables say that nothing is known. 0 and false are labels."""
    return "" if value is None or value != value else str(value).strip()
