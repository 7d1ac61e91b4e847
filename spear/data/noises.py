"""What is mixed in as noise: lists of its own, in which nobody speaks."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from spear.data.cuts import CutTable
from spear.errors import ConfigError, DataError
from spear.log import get_logger

logger = get_logger(__name__)


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
    table = CutTable(chain.from_iterable(_without_people(path) for path in map(Path, paths)))
    if len(table):
        logger.info("noise: %d cuts, %.2f h", len(table), table.durations_seconds.sum() / 3600)
    return table


def _without_people(path: Path) -> Iterator:
    from spear.manifest import iter_items  # imports lhotse, which takes seconds; only where it is needed
    from spear.manifest.corpora.labels import human_label

    kept, left_out, first = 0, 0, ""
    for item in iter_items(path):
        human = "speech" if item.domain == "speech" else "a transcript" if item.text else human_label(item.labels)
        if human:
            first, left_out = first or f"{item.id}: {human}", left_out + 1
        else:
            kept += 1
            yield item
    if left_out:
        logger.warning(
            "%s: %d of %d cuts are of people and are not used as noise (the first: %s)",
            *(path, left_out, left_out + kept, first),
        )
