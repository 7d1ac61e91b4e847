"""`spear train --estimate`: time, memory and disk of a run, from a few of its steps in a temporary place."""

import copy
import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from spear import dist, env, fs
from spear.log import human_flops, human_seconds
from spear.train.config import LAST, TrainConfig
from spear.train.loop import Trainer
from spear.train.rehearsal import peak_bytes, used_bytes

STEPS = 20
_UNMEASURED = 3  # the first steps are slower than the rest


@dataclass
class Estimate:
    """What a run will take.

    Attributes:
        seconds: for all steps, with validation.
        seconds_per_step: of an optimizer step with an average batch.
        peak_bytes: of a rank, with its loader workers' shared pages counted once.
        disk_bytes: checkpoints that are kept, one being written, and the final model.
        checkpoint_bytes: of one checkpoint.
        audio_hours: padded, over all steps and ranks.
        flops: of all ranks; none where the run has no rehearsal.
        targets: what the targets of that audio cost, in words, where it is worth a word.
    """

    seconds: float
    seconds_per_step: float
    peak_bytes: int
    disk_bytes: int
    checkpoint_bytes: int
    audio_hours: float
    flops: dict[str, float] = field(default_factory=dict)
    targets: tuple[str, ...] = ()

    def table(self, exp_dir: str | Path) -> str:
        """Lines for the terminal, with what is free."""
        free, memory = fs.free_bytes(exp_dir), env.memory_bytes()
        parts = {"model_flops": "the model", "target_flops": "its targets"}
        compute = [f"{human_flops(self.flops[key])} for {what}" for key, what in parts.items() if self.flops.get(key)]
        return "\n".join(
            [
                f"  time     {human_seconds(self.seconds)} ({self.seconds_per_step:.3g} s a step)",
                f"  audio    {self.audio_hours:,.1f} h, padding included",
                f"  memory   {fs.human_bytes(self.peak_bytes)} a rank (this machine has {fs.human_bytes(memory)})",
                f"  disk     {fs.human_bytes(self.disk_bytes)}, {fs.human_bytes(self.checkpoint_bytes)} a checkpoint "
                f"({fs.human_bytes(free)} free)",
                *([f"  compute  {', '.join(compute)}"] if compute else []),
                *(f"  targets  {line}" for line in self.targets),
            ]
        )


def estimate(config: TrainConfig, world: dist.World) -> Estimate:
    """Does `STEPS` steps, one validation and one checkpoint, and reckons the whole run from them.

    Args:
        config: of the run; its exp_dir is not touched.
        world: this process among all.

    Raises:
        SpearError: whatever would stop the run at its start.
    """
    with tempfile.TemporaryDirectory(prefix="spear-estimate-") as folder:
        [folder] = dist.gather_objects(folder)[:1]  # all ranks use rank 0's
        never = 10**9
        trial = dataclasses.replace(
            copy.deepcopy(config),
            exp_dir=folder,
            num_steps=min(STEPS, config.num_steps),
            log_every_steps=1,
            valid_every_steps=never,
            checkpoint_every_steps=never,
            average_last_steps=0,
            average_by=LAST,
            freeze_encoder_steps=0,  # most of the steps are without, and cost more
            tensorboard=False,
        )
        before = used_bytes(world.device)
        trainer = Trainer(trial, world)
        began = time.perf_counter()
        trainer.run()
        total = time.perf_counter() - began
        peak = max(before, peak_bytes(world.device), trainer.rehearsal.peak_bytes if trainer.rehearsal else 0)
        peak = max(dist.gather_objects(peak))
        found = _reckon(config, trainer, Path(folder), total, peak) if world.is_main else None
        dist.barrier()
    return dist.gather_objects(found)[0]


def _reckon(config: TrainConfig, trainer: Trainer, folder: Path, total: float, peak: int) -> Estimate:
    """From what the trial left in `folder`, and its `total` seconds, to the whole run."""
    rows = fs.read_jsonl(folder / "metrics.jsonl")
    ends = [row["seconds"] for row in rows if "lr" in row]
    measured = [later - earlier for earlier, later in zip(ends, ends[1:])][_UNMEASURED - 1 :] or ends
    per_step = statistics.mean(measured)
    # What follows the last step is the validation, the checkpoint and the final model.
    per_validation = max(0.0, total - ends[-1]) if trainer.data.valid else 0.0
    validations = config.num_steps // config.valid_every_steps + 1
    audio_hours = trainer.audio_hours(config.num_steps)
    # The oldest is deleted when the newest is whole.
    kept = config.keep_checkpoints + 1 + (0 < config.average_last_steps < config.num_steps)
    kept += config.average_best if config.average_by != LAST else 0
    kept = min(kept, config.num_steps // config.checkpoint_every_steps + 2)
    checkpoint_bytes = _size(folder / "checkpoints")
    return Estimate(
        seconds=per_step * config.num_steps + per_validation * validations,
        seconds_per_step=per_step,
        peak_bytes=peak,
        disk_bytes=checkpoint_bytes * kept + _size(folder / "final"),
        checkpoint_bytes=checkpoint_bytes,
        audio_hours=audio_hours,
        flops=trainer.rehearsal.flops.done(3600 * audio_hours) if trainer.rehearsal else {},
        targets=tuple(line for objective in trainer.objectives.values() for line in objective.costs(audio_hours)),
    )


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
