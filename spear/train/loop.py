"""The training loop: the only one of the project.

A run is a function of its configuration and data. Everything random in step s comes from streams named by the batches
of that step, so that a run that was killed and resumed goes on exactly as if nothing had happened.
"""

import contextlib
import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from spear import compat, dist, env
from spear import config as configuration
from spear.data import Batch, make_loader
from spear.log import get_logger
from spear.memory import keep_freed_memory
from spear.models.mask import sample_masks
from spear.models.spec_augment import spec_augment
from spear.nn import kept_whitening_memory
from spear.optim import Eden
from spear.seeds import numpy_rng, seed_global
from spear.train import collapse, runs, setup, sharding, startup
from spear.train.averaging import RunningAverage
from spear.train.config import TrainConfig
from spear.train.global_batch import settle_accumulation
from spear.train.health import NonFiniteSteps
from spear.train.metrics import MetricsLog, Window
from spear.train.rehearsal import Rehearsal, Rehearser, resolve_auto
from spear.train.saving import Saver
from spear.train.signals import Interrupted, StopRequest
from spear.train.throughput import DataWait, matmul_peak
from spear.train.validation import validate
from spear.train.watch import Watch

logger = get_logger(__name__)


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


class Trainer:
    """One run.

    Args:
        config: what to train on, and how.
        world: this process among all.
        watch: notices failures of other ranks and steps that hang; None for one that was not started.

    Position: `step` counts finished optimizer steps, `epoch` and `batch` say where the plan goes on.
    """

    def __init__(self, config: TrainConfig, world: dist.World, watch: Watch | None = None):
        self.config, self.world = config, world
        self.watch = watch or Watch(world, Path(config.exp_dir) / "logs", config.timeout_minutes * 30)
        self.data = setup.load_data(config, world.size)
        self.objectives = setup.make_objectives(config, self.data, world.device)
        self.mask = setup.mask_of(config, self.objectives)
        self.model = setup.make_model(config, self.objectives, world.device)
        self.sharded = config.parallel == "fsdp" and world.size > 1
        if self.sharded:
            sharding.shard(self.model, world)
        self.scheduled = setup.schedules(self.model, config.optimizer.first_batch_count)
        self.average = RunningAverage(self.model)
        self.optimizer = setup.make_optimizer(config, self.model)
        self.schedule = Eden(
            self.optimizer,
            lr_batches=config.optimizer.lr_batches,
            lr_hours=config.optimizer.lr_hours,
            warmup_batches=config.optimizer.warmup_batches,
        )
        bf16 = config.precision == "bf16" or (config.precision == "auto" and env.fast_bf16(world.device))
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        compat.allow_tf32(world.device, self.dtype)
        self.step, self.epoch, self.batch, self.seen_seconds = 0, 0, 0, 0.0
        self.validated: tuple[int, dict] = (-1, {})  # step and numbers of the last validation
        self.valid_pending = False  # a signal came during validation: it is done again after resuming
        self.non_finite = NonFiniteSteps(config.max_non_finite_steps, Path(config.exp_dir))
        self.stop = StopRequest()
        self.rehearsal: Rehearsal | None = None
        self.peak_flops = 0.0
        self.data_wait = DataWait(config.num_workers)
        self.probe: Batch | None = None
        self.loader_seconds = 54 * config.timeout_minutes  # before the collective of the ranks that wait for this one
        patience_steps = max(1000, 2 * int(config.optimizer.warmup_batches))
        self.collapse = collapse.CollapseWatch(self.objectives, patience_steps, quiet=not world.is_main)

    def run(self) -> Path:
        """Trains to `num_steps` and returns the directory of the final model.

        Raises:
            Stopped: a signal came; the state was saved first.
        """
        self.stop.install()
        self.watch.heed(self.stop)
        try:
            return self._run()
        finally:
            self.stop.restore()

    def _run(self) -> Path:
        if self.world.device.type == "cpu":
            keep_freed_memory()
        self.identity = runs.identify(self.config, self.world)
        startup.check_data(self.config, self.world)
        self._resolve_auto()
        settle_accumulation(self.config, self.world.size)
        self.saver = Saver(self)
        self.saver.resume()
        if self.step == 0 and self.config.init_from:
            setup.start_from(self.model, self.config.init_from)
        self._compare_ranks()
        if self.world.is_main:  # after the resume: a run that is refused must not overwrite the settings of the old one
            runs.write(self.config.exp_dir, self.identity)
            configuration.dump_yaml(self.config, Path(self.config.exp_dir) / "config.yaml")
            for objective in self.objectives.values():
                objective.save(Path(self.config.exp_dir))
        self._describe()
        self._rehearse()
        self.wrapped = self._wrap()
        self.log = MetricsLog(
            self.objectives,
            self.config.exp_dir,
            self.world.is_main,
            self.config.num_steps,
            self.step,
            self.config.tensorboard,
            self.identity.run_id,
        )
        self.window = Window(self.objectives, self.world.device)
        if self.valid_pending:
            self._validate()
            self._save_if_due()
        while self.step < self.config.num_steps:
            self._run_epoch()
        self.log.close()
        self.watch.beat("writing the final model", kind="saving")
        return self.saver.finish()

    def _compare_ranks(self) -> None:
        """Stops all ranks when they are not about to do the same."""
        plan = self.data.train.plan(self.epoch, self.world.size, self.config.accumulation)
        position = f"step {self.step} epoch {self.epoch} batch {self.batch}"
        startup.check_ranks(startup.identity(self.config, plan.hash, self.model, position))

    def _rehearse(self) -> None:
        """Runs the costliest batches before the first step, one of them after a resume: what fails, fails now."""
        if self.config.rehearsal_batches and self.step < self.config.num_steps:
            self.watch.beat("in the rehearsal of the costliest batches")
            count = self.config.rehearsal_batches if self.step == 0 else 1
            plan = self.data.train.plan(self.epoch, self.world.size, self.config.accumulation)
            with kept_whitening_memory(self.model):
                self.rehearsal = self._rehearser().run(plan, self.epoch, count)
            self.peak_flops = matmul_peak(self.world.device, self.dtype)

    def _resolve_auto(self) -> None:
        """Replaces `plan.max_seconds: auto` by what the memory holds."""
        if self.config.plan.max_seconds == "auto":
            with kept_whitening_memory(self.model):
                limits = resolve_auto(self.config, self.data.train, self._rehearser(), self.identity)
            self.data.train.limits = limits
            self.config.plan = dataclasses.replace(self.config.plan, max_seconds=limits.max_seconds)

    def _rehearser(self) -> Rehearser:
        self.wrapped = self.model
        self._set_batch_count()
        self.model.train()
        return Rehearser(self.model, self.data.train, self.config, self.world, self._forward, self._targets)

    def _run_epoch(self) -> None:
        loader = make_loader(
            self.data.train,
            self.epoch,
            self.batch,
            self.world.rank,
            self.world.size,
            self.config.num_workers,
            accumulation=self.config.accumulation,
            pin_memory=self.world.device.type == "cuda",
            timeout_seconds=self.loader_seconds,
        )
        batches = iter(loader)
        while self.batch < loader.plan.num_steps and self.step < self.config.num_steps:
            with contextlib.suppress(Interrupted):  # nothing of the step has been done: its state is that before it
                self._train_step(batches, loader.plan)
                self._housekeeping()
                continue
            self._save_if_due()
        if self.batch >= loader.plan.num_steps:
            self.epoch, self.batch = self.epoch + 1, 0

    def _train_step(self, batches, plan) -> None:
        """One optimizer step: `accumulation` batches per rank, gradients summed over them and over ranks."""
        self.watch.beat(f"in step {self.step + 1}", kind="step")
        ids, parts = [], []
        for part in range(self.config.accumulation):
            asked = time.perf_counter()
            # Several ranks can only stop together, after a step that all of them have done.
            with self.stop.interrupts(part == 0 < self.step and self.world.size == 1):
                batch: Batch = next(batches)
            waited = time.perf_counter() - asked
            number = plan.global_batch(self.batch, self.world.rank)
            last = part == self.config.accumulation - 1
            output = self._forward(batch.to(self.world.device), number, synchronise=last)
            self.window.add(
                output.stats,
                batch.seconds,
                audio_seconds=batch.audio_seconds,
                wait_seconds=waited,
                padded_seconds=batch.padded_seconds,
            )
            ids += batch.ids
            parts.append((batch.ids, output.stats))
            self.batch += 1
        # Padded seconds of the whole step are known to every rank from the plan; no communication is needed.
        self.seen_seconds += self._step_seconds(plan)
        self._set_batch_count()
        self.schedule.step_batch(self.step)
        self.schedule.step_hours(self.seen_seconds / 3600)
        if self.sharded:
            sharding.average_gradients(self.model)
        self.optimizer.step()
        self.non_finite.check(self.optimizer.num_nonfinite, self.step, ids, parts)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step == self.config.freeze_encoder_steps:
            self.wrapped = self._wrap()

    def _forward(self, batch: Batch, number: int, synchronise: bool):
        """Forward and backward pass of one batch; returns the model's output."""
        rng = numpy_rng(self.config.seed, "mask", self.epoch, number)
        inputs = self._augmented(self.inputs(batch, rng), number)
        # Dropout, layer skips and the like draw from torch's global generator inside the model.
        seed_global(self.config.seed, "model_noise", self.epoch, number)
        if isinstance(self.wrapped, DistributedDataParallel):
            self.wrapped.require_backward_grad_sync = synchronise
        with compat.autocast(self.world.device.type, self.dtype):
            output = self.wrapped(*inputs)
        # DDP and FSDP divide the summed gradients by the number of ranks; the loss is a sum, so that is undone here.
        (output.loss * self.world.size).backward()
        return output

    def _augmented(self, inputs: tuple, number: int) -> tuple:
        """The inputs with features changed as `spec_augment` says; targets were made before."""
        rng = numpy_rng(self.config.seed, "spec_augment", self.epoch, number)
        return spec_augment(*inputs[:2], self.config.spec_augment, rng), *inputs[1:]

    def inputs(self, batch: Batch, rng) -> tuple:
        """Arguments of the model: features, targets, weights, and masks when `rng` is given."""
        device, targets = self.world.device, self._targets(batch)
        weights = {
            name: torch.tensor([self.config.stream_weight(name, domain) for domain in batch.domains], device=device)
            for name in self.objectives
        }
        masks: list[Tensor | None] = [None, None]
        if rng is not None:
            _, num_frames, num_channels = batch.features_BTF.shape
            arrays = sample_masks(batch.feature_lens_B.tolist(), num_frames, num_channels, self.mask, rng)
            masks = [torch.from_numpy(array).to(device) for array in arrays]
        return batch.features_BTF, batch.feature_lens_B, targets, weights, *masks

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        """Every stream's targets."""
        lens_B = self.model.output_lengths(batch.feature_lens_B)
        return {name: objective.targets(batch, lens_B) for name, objective in self.objectives.items()}

    def _step_seconds(self, plan) -> float:
        """Padded seconds of the optimizer step just done, over all ranks."""
        first = (self.batch - self.config.accumulation) * self.world.size
        return float(plan.batch_seconds[first : self.batch * self.world.size].sum())

    def _housekeeping(self) -> None:
        """What happens between steps: averaging, logging, validation, saving, stopping."""
        config, step = self.config, self.step
        if step % config.average_every_steps == 0:
            self.average.update(self.model)
        if step % config.log_every_steps == 0 or step == config.num_steps:
            self._log_window()
        if step % config.valid_every_steps == 0 or step == config.num_steps:
            self._look_for_collapse()
            if self.data.valid:
                self._validate()
        self._save_if_due()

    def _save_if_due(self) -> None:
        """Saves, periodically or because a signal came to any rank.

        Raises:
            Stopped: a signal came.
        """
        step, stopping = self.step, dist.any_(bool(self.stop))
        if stopping or self.saver.is_due(step):
            self.watch.beat(f"saving at step {step}", kind="saving")
            self.saver.save()
            self.watch.beat(f"after step {step}")
            stopping = dist.any_(bool(self.stop))
        if stopping:
            self.saver.wait()
            raise Stopped(f"{self.stop.signal_name or 'a signal on another rank'} at step {step}")

    def _log_window(self) -> None:
        row = {"epoch": self.epoch, "seconds": time.perf_counter() - self.log.start, **self.window.reduce()}
        row["audio_hours"] = self.seen_seconds / 3600
        if self.rehearsal:
            done = self.rehearsal.flops.done(self.window.host["padded_seconds"])
            row["mfu"] = sum(done.values()) / self.window.elapsed / self.peak_flops
            row |= self.rehearsal.flops.done(self.seen_seconds)
        steps = self.window.batches // self.config.accumulation
        self.data_wait.add(steps, self.window.host["wait_seconds"], self.window.elapsed, self.window.loading)
        row["lr"] = self.schedule.last_lr[0]
        row["grad_norm"] = self.optimizer.last_grad_norm
        row["clipped_share"] = self.optimizer.fraction_clipped
        self.log.write(self.step, row)
        self.window = Window(self.objectives, self.world.device)

    def _look_for_collapse(self) -> None:
        """Logs what predictions and the encoder's output are like, on a batch that never changes."""
        if not self.world.is_main and not self.sharded:
            return
        row, words = self.collapse.look(self.model, self.probe_inputs(), self.dtype, self.step)
        self.log.write(self.step, row, "probe/", words)

    def probe_inputs(self) -> tuple:
        """Arguments of the model for a masked batch that never changes."""
        if self.probe is None:
            self.probe = collapse.probe_batch(self.data.valid or self.data.train, self.data.train.limits.max_seconds)
        return self.inputs(self.probe.to(self.world.device), collapse.probe_rng())

    def _validate(self) -> None:
        """Logs the losses on the held-out cuts; a signal breaks off."""
        self.valid_pending = True
        row = validate(self)
        if row is not None:
            self.valid_pending, self.validated = False, (self.step, row)
            self.log.write(self.step, row, prefix="valid/")
        self.window = Window(self.objectives, self.world.device)  # its time is no training time

    def _wrap(self) -> torch.nn.Module:
        self.model.train()
        self.model.freeze_encoder(self.step < self.config.freeze_encoder_steps)
        self._set_batch_count()
        if self.world.size == 1 or self.sharded:
            return self.model
        return compat.distributed_data_parallel(self.model, self.world.device)

    def _set_batch_count(self) -> None:
        count = self.seen_seconds / self.config.optimizer.reference_seconds
        for value, first in self.scheduled:
            value.set_batch_count(first + count)

    def audio_hours(self, num_steps: int) -> float:
        """Of so many steps of all ranks, padding included."""
        plan = self.data.train.plan(self.epoch, self.world.size, self.config.accumulation)
        batches = num_steps * self.config.accumulation * self.world.size
        return float(plan.batch_seconds.mean()) * batches / 3600

    def _describe(self) -> None:
        if self.world.is_main:
            hours = self.audio_hours(self.config.num_steps)
            for line in (line for objective in self.objectives.values() for line in objective.costs(hours)):
                logger.info("%s", line)
        parameters = sum(p.numel() for p in self.model.parameters())
        modules = (self.model.encoder_embed, self.model.encoder)
        encoder = sum(p.numel() for module in modules for p in module.parameters())
        logger.info(
            "%s parameters (%s in the encoder), %s on %s, %d rank(s)%s, steps %d to %d",
            f"{parameters:,}",
            f"{encoder:,}",
            str(self.dtype).removeprefix("torch."),
            self.world.device,
            self.world.size,
            " that share the layers" if self.sharded else "",
            self.step,
            self.config.num_steps,
        )
