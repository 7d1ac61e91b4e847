"""Errors that users see. Each says what was found, what was expected, and what to do about it."""

import errno
import importlib
import os
import re
from collections.abc import Iterable
from types import ModuleType


class SpearError(Exception):
    """A mistake in input, configuration or environment that the user can repair.

    The message has three parts, so that nobody has to read our source to understand it.

    Args:
        found: what is there now, with its name or path.
        expected: what should be there.
        fix: the command, option or action that repairs it.
    """

    def __init__(self, found: str, expected: str, fix: str):
        self.found, self.expected, self.fix = found, expected, fix
        super().__init__(f"found: {found}\n  expected: {expected}\n  to fix: {fix}")

    def __reduce__(self):
        # Exceptions are pickled by their `args`, which hold the joined message; workers need the three parts.
        return (type(self), (self.found, self.expected, self.fix))


class ConfigError(SpearError):
    """A key, value or combination of settings that cannot work."""


class DataError(SpearError):
    """A recording, manifest or array that cannot be used."""


class CardError(SpearError):
    """Tokens, a quantizer or a teacher whose card does not fit what they are used with."""


class CheckpointError(SpearError):
    """A checkpoint that is truncated, foreign or does not fit the configuration."""


class MissingPackageError(SpearError, ImportError):
    """An optional package that is not installed."""


class MachineError(SpearError):
    """A disk without room, a missing right, or anything else that the operating system refuses."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def of_machine(error: BaseException) -> MachineError | None:
    """What the operating system refused, in three parts; None for errors of another kind.

    Libraries that write files by themselves (safetensors, torch.save) put the system's error into a text of their own.
    """
    if isinstance(error, OSError) and not isinstance(error, SpearError):
        number, text = error.errno, error.strerror or str(error)
    elif found := re.search(r"\(os error (\d+)\)", str(error)):
        number, text = int(found[1]), os.strerror(int(found[1]))
    elif "PytorchStreamWriter failed" in str(error):
        number, text = errno.ENOSPC, "a file could not be written whole"
    else:
        return None
    filename = getattr(error, "filename", None)
    name = filename.decode(errors="surrogateescape") if isinstance(filename, bytes) else filename
    place = f": {name}" if name is not None else ""
    if number in _NO_ROOM:
        return MachineError(
            f"no room to write ({text}){place}",
            "room on the disk, and within its quotas and limits",
            "make room or choose another output, and run again: there is no half-written file, finished parts are kept",
        )
    if number in _NO_RIGHT:
        return MachineError(
            f"no right to read or write there ({text}){place}",
            "files and folders that this user may read, and an output that it may write to",
            "change the rights (chmod, chown), or choose another path",
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return MachineError(f"{text}{place}", "a higher limit of open files", "ulimit -n 65536, and run again")
    return MachineError(
        f"{text}{place}",
        "a path that the system can read and write",
        "correct the path, or look at the disk and its mount",
    )


def reasons(refused: Iterable[dict]) -> str:
    """The first three different reasons among {reason} of what cannot be used, behind a colon; empty where none is."""
    found = sorted({bad["reason"] for bad in refused})[:3]
    return ": " + "; ".join(found) if found else ""


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Imports an optional dependency where it is used.

    Args:
        module: the name to import, such as ``transformers``.
        package: what to give to pip, such as ``transformers>=4.40``.
        purpose: what needs it, for the message.

    Raises:
        MissingPackageError: the module cannot be imported; the message holds the install command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"the package '{module}' cannot be imported ({error})",
            f"it to be installed, because {purpose} needs it",
            f"pip install '{package}'",
        ) from error
