"""One failing task or upstream never takes the others with it: it is left out, told in three parts, and all go on."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spear.errors import DataError, SpearError
from spear.evaluate.cache import FeatureCache
from spear.log import get_logger
from spear.manifest import Item

logger = get_logger(__name__)


@dataclass(frozen=True)
class Failure:
    """What could not be scored, and why.

    Attributes:
        task: its name; empty when no task of the upstream could be.
        upstream: its name or specification; empty when the task could be scored for none.
    """

    task: str
    upstream: str
    error: SpearError

    def __str__(self) -> str:
        what = [f"task {self.task}" if self.task else "", f"upstream {self.upstream}" if self.upstream else ""]
        return f"not scored: {', '.join(filter(None, what))}\n  {self.error}"


def isolated(work: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """A unit of work that returns `{"failed": [found, expected, fix]}` instead of ending the run of all units."""

    @functools.wraps(work)
    def attempt(unit: dict) -> dict:
        try:
            return work(unit)
        except Exception as error:
            if os.environ.get("SPEAR_TRACEBACK") == "1":
                raise
            return {"failed": parts(error)}

    return attempt


def parts(error: Exception) -> list[str]:
    """[found, expected, fix] of any error."""
    if isinstance(error, SpearError):
        return [error.found, error.expected, error.fix]
    return [
        f"{type(error).__name__}: {error}",
        "data and an encoder that can be scored",
        "repair the cause and run again: finished scores are kept (SPEAR_TRACEBACK=1 shows where it happened)",
    ]


def note(failures: list[Failure], task: str, upstream: str, error: SpearError | Sequence[str]) -> None:
    """Adds a failure and logs it at once: what else is to be scored may take hours."""
    failures.append(Failure(task, upstream, error if isinstance(error, SpearError) else DataError(*error)))
    logger.error("%s", failures[-1])


def settle(failures: list[Failure], wanted: list[Failure] | None, num_runs: int) -> None:
    """Hands the failures to a caller who asked for them, as long as there is some score; else raises the first.

    Raises:
        SpearError: the first failure.
    """
    if wanted is not None and (num_runs or not failures):
        wanted += failures
    elif failures:
        raise failures[0].error


def ensure_by_task(
    cache: FeatureCache, items: Mapping[str, Mapping[str, Item]], of_frames: set[str]
) -> dict[str, list[str]]:
    """Fills a cache for several tasks; one run of the encoder serves all that use an utterance.

    Args:
        items: task -> key -> item.
        of_frames: tasks that need frames.

    Returns:
        Task -> [found, expected, fix] of those whose features cannot be computed.
    """
    failed: dict[str, list[str]] = {}
    wanted: dict[str, Item] = {}
    frame_keys: set[str] = set()
    for task, of_task in items.items():
        more = frame_keys | set(of_task) if task in of_frames else frame_keys
        try:
            # Before the encoder runs: what there is no room for takes nothing from the others.
            cache.check_room(wanted | dict(of_task), more)
        except SpearError as error:
            failed[task] = parts(error)
        else:
            wanted, frame_keys = wanted | dict(of_task), more
    rest = [task for task in items if task not in failed]
    try:
        cache.ensure(wanted, frame_keys)
        return failed
    except SpearError as error:
        if len(rest) < 2:
            return failed | {task: parts(error) for task in rest}
    # Tasks on time means come first: they need little room.
    for task in sorted(rest, key=lambda name: name in of_frames):
        try:
            cache.ensure(items[task], set(items[task]) if task in of_frames else set())
        except SpearError as error:
            failed[task] = parts(error)
    return failed
