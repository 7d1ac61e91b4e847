"""Which run a directory belongs to: `run.json` names it, and whatever the run writes carries its id.

Checkpoints of two runs look alike. Nothing of another run is ever read, averaged or deleted: a run that finds some
beside its own does not start.
"""

import dataclasses
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from spear import __version__, dist, fs, records, seal
from spear.errors import CheckpointError, DataError
from spear.log import get_logger
from spear.train import checkpoint, setup
from spear.train.config import TrainConfig

logger = get_logger(__name__)
NAME = "run.json"


@dataclass(frozen=True)
class Run:
    """One training, over all its interruptions.

    Attributes:
        run_id: drawn at random when the run began.
        settings_sha256: of the settings that decide what is trained.
        adopted: digests of the descriptions of checkpoints that are the run's although they carry no id, by name: an
            older version wrote them.
        started: local time.
        spear_version: that began it.
    """

    run_id: str
    settings_sha256: str = ""
    adopted: dict[str, str] = field(default_factory=dict)
    started: str = ""
    spear_version: str = ""

    def owns(self, directory: Path) -> bool:
        """Whether a checkpoint is the run's; one whose description cannot be read is nobody's."""
        found = _id_of(directory)
        return found == self.run_id or (found == "" and self.adopted.get(directory.name) == _digest(directory))


def find(exp_dir: str | Path) -> Run | None:
    """The run that a directory belongs to; None where no run of this version has been, or `run.json` is damaged."""
    path = Path(exp_dir) / NAME
    if not path.exists():
        return None
    try:
        if seal.KEY not in fs.read_json(path):  # no version wrote it without
            raise DataError(f"{path} has no seal", "the file as it was written", "delete it")
        return records.convert(seal.read_json(path), Run, str(path))
    except (DataError, TypeError) as error:
        found = error.found if isinstance(error, DataError) else f"{path} holds no object"
        logger.warning("%s; the checkpoints will tell which run this is", found)
        return None


def identify(config: TrainConfig, world: dist.World) -> Run:
    """The run that goes on in `exp_dir`, or the one that begins there, on all ranks alike; nothing is written yet.

    A run goes on as long as there are checkpoints of it, or its settings are the same. Else a new one begins.

    Raises:
        CheckpointError: there are checkpoints of another run in the directory.
    """
    run = _identify(Path(config.exp_dir), fs.sha256_json(setup.deciding(config))) if world.is_main else None
    return dist.gather_objects(run)[0]


def write(exp_dir: str | Path, run: Run) -> None:
    """Names the run of a directory."""
    seal.write_json(Path(exp_dir) / NAME, dataclasses.asdict(run))


def _identify(exp_dir: Path, settings_sha256: str) -> Run:
    found, ids = find(exp_dir), {path: _id_of(path) for path in checkpoint.directories(exp_dir)}
    ids = {path: run_id for path, run_id in ids.items() if run_id is not None}
    run = found or _from_checkpoints(exp_dir, ids)
    foreign = [path for path in ids if not run.owns(path)]
    if foreign:
        others = ", ".join(sorted({ids[path][:8] or "without an id" for path in foreign}))
        raise CheckpointError(
            f"{len(foreign)} checkpoints of another run ({others}) in {foreign[0].parent}, such as {foreign[0].name}",
            f"those of this directory's run alone ({run.run_id[:8]})",
            "move them away, or choose another exp_dir for this run",
        )
    if not ids and run.settings_sha256 != settings_sha256:  # nothing is left of another run, or nothing has been
        return _new(settings_sha256)
    return run


def _from_checkpoints(exp_dir: Path, ids: dict[Path, str]) -> Run:
    """The run that wrote the checkpoints of a directory without `run.json`; a new one where there are none.

    Raises:
        CheckpointError: they are of several runs.
    """
    if not ids:
        return _new("")
    if len(set(ids.values())) > 1:
        listed = ", ".join(f"{path.name} of {run_id[:8] or 'no named run'}" for path, run_id in sorted(ids.items()))
        raise CheckpointError(
            f"checkpoints of several runs in {exp_dir} ({listed}), and no {NAME}",
            "checkpoints of one run",
            "move those of other runs away, or choose another exp_dir",
        )
    [run_id] = set(ids.values())
    if run_id:
        logger.info("%s has no %s: it goes on as run %s, which its checkpoints name", exp_dir, NAME, run_id[:8])
        return Run(run_id)
    logger.info("%s was written by an older version: its %d checkpoints are taken over", exp_dir, len(ids))
    return dataclasses.replace(_new(""), adopted={path.name: _digest(path) for path in ids})


def _new(settings_sha256: str) -> Run:
    return Run(secrets.token_hex(8), settings_sha256, {}, time.strftime("%Y-%m-%d %H:%M:%S %Z"), __version__)


def _id_of(directory: Path) -> str | None:
    """The run that a checkpoint names; empty for one of an older version, None for what cannot be read."""
    try:
        meta = fs.read_json(directory / "checkpoint.json")
    except DataError:
        return None
    found = meta.get("run_id", "") if isinstance(meta, dict) else None
    return found if isinstance(found, str) else None


def _digest(directory: Path) -> str:
    return fs.sha256_file(directory / "checkpoint.json")
