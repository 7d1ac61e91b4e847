"""ESC-50 as it is distributed: `meta/esc50.csv` and `audio/`. It is linked, and nothing is written into it."""

from pathlib import Path

from spear.evaluate.esc50 import CORPUS
from spear.evaluate.listed import link


def prepare(raw: Path, data_dir: Path) -> dict[str, dict[str, int]]:
    """Links `data_dir/corpora/esc50`; returns the recordings that are there, and those that are not.

    Raises:
        DataError: `raw`, and what is up to two folders below, has no `meta/esc50.csv`.
    """
    return link(raw, data_dir, (CORPUS,))
