"""A thread beside the training: it ends this rank when another has failed, and says where a rank stands that hangs."""

import faulthandler
import multiprocessing
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from spear import dist
from spear.errors import SpearError
from spear.log import get_logger, human_seconds
from spear.train.signals import EXIT_CODE, StopRequest

logger = get_logger(__name__)
# How long a rank whose collective failed waits for the news of another rank's error, and how often it looks.
GRACE_SECONDS = 5.0
_POLL_SECONDS = 1.0
# A request to stop is followed at the end of a step. A rank that does not get there in this time and three times the
# step before waits for a worker or a rank that will not come, and is ended.
STOP_SECONDS = 30.0


class Watch:
    """Failures of other ranks, and steps that do not end.

    Args:
        world: this process among all.
        directory: the stacks of a rank that hangs are written here.
        stall_seconds: without a `beat` for so long, the stacks of all threads are written.
    """

    def __init__(self, world: dist.World, directory: str | Path, stall_seconds: float):
        self.world, self.directory, self.stall_seconds = world, Path(directory), stall_seconds
        self.board = dist.FailureBoard(world)
        self._doing, self._since, self._reported = "starting", time.monotonic(), False
        self._step_seconds, self._kind, self._asked = 0.0, "", 0.0
        self._stop: StopRequest | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> "Watch":
        """Begins to watch."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends watching: what comes now is the orderly end of the process group."""
        self._ended.set()
        self._thread.join(timeout=10)

    def heed(self, stop: StopRequest) -> None:
        """Ends this rank when it cannot follow a request to stop."""
        self._stop = stop

    def beat(self, doing: str, kind: str = "") -> None:
        """Says what begins now; every step and every phase calls it.

        Args:
            doing: in words.
            kind: `step`; or `saving`, which may take its time although a signal asked to stop.
        """
        now = time.monotonic()
        if self._kind == "step":
            self._step_seconds = now - self._since
        self._doing, self._since, self._reported, self._kind = doing, now, False, kind

    def report(self, error: Exception) -> None:
        """Prints this rank's error, unless another rank's came first, and tells the others.

        A rank that dies makes the collectives of all others fail; whose error is printed must not depend on luck.
        """
        cause = self._failure_elsewhere() if dist.is_broken_collective(error) else ""
        if not cause and not self._claim():
            cause = self._failure_elsewhere() or "another rank failed at the same moment"
        if cause:
            logger.error("rank %d ends because of %s", self.world.rank, cause)
            return
        text = str(error) if isinstance(error, SpearError) else "".join(traceback.format_exception(error)).rstrip()
        print(f"rank {self.world.rank}: error\n  {text}", file=sys.stderr, flush=True)
        logger.error("rank %d failed while %s: %s", self.world.rank, self._doing, error)
        try:
            self.board.post(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        except Exception:  # the store is gone, and with it everybody who could read this
            logger.debug("nobody to tell", exc_info=True)

    def _claim(self) -> bool:
        try:
            return self.board.claim()
        except Exception:
            return True  # the store is gone: this rank can only speak for itself

    def _failure_elsewhere(self) -> str:
        """Another rank's error, waiting a little for it."""
        deadline = time.monotonic() + (GRACE_SECONDS if self.world.size > 1 else 0)
        while time.monotonic() < deadline:
            try:
                if cause := self.board.read():
                    return cause
            except ConnectionError:
                return ""
            time.sleep(0.1)
        return ""

    def _run(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            try:
                cause = self.board.read()
            except ConnectionError as error:
                # Rank 0 or torchrun is gone. The main thread notices too, unless it hangs in a collective.
                if self._ended.wait(4 * GRACE_SECONDS):
                    return
                self._end(f"the store of the process group is gone ({error})")
                return
            if cause and not self._ended.wait(2 * GRACE_SECONDS):
                self._end(cause)
            self._end_if_it_cannot_stop()
            idle = time.monotonic() - self._since
            if idle > self.stall_seconds and not self._reported:
                self._reported = True
                self._dump(idle)

    def _end_if_it_cannot_stop(self) -> None:
        name = "" if self._stop is None else self._stop.poll()  # it is false until then
        if not name:
            return
        now = time.monotonic()
        self._asked = self._asked or now
        patience = 2 * self.stall_seconds if self._kind == "saving" else STOP_SECONDS + 3 * self._step_seconds
        idle = now - max(self._asked, self._since)
        if idle > patience:
            self._dump(idle)
            self._end(f"{name}: it is {self._doing} and cannot save; the newest checkpoint goes on", EXIT_CODE)

    def _end(self, cause: str, code: int = 1) -> None:
        """Ends the process from this thread: the main one sits in a collective that nothing can interrupt."""
        logger.error("rank %d ends because of %s", self.world.rank, cause)
        sys.stderr.flush()
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(code)

    def _dump(self, idle: float) -> None:
        path = self.directory / f"stacks.rank{self.world.rank}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(f"{time.strftime('%F %T')} rank {self.world.rank}: {self._doing} for {idle:.0f} s\n")
            handle.flush()
            faulthandler.dump_traceback(handle, all_threads=True)
        logger.warning(
            "rank %d has been %s for %s; the stacks of its threads are in %s%s",
            self.world.rank,
            self._doing,
            human_seconds(idle),
            path,
            ". Compare the ranks: the one that is not in a collective is the one the others wait for"
            if self.world.size > 1
            else "",
        )
