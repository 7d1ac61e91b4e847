"""One writer for a directory: a lock that names its holder, and needs no hand when its holder was killed.

The lock is a file made by a hard link, which is atomic on NFS as well. It says who holds it: host, process, when that
process started, what it runs. Whether the holder still lives is known at once on the same machine. A holder elsewhere
(another node, another container) renews the file every few seconds; one that does not change while we watch belongs to
nobody any more. Clocks of two machines are never compared.
"""

import atexit
import contextlib
import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from spear import fs, log
from spear.errors import DataError, SpearError

NAME = ".lock"
_BEAT_SECONDS = 10.0
_WATCH_SECONDS = 60.0  # several beats: NFS keeps the times of files for a while
logger = log.get_logger(__name__)
_held: dict[Path, "_Lock"] = {}


class LockedError(SpearError):
    """Another process writes to the directory."""


@contextlib.contextmanager
def hold(
    directory: str | Path, purpose: str, watch_seconds: float = _WATCH_SECONDS, name: str = NAME
) -> Iterator[None]:
    """Holds the lock of a directory inside the block; made by this process already, it is shared with it.

    Args:
        directory: which is made when missing, and goes again when nothing is written to it.
        purpose: what the holder does, such as "spear train", for the message to others.
        watch_seconds: how long a holder on another machine is watched before it counts as dead.
        name: of the lock file; processes that may write side by side have different ones.

    Raises:
        LockedError: another process holds it; says which, since when, and what to do.
        DataError: the directory cannot be made or written to.
    """
    place = Path(directory).resolve()
    if place in _held:
        yield
        return
    _held[place] = lock = _Lock(place / name, purpose)
    is_new = not place.exists()
    try:
        try:
            place.mkdir(parents=True, exist_ok=True)
            lock.take(watch_seconds)
        except OSError as error:
            raise DataError(
                f"{directory} cannot be written to ({error.strerror or error}; {_free(place)} free)",
                "a directory that may be written to, with room",
                "correct the rights, free space, or give another directory",
            ) from error
        yield
    finally:
        _held.pop(place, None)
        lock.release()
        if is_new:  # and nothing was written to it
            with contextlib.suppress(OSError):
                place.rmdir()


def refuse_if_held(directory: str | Path, watch_seconds: float = _WATCH_SECONDS) -> None:
    """For who is about to move or delete a directory.

    Raises:
        LockedError: a living process holds a lock in it or below it.
    """
    for path in sorted(Path(directory).resolve().rglob(f"{NAME}*")):
        _Lock(path, "").refuse(watch_seconds)


def _free(place: Path) -> str:
    with contextlib.suppress(OSError):
        return fs.human_bytes(fs.free_bytes(place))
    return "nothing known to be"


class _Lock:
    def __init__(self, path: Path, purpose: str):
        self.path = path
        self.content = {**_process(os.getpid()), "purpose": purpose, "token": secrets.token_hex(8)}
        self.content["since"] = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self._done = threading.Event()
        self._mine = False

    def take(self, watch_seconds: float) -> None:
        while not self._link():
            holder, changed = self._holder()
            if holder is None:
                continue  # given back in the meantime
            dead = self._is_dead(holder, changed, watch_seconds)
            if dead is None:
                continue
            if not dead:
                raise self._refusal(holder)
            logger.warning("taking over %s from process %s, which is gone", self.path.parent, holder.get("process"))
            self._take_away(holder)
        self._mine = True
        atexit.register(self.release)
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def refuse(self, watch_seconds: float) -> None:
        """Like `take` of a lock that somebody has, but leaves it alone when nobody has it."""
        holder, changed = self._holder()
        if holder and self._is_dead(holder, changed, watch_seconds) is False:
            raise self._refusal(holder)

    def _refusal(self, holder: dict) -> LockedError:
        who = f"{holder.get('purpose')}, process {holder.get('process')} on {holder.get('host')}"
        return LockedError(
            f"{self.path.parent} is being written by {who}, since {holder.get('since')}",
            "one writing command at a time in a directory",
            "wait for it, stop it, or give this run a directory of its own",
        )

    def release(self) -> None:
        """Gives the lock back, if it is ours (a forked child's copy is not)."""
        self._done.set()
        if self._mine and self.content["process"] == os.getpid():
            self._mine = False
            atexit.unregister(self.release)
            with contextlib.suppress(OSError, SpearError):
                if (self._read() or {}).get("token") == self.content["token"]:
                    self.path.unlink()

    def _link(self) -> bool:
        """Makes the lock file, whole, unless there is one."""
        mine = self.path.with_name(f"{self.path.name}.{self.content['token']}")
        try:
            mine.write_text(json.dumps(self.content), encoding="utf-8")
            try:
                os.link(mine, self.path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links; creating is atomic on local disks
                with contextlib.suppress(FileExistsError), open(self.path, "x", encoding="utf-8") as handle:
                    handle.write(json.dumps(self.content))
            return (self._read() or {}).get("token") == self.content["token"]
        finally:
            mine.unlink(missing_ok=True)

    def _read(self) -> dict | None:
        try:
            content = json.loads(self.path.read_bytes()[:4096])
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _holder(self) -> tuple[dict | None, int]:
        try:
            changed = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None, 0
        return self._read(), changed

    def _is_dead(self, holder: dict, changed: int, watch_seconds: float) -> bool | None:
        """Whether the holder is gone; None when it gave the lock back while we looked."""
        here = self.content
        if holder.get("machine") == here["machine"]:
            number = holder.get("process")
            now = _process(number) if isinstance(number, int) else {}
            return now.get("started") != holder.get("started") or not now.get("alive")
        logger.warning(
            "%s is locked from %s; watching for %.0f s whether that lives",
            self.path.parent,
            holder.get("host"),
            watch_seconds,
        )
        end = time.monotonic() + watch_seconds
        while time.monotonic() < end:
            time.sleep(min(1.0, watch_seconds))
            found, later = self._holder()
            if found is None:
                return None
            if later != changed or found.get("token") != holder.get("token"):
                return False
        return True

    def _take_away(self, holder: dict) -> None:
        """Removes a dead holder's lock; of several that try, one does, and a living holder's lock is put back."""
        away = self.path.with_name(f"{self.path.name}.stale.{self.content['token']}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, away)
            try:
                if json.loads(away.read_bytes()).get("token") != holder.get("token"):
                    with contextlib.suppress(OSError):
                        os.link(away, self.path)
            except (ValueError, AttributeError):
                pass
            away.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._done.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                if (self._read() or {}).get("token") == self.content["token"]:
                    os.utime(self.path)


def _process(number: int) -> dict:
    """Where a process runs, when it started, and whether it lives (a zombie does not)."""
    found = {"host": platform.node(), "machine": _machine(), "process": number, "started": "", "alive": False}
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return found | {"started": fields[19], "alive": fields[0] not in "ZX"}
    except (OSError, IndexError):
        if sys.platform.startswith("linux"):
            return found
    with contextlib.suppress(OSError, OverflowError, ValueError):  # where there is no /proc
        os.kill(number, 0)
        found["alive"] = True
    return found


def _machine() -> str:
    """Names a place in which process numbers mean something: one boot of a machine, one container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return fs.sha256_bytes("|".join(parts).encode())[:16]
