"""Errors that users see. Each says what was found, what was expected, and what to do about it."""

import importlib
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
