"""Corpora: from a folder as it is distributed to the manifests of the tasks that it serves."""

import importlib
import inspect
from pathlib import Path

from spear.errors import ConfigError

CORPORA = (
    "synthetic",
    "real_mini",
    "hear_mini",
    "librispeech",
    "speech_commands",
    "voxceleb",
    "hear",
    "esc50",
    "arch",
    "tags",
)


def prepare_corpus(corpus: str, raw: str | Path, data_dir: str | Path, **options) -> dict[str, dict[str, int]]:
    """Writes the tasks of a corpus (`DATA_DIR/superb/<TASK>.jsonl`; those of HEAR's kinds into `DATA_DIR/tasks`).

    Returns the rows by task and split.

    Args:
        corpus: a name of `CORPORA`; its module lists the options. `seed` and `num_jobs` may always be given; where
            nothing is drawn at random, or nothing is made, they change nothing.
        raw: the corpus as it is distributed.

    Raises:
        ConfigError: no such corpus, or an option that it does not have.
        DataError: the folder lacks parts of the corpus; says which and where they come from.
    """
    name = corpus.replace("-", "_")
    if name not in CORPORA:
        raise ConfigError(f"corpus '{corpus}'", f"one of {', '.join(CORPORA)}", "correct the corpus")
    module = importlib.import_module(f"spear.evaluate.corpora.{name}")
    known = inspect.signature(module.prepare).parameters
    foreign = sorted(options.keys() - known.keys() - {"seed", "num_jobs"})
    if foreign:
        named = ", ".join(f"--{key.replace('_', '-')}" for key in foreign)
        raise ConfigError(f"{named} for the corpus {name}", "an option of this corpus", "leave it out")
    options = {key: value for key, value in options.items() if key in known}
    return module.prepare(Path(raw).absolute(), Path(data_dir).absolute(), **options)
