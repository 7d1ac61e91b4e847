"""What is mixed in as noise: lists of its own, in which nobody speaks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spear.data.cuts import Columns, CutTable
from spear.data.index import read_columns
from spear.errors import ConfigError, DataError
from spear.log import get_logger

logger = get_logger(__name__)


def load_impulse_responses(paths: Sequence[str | Path]) -> CutTable:
    """Reads manifests of rooms' impulse responses.

    Raises:
        DataError: no such file, or a line is not a cut.
    """
    for path in paths:
        if not Path(path).exists():
            raise DataError(
                f"no manifest {path}, which mixing.impulse_responses names",
                "cuts that are impulse responses",
                "correct the path, or set mixing.reverb_probability to 0",
            )
    return _table(paths, lambda path, columns: np.flatnonzero(np.asarray(columns.duration) > 0))


def load_noises(paths: Sequence[str | Path], trained_on: Sequence[str | Path] = ()) -> CutTable:
    """Reads manifests of noise. Cuts of speech, and those with a label that counts as human, are left out and counted.

    Args:
        paths: of cuts (JSONL), such as the `noise_NAME.jsonl` of stage 1.
        trained_on: manifests of training; none of them may be among `paths`.

    Raises:
        ConfigError: a manifest that is trained on. DataError: no such file, or a line is not a cut.
    """
    trained = {Path(path).resolve() for path in trained_on}
    for path in map(Path, paths):
        if path.resolve() in trained:
            raise ConfigError(
                f"mixing.noises with {path}, which is trained on",
                "lists of their own: in a corpus of sounds people speak and sing, and noise should hide no speech",
                "name the noise_NAME.jsonl that stage 1 writes beside it",
            )
        if not path.exists():
            raise DataError(
                f"no manifest {path}, which mixing.noises names",
                "cuts to mix in as noise",
                "run the manifests stage again (prepare.sh --stage 1 --stop-stage 1), or set mixing.noises to [] for "
                "training without noise",
            )
    table = _table(paths, _without_people)
    if len(table):
        logger.info("noise: %d cuts, %.2f h", len(table), table.durations_seconds.sum() / 3600)
    return table


def _table(paths: Sequence[str | Path], choose: Callable[[str | Path, Columns], np.ndarray]) -> CutTable:
    """The cuts of some manifests, of each the rows that are chosen."""
    columns = {number: read_columns(path) for number, path in enumerate(paths)}
    rows = {number: choose(paths[number], columns[number]) for number in columns}
    if not any(map(len, rows.values())):
        return CutTable([])
    return CutTable.chosen(columns, rows, {number: columns[number].domain[rows[number]] for number in columns})


def _without_people(path: str | Path, columns: Columns) -> np.ndarray:
    """Rows of what may be mixed in, (num_rows,)."""
    people = np.flatnonzero(columns.people)
    if len(people):
        logger.warning(
            "%s: %d of %d cuts are of people and are not used as noise (the first: %s)",
            *(path, len(people), len(columns), columns.id(people[0])),
        )
    return np.flatnonzero((np.asarray(columns.people) == 0) & (np.asarray(columns.duration) > 0))
