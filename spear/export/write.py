"""Writes a folder whole or not at all."""

import shutil
from pathlib import Path

from spear.export.hugging_face import write_hugging_face
from spear.export.icefall import write_icefall
from spear.export.onnx import write_onnx
from spear.export.source import Source

WRITERS = {"hf": write_hugging_face, "onnx": write_onnx, "icefall": write_icefall}


def write(source: Source, output: Path, form: str, licence: str = "", **options) -> list[str]:
    """Writes the files of a format into a folder of another name, and renames it when they have been checked.

    Args:
        source: what is exported.
        output: the folder; it is not there, or empty.
        form: a key of `WRITERS`.
        licence: of the weights, for the card.
        options: of `write_onnx`.

    Returns:
        lines that say what was checked.
    """
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        lines = WRITERS[form](source, temporary, licence=licence, **options)
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return lines
