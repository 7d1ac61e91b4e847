"""What to do when a step goes wrong."""

from pathlib import Path

from spear import dist, fs
from spear.errors import DataError
from spear.log import get_logger

logger = get_logger(__name__)


class NonFiniteSteps:
    """Counts steps whose gradients were not finite (the optimizer skips them on every rank alike).

    Args:
        limit: after so many, training stops.
        exp_dir: where the list of cuts goes.
    """

    def __init__(self, limit: int, exp_dir: Path):
        self.limit, self.path, self.known = limit, exp_dir / "non_finite_steps.jsonl", 0
        self.rows: list[dict] = []

    def start_at(self, total: int) -> None:
        """Takes over the count of a run that is resumed: those steps were reported when they happened."""
        self.known = total

    def check(self, total: int, step: int, ids: list[str]) -> None:
        """Takes the optimizer's count after a step; names the cuts of a skipped step, those of all ranks.

        Gradients are summed over ranks before they are looked at, so that all ranks skip the same steps.

        Raises:
            DataError: the limit is reached.
        """
        if total <= self.known:
            self.known = total
            return
        self.known = total
        ids = [each for of_rank in dist.gather_objects(ids) for each in of_rank]
        self.rows.append({"step": step, "ids": ids})
        logger.warning(
            "step %d skipped: gradient not finite; cuts %s (%d so far)", step, ", ".join(ids), len(self.rows)
        )
        if len(self.rows) >= self.limit:
            fs.write_jsonl(self.path, self.rows)
            raise DataError(
                f"{len(self.rows)} steps with non-finite gradients; the last cuts are listed in {self.path}",
                "finite losses",
                "look at those cuts first (silence, clipping, wrong rate); then lower optimizer.base_lr; "
                "then use precision fp32",
            )
