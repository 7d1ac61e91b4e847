"""Writes a folder whole or not at all."""

import shutil
import tempfile
from pathlib import Path

from spear.export.hugging_face import write_hugging_face
from spear.export.icefall import write_icefall
from spear.export.onnx import write_onnx
from spear.export.source import Source

WRITERS = {"hf": write_hugging_face, "onnx": write_onnx, "icefall": write_icefall}


def write(source: Source, output: Path, form: str, licence: str = "", **options) -> list[str]:
    """Writes the files of a format into a folder of another name, and moves them when they have been checked.

    Args:
        source: what is exported.
        output: the folder; it is not there, or empty.
        form: a key of `WRITERS`.
        licence: of the weights, for the card.
        options: of `write_onnx`.

    Returns:
        lines that say what was checked.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".spear-export-", dir=output.parent) as scratch:
        temporary = Path(scratch) / "files"
        temporary.mkdir()
        lines = WRITERS[form](source, temporary, licence=licence, **options)
        if output.exists():  # and stays, as it may be the current one, or a volume
            for file in sorted(temporary.iterdir()):
                shutil.move(file, output / file.name)
        else:
            temporary.rename(output)
    return lines
