"""Run files: `EXP_DIR/evaluate/<suite>/<task>/<upstream>.json`, the whole truth about one score.

Beside each lies `<upstream>.predictions.jsonl`, from which the scores can be computed again (`rescore`). A run file
says by a hash what it was made from: as long as that does not change it is kept, and equal inputs under another name or
in another suite take its score, so that there are never two for one question.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spear import fs
from spear.errors import DataError
from spear.evaluate.metrics import HIGHER_IS_BETTER, score_folds
from spear.log import get_logger

FOLDER = "evaluate"
logger = get_logger(__name__)


def run_path(exp_dir: str | Path, suite: str, task: str, upstream: str) -> Path:
    """Where a run file is."""
    return Path(exp_dir) / FOLDER / suite / task / f"{upstream}.json"


class KnownScores:
    """The run files of a directory, by the hash of what they were made from.

    Args:
        exp_dir: holds `evaluate/`.
    """

    def __init__(self, exp_dir: str | Path):
        self._paths: dict[str, Path] = {}
        for path in fs.finished(Path(exp_dir) / FOLDER, "*/*/*.json"):
            try:
                self._paths.setdefault(str(fs.read_json(path).get("inputs_sha256")), path)
            except (DataError, AttributeError):
                continue  # damaged: scored again

    def take(self, path: Path, inputs_sha256: str, names: dict, upstream: dict) -> dict | None:
        """The run file at `path` when it, or that of an equal question, has these inputs and can be trusted.

        Args:
            names, upstream: see `adopt`.
        """
        for source in dict.fromkeys((path, self._paths.get(inputs_sha256, path))):
            if _is_reusable(source, inputs_sha256):
                return adopt(source, path, names, upstream)
        return None


def adopt(source: Path, path: Path, names: dict, upstream: dict) -> dict:
    """Makes a run file that of an equal question, which may be the same file, and returns it.

    Args:
        names: what the question is called, and what is said of its data: no part of the inputs.
        upstream: what is said of the encoder under the name that it has in this question.
    """
    run = fs.read_json(source)
    if source != path:
        predictions = f"{path.stem}.predictions.jsonl"
        fs.write_jsonl(path.parent / predictions, fs.read_jsonl(source.parent / run["predictions"]))
        run |= {"predictions": predictions, "upstream": upstream}
    if source != path or any(run.get(key) != value for key, value in names.items()):
        run |= names
        fs.write_json(path, run)
    return run


def _is_reusable(path: Path, inputs_sha256: str) -> bool:
    if not path.exists():
        return False
    try:
        run = fs.read_json(path)
        return run.get("inputs_sha256") == inputs_sha256 and _equal(rescore(path), run["scores"])
    except (DataError, KeyError, TypeError, AttributeError):
        return False


def _equal(first: dict[str, float], second: dict[str, float]) -> bool:
    return first.keys() == second.keys() and all(
        np.isclose(first[name], second[name] if second[name] is not None else np.nan, atol=1e-9, equal_nan=True)
        for name in first
    )


def rescore(path: str | Path) -> dict[str, float]:
    """The test scores of a run file, recomputed from its prediction file alone.

    Raises:
        DataError: a file is missing or damaged, or the prediction file does not hold the items that the run counted.
    """
    path = Path(path)
    run = fs.read_json(path)
    try:
        rows = fs.read_jsonl(path.parent / run["predictions"])
        if len(rows) != run["num_predictions"]:
            raise DataError(
                f"{len(rows)} predictions beside {path}", f"{run['num_predictions']} of them", "run the command again"
            )
        return {metric: score_folds(metric, rows) for metric in _metrics(run)}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path} and its predictions cannot be scored ({type(error).__name__}: {error})",
            "both as the command leaves them",
            "run the command again",
        ) from error


def _metrics(run: dict) -> Sequence[str]:
    unknown = [name for name in run["scores"] if name not in HIGHER_IS_BETTER]
    if unknown or not run["scores"]:
        raise ValueError(f"scores of {', '.join(unknown) or 'nothing'}")
    return list(run["scores"])
