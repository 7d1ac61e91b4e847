"""Corpora: from a folder as it is distributed to the manifests of the SUPERB tasks that it serves."""

import importlib
from pathlib import Path

from spear.errors import ConfigError

CORPORA = ("synthetic", "real_mini", "librispeech", "speech_commands", "voxceleb")


def prepare_corpus(corpus: str, raw: str | Path, data_dir: str | Path, **options) -> dict[str, dict[str, int]]:
    """Writes `DATA_DIR/superb/<TASK>.jsonl` for the tasks of a corpus; returns the rows by task and split.

    Args:
        corpus: a name of `CORPORA`; its module lists the options.
        raw: the corpus as it is distributed.

    Raises:
        ConfigError: no such corpus.
        DataError: the folder lacks parts of the corpus; says which and where they come from.
    """
    name = corpus.replace("-", "_")
    if name not in CORPORA:
        raise ConfigError(f"corpus '{corpus}'", f"one of {', '.join(CORPORA)}", "correct the corpus")
    module = importlib.import_module(f"spear.evaluate.superb.corpora.{name}")
    return module.prepare(Path(raw).absolute(), Path(data_dir).absolute(), **options)
