"""What to do when a step goes wrong."""

from collections.abc import Sequence
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

    def check(self, total: int, step: int, ids: list[str], batches: Sequence[tuple[list[str], dict]] = ()) -> None:
        """Takes the optimizer's count after a step; names the cuts of a skipped step, those of all ranks.

        Gradients are summed over ranks before they are looked at, so that all ranks skip the same steps.

        Args:
            total: steps that the optimizer skipped so far.
            step: the number of this one.
            ids: its cuts.
            batches: (cuts, `PretrainOutput.stats`) of each batch of the step. Where the loss of some batch is not
                finite, its cuts alone are named, with the streams; the numbers are looked at after a skipped step only.

        Raises:
            DataError: the limit is reached.
        """
        if total <= self.known:
            self.known = total
            return
        self.known = total
        bad = [(cuts, names) for cuts, stats in batches if (names := _not_finite(stats))]
        ranks = dist.gather_objects((ids, bad))
        streams = sorted({name for _, found in ranks for _, names in found for name in names})
        ids = [each for _, found in ranks for cuts, _ in found for each in cuts] or [e for of, _ in ranks for e in of]
        self.rows.append({"step": step, "ids": ids} | ({"streams": streams} if streams else {}))
        what = f"loss of {', '.join(streams)}" if streams else "gradient"
        logger.warning(
            "step %d skipped: %s not finite; cuts %s (%d so far)", step, what, ", ".join(ids), len(self.rows)
        )
        if len(self.rows) >= self.limit:
            fs.write_jsonl(self.path, self.rows)
            raise DataError(
                f"{len(self.rows)} steps with non-finite gradients; the last cuts are listed in {self.path}",
                "finite losses",
                "look at those cuts first (silence, clipping, wrong rate); then lower optimizer.base_lr; "
                "then use precision fp32",
            )


def _not_finite(stats: dict) -> list[str]:
    """The streams whose summed loss (column 0 of `PretrainOutput.stats`) is no number."""
    return [name for name, values in stats.items() if not bool(values[:, 0].isfinite().all())]
