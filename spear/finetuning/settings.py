"""The settings of the trainer for a fine-tuning: those of the published recipes, scaled to how much data there is."""

from pathlib import Path
from typing import Any

from spear.finetuning.tables import TableSettings
from spear.finetuning.tasks import TASKS
from spear.models import encoders
from spear.models.loading import load_model

RANDOM = "random:"
_EPOCHS = 30  # so often small data is seen, unless steps are stated
_STEPS = (200, 30_000)
_LAST_VALUES = 100_000.0  # of the schedules of dropout and the like
_FROZEN_SHARE, _FROZEN_STEPS = 0.1, 2000  # of the steps, the encoder stands still


def train_settings(
    tables: TableSettings,
    counts: dict[str, Any],
    exp_dir: Path,
    init_from: str,
    num_steps: int = 0,
    batch_seconds: float = 80.0,
    seed: int = 42,
    device: str = "auto",
    num_processes: int = 1,
) -> dict[str, Any]:
    """The configuration (`spear.train.config.TrainConfig`) of a fine-tuning, as plain values.

    The encoder stands still for the first tenth of the steps (2,000 at most), then learns at a twentieth of the heads'
    rate; the learning rate is nearly constant after its warm-up, as published. A `random:` encoder has neither: it
    learns as the heads do.

    Args:
        tables: what was read.
        counts: see `spear.finetuning.tables.prepare`.
        exp_dir: of the run; data lie in `exp_dir`/data.
        init_from: what `spear.load_model` reads, or `random:` and that, for an untrained encoder of its sizes.
        num_steps: optimizer steps; 0: so many that training sees the data thirty times, in bounds.
        batch_seconds: audio of a batch of each process.
        seed: of the run.
        device: of the trainer.
        num_processes: that train together.

    Raises:
        CheckpointError: no encoder to start from.
    """
    task, is_random = TASKS[tables.task], init_from.startswith(RANDOM)
    encoder = load_model(init_from.removeprefix(RANDOM)).config
    seconds = 3600 * counts["train"]["hours"]
    steps = num_steps or min(max(round(_EPOCHS * seconds / batch_seconds / num_processes), _STEPS[0]), _STEPS[1])
    stream: dict[str, Any] = {"objective": task.name, "domain_weights": {"speech": 1.0, "audio": 1.0}}
    stream |= {"layers": task.layers}
    if not task.is_text and not task.open_set:
        stream["key"] = tables.target
    if task.several:
        stream["separator"] = tables.separator
    sources = [{"name": "train", "cuts": "manifests/train.jsonl"}]
    if counts["dev"]["recordings"]:
        sources.append({"name": "dev", "cuts": "manifests/dev.jsonl", "held_out": True})
    judged = {"average_by": f"valid/{task.judged_by.format(task.name)}", "average_best": 3} if len(sources) > 1 else {}
    speech = task.is_text or task.open_set
    return {
        "exp_dir": str(exp_dir),
        "data_dir": str(exp_dir / "data"),
        "seed": seed,
        "device": device,
        "num_steps": steps,
        "init_from": "" if is_random else init_from,
        "model": encoders.to_dict(encoder),
        "streams": {task.name: stream},
        "sources": sources,
        "cut_limits": {"min_seconds": 0.1, "max_seconds": tables.max_seconds + 0.1},
        "valid_fraction": 0.0,
        "mixing": {"probability": 0.0},
        "plan": {"max_seconds": max(batch_seconds, tables.max_seconds + 0.1)},
        "freeze_encoder_steps": 0 if is_random else min(round(_FROZEN_SHARE * steps), _FROZEN_STEPS),
        "optimizer": {
            "lr_batches": 100_000.0,
            "warmup_batches": float(min(500, max(1, steps // 10))),
            "first_batch_count": 0.0 if is_random else _LAST_VALUES,
            "lr_scales": {} if is_random else {"encoder_embed": 0.05, "encoder": 0.05},
        },
        "spec_augment": {
            "probability": 0.9,
            "time_warp_frames": 80 if speech else 0,
            "time_masks": 10 if speech else 2,
        },
        **_periods(steps),
        **judged,
        "rehearsal_batches": 1,
        "tensorboard": False,
    }


def _periods(steps: int) -> dict[str, int]:
    """How often a run of so many steps does what it does between steps."""
    every = max(1, steps // 10)
    return {
        "log_every_steps": max(1, min(50, every)),
        "valid_every_steps": every,
        "checkpoint_every_steps": every,
        "average_every_steps": max(1, min(20, every)),
        "average_last_steps": steps // 4,
        "keep_checkpoints": 2,
    }
