"""AudioSet's balanced part and FSD50K as they are distributed. They are linked, and nothing is written into them."""

from pathlib import Path

from spear.evaluate.listed import link
from spear.evaluate.tagged import CORPORA


def prepare(raw: Path, data_dir: Path) -> dict[str, dict[str, int]]:
    """Links `data_dir/corpora/<NAME>`; returns for each the recordings that are there, and those that are not.

    Raises:
        DataError: `raw`, and what is up to two folders below, has none of them.
    """
    return link(raw, data_dir, CORPORA)
