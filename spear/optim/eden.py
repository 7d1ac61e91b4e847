"""Eden: a learning rate that decays with batches and with epochs or hours (Zipformer, arXiv 2310.11230)."""

from torch.optim import Optimizer

from spear.errors import ConfigError


def eden_factor(
    batch: float,
    progress: float,
    *,
    lr_batches: float,
    lr_progress: float | None,
    warmup_batches: float,
    warmup_start: float,
) -> float:
    """What the base learning rate is multiplied by: a pure function of where training is.

    Args:
        batch: batches done.
        progress: epochs or hours of audio done.
        lr_batches, lr_progress: after so many, the decay begins in earnest: ((x^2 + c^2) / c^2)^-0.25. None: no decay.
        warmup_batches: linear rise from `warmup_start` to 1 over so many batches.
    """
    factor = ((batch**2 + lr_batches**2) / lr_batches**2) ** -0.25
    if lr_progress is not None:
        factor *= ((progress**2 + lr_progress**2) / lr_progress**2) ** -0.25
    if batch < warmup_batches:
        factor *= warmup_start + (1.0 - warmup_start) * batch / warmup_batches
    return factor


class Eden:
    """Sets the learning rate of every group to its own base rate times `eden_factor`.

    Pre-training counts hours of audio: `lr_hours`, then `step_hours(hours)` as it goes. The classic schedule counts
    epochs: `lr_epochs`, then `step_epoch(epoch)`. Call `step_batch` before each step.

    Raises:
        ConfigError: both `lr_epochs` and `lr_hours`, or a constant that is not positive.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float = 7500.0,
        lr_epochs: float | None = None,
        *,
        lr_hours: float | None = None,
        warmup_batches: float = 500.0,
        warmup_start: float = 0.5,
    ):
        constants = [value for value in (lr_batches, lr_epochs, lr_hours) if value is not None]
        if len(constants) > 2 or min(constants) <= 0 or warmup_batches < 0 or not 0 <= warmup_start <= 1:
            raise ConfigError(
                f"lr_batches {lr_batches}, lr_epochs {lr_epochs}, lr_hours {lr_hours}, warm-up over {warmup_batches} "
                f"batches from {warmup_start}",
                "positive constants, lr_epochs or lr_hours but not both, a warm-up start within [0, 1]",
                "correct the schedule's settings",
            )
        self._optimizer = optimizer
        self._constants = {
            "lr_batches": lr_batches,
            "lr_progress": lr_epochs if lr_hours is None else lr_hours,
            "warmup_batches": warmup_batches,
            "warmup_start": warmup_start,
        }
        self.batch, self.progress = 0.0, 0.0
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self._apply()

    def step_batch(self, batch: float | None = None) -> None:
        """Says how many batches are done (None: one more)."""
        self.batch = self.batch + 1 if batch is None else batch
        self._apply()

    def step_epoch(self, epoch: float | None = None) -> None:
        """Says how many epochs are done (None: one more); fractions are welcome."""
        self.progress = self.progress + 1 if epoch is None else epoch
        self._apply()

    def step_hours(self, hours: float) -> None:
        """Says how many hours of audio all processes have seen."""
        self.progress = hours
        self._apply()

    @property
    def last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self._optimizer.param_groups]

    def state_dict(self) -> dict:
        """Numbers only."""
        return {"batch": self.batch, "progress": self.progress, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: dict) -> None:
        """Continues from a `state_dict()`; the constants are those of this object."""
        self.batch, self.progress = state["batch"], state["progress"]
        self.base_lrs = list(state["base_lrs"])
        self._apply()

    def _apply(self) -> None:
        factor = eden_factor(self.batch, self.progress, **self._constants)
        for group, base_lr in zip(self._optimizer.param_groups, self.base_lrs):
            group["lr"] = base_lr * factor
