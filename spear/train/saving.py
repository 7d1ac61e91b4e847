"""From a trainer's state to checkpoints, and back."""

import functools
from pathlib import Path

import torch
from safetensors import SafetensorError

from spear import __version__, dist, env
from spear import config as configuration
from spear.errors import CheckpointError
from spear.log import get_logger
from spear.nn import set_whitening_memory, whitening_memory
from spear.optim import load_optimizer_tensors, optimizer_tensors
from spear.train import checkpoint, setup
from spear.train.averaging import window_mean
from spear.train.best import Best
from spear.train.sharding import host_copies, load_whole

logger = get_logger(__name__)


class Saver:
    """Saves and restores a `spear.train.loop.Trainer`.

    Saving copies the state to the host's memory and hands it to a thread that writes it (rank 0). The copy is as
    large as parameters, average and optimizer together: 16 bytes a parameter. Sharded state is gathered there, so that
    all ranks call `save` and `finish` together.

    Args:
        trainer: whose state it is.
    """

    def __init__(self, trainer):
        self.trainer, self.config = trainer, trainer.config
        self._writer = checkpoint.Writer()
        self.best = Best(self.config, trainer.objectives, trainer.identity, bool(trainer.data.valid))

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint belongs to this step."""
        periodic = step % self.config.checkpoint_every_steps == 0
        return periodic or step in (self._window_start(), self.config.num_steps) or self.best.is_due(step)

    def save(self) -> None:
        """Begins to write a checkpoint that `resume` continues from.

        Raises:
            CheckpointError: the last checkpoints could not be written.
        """
        trainer, keep = self.trainer, self.trainer.world.is_main
        whitening = self._whitening_memory()
        if not keep and not trainer.sharded:
            return
        self._writer.ready()  # before copying: there is never more than one copy
        optimizer, numbers = optimizer_tensors(trainer.optimizer, keep)  # already copies
        tensors = {
            "model": host_copies(trainer.model.state_dict(), keep),
            "model_avg": host_copies(trainer.average.mean, keep),
            "optimizer": optimizer,
        }
        if not keep:
            return
        meta = {
            "step": trainer.step,
            "epoch": trainer.epoch,
            "batch": trainer.batch,
            "world_size": trainer.world.size,
            "seen_seconds": trainer.seen_seconds,
            "valid_pending": trainer.valid_pending,
            "average_count": trainer.average.count,
            "whitening": whitening,
            "optimizer": numbers,
            "schedule": trainer.schedule.state_dict(),
            **self.best.entry(trainer.step, trainer.validated),
            **self._provenance,
        }
        directory = checkpoint.directory_of(self.config.exp_dir, trainer.step)
        self._writer.submit(directory, tensors, meta, self._prune)

    def wait(self) -> None:
        """Waits until the checkpoint is written, on all ranks.

        Raises:
            CheckpointError: it could not be written.
        """
        self._writer.wait()
        dist.barrier()

    def resume(self) -> None:
        """Continues from the newest whole checkpoint, if there is one.

        Raises:
            CheckpointError, CardError: it belongs to another run.
        """
        trainer = self.trainer
        if trainer.world.is_main:
            checkpoint.remove_unfinished(self.config.exp_dir)
        found = checkpoint.newest(self.config.exp_dir, trainer.identity)
        if found is None:
            return
        try:
            self._restore(*found)
        except (LookupError, AttributeError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
            if dist.is_broken_collective(error) or isinstance(error, torch.OutOfMemoryError):
                raise
            raise CheckpointError(
                f"{found[0]} does not hold the state of this run ({type(error).__name__}: {error})",
                "a checkpoint that spear train wrote, of these sizes",
                f"delete {found[0]} to go on from an older one, or choose another exp_dir for a new run",
            ) from error

    def _restore(self, directory: Path, meta: dict) -> None:
        trainer = self.trainer
        setup.check_resumable(self.config, meta, trainer.world.size, setup.cards(trainer.objectives))
        load_whole(trainer.model, checkpoint.read_tensors(directory, "model"))
        trainer.average.load(checkpoint.read_tensors(directory, "model_avg"), meta["average_count"])
        load_optimizer_tensors(trainer.optimizer, checkpoint.read_tensors(directory, "optimizer"), meta["optimizer"])
        if memory := meta.get("whitening"):
            set_whitening_memory(trainer.model, memory[trainer.world.rank % len(memory)])
        trainer.non_finite.start_at(trainer.optimizer.num_nonfinite)
        trainer.schedule.load_state_dict(meta["schedule"])
        trainer.step, trainer.epoch, trainer.batch = meta["step"], meta["epoch"], meta["batch"]
        trainer.seen_seconds, trainer.valid_pending = meta["seen_seconds"], meta.get("valid_pending", False)
        if meta["world_size"] != trainer.world.size:
            trainer.batch = trainer.batch * meta["world_size"] // trainer.world.size
        logger.info("resuming from %s: step %d, epoch %d, batch %d", directory, *self._position())

    def finish(self) -> Path:
        """Writes `final/`: the average over the last steps, ready for `spear.load_model`."""
        final = Path(self.config.exp_dir) / "final"
        self._writer.wait()
        trainer, is_main = self.trainer, self.trainer.world.is_main
        state = mean = {}
        if is_main or trainer.sharded:
            state = host_copies(trainer.model.state_dict(), is_main)
            mean = host_copies(trainer.average.mean, is_main)
        if is_main:
            state, made_of = {name: value.float() for name, value in state.items()}, {}
            start, count = self._window_start(), trainer.average.count
            found = None
            if start > 0:
                found = checkpoint.nearest(self.config.exp_dir, start, self.config.num_steps, trainer.identity)
            if found:
                directory, meta = found
                if count > meta["average_count"]:
                    earlier = checkpoint.read_tensors(directory, "model_avg")
                    state = window_mean(mean, count, earlier, meta["average_count"])
            if self.best.wanted:
                best, made_of = self.best.mean()
                state = best or state
            checkpoint.save(final, {"model": state}, {"step": trainer.step, **made_of, **self._provenance})
            logger.info("final model: %s", final)
        dist.barrier()
        return final

    def _whitening_memory(self) -> list[str]:
        """Of all ranks, whose activations differ; empty for encoders without a memory. All ranks call it."""
        memory = whitening_memory(self.trainer.model)
        return dist.gather_objects(memory) if memory else []

    def _prune(self) -> None:
        always = {self._window_start(), *self.best.steps()}
        checkpoint.prune(self.config.exp_dir, self.config.keep_checkpoints, always, self.trainer.identity)

    def _position(self) -> tuple[int, int, int]:
        return self.trainer.step, self.trainer.epoch, self.trainer.batch

    def _window_start(self) -> int:
        """The step after which the final average begins; its checkpoint is kept. -1 without averaging."""
        start = self.config.num_steps - self.config.average_last_steps
        return start if 0 < start < self.config.num_steps else -1

    @functools.cached_property
    def _provenance(self) -> dict:
        """What a reader of the checkpoint wants to know, and what `spear.load_model` needs."""
        return {
            "run_id": self.trainer.identity.run_id,
            "model_config": configuration.to_dict(self.config.model),
            "config": configuration.to_dict(self.config),
            "cards": setup.cards(self.trainer.objectives),
            "spear_version": __version__,
            "git_commit": env.git_commit(),
            "hardware": env.describe_hardware(),
        }
