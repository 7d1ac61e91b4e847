"""Things by name, of which installed packages may bring more: encoders, objectives."""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping

from spear.errors import ConfigError
from spear.log import get_logger

logger = get_logger(__name__)


class Plugins:
    """Classes by name: ours, which nobody can replace, and those of entry points; imported when they are asked for.

    Args:
        kind: what they are, for messages.
        group: the group of entry points under which a package names its own: `name = module:Class`.
        ours: name -> "module:Class".
        base: the class that they inherit.
        fits: whether a class of others may have a name.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        ours: Mapping[str, str],
        base: type,
        fits: Callable[[type, str], bool] = lambda found, name: True,
    ):
        self.kind, self.group, self._ours, self._base, self._fits = kind, group, dict(ours), base, fits
        self.forget()

    def forget(self) -> None:
        """Looks for packages again; they are looked for once in a process."""
        self._entries: dict[str, importlib.metadata.EntryPoint] | None = None
        self._loaded: dict[str, type] = {}
        self._classes: dict[str, type] | None = None

    def names(self) -> list[str]:
        """Names that `load` knows, ours first."""
        return [*self._ours, *sorted(self._found().keys() - self._ours.keys())]

    def load(self, name: str) -> type:
        """The class of a name.

        Raises:
            ConfigError: there is none, or the package that brings it cannot be imported, or brings something else.
        """
        if name not in self._loaded:
            self._loaded[name] = self._ours_of(name) if name in self._ours else self._of_others(name)
        return self._loaded[name]

    def _ours_of(self, name: str) -> type:
        module, attribute = self._ours[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def _of_others(self, name: str) -> type:
        entry = self._found().get(name)
        if entry is None:
            raise ConfigError(
                f"{self.kind}: '{name[:80]}'", "one of " + ", ".join(self.names()), f"correct the {self.kind}"
            )
        try:
            found = entry.load()
        except Exception as error:  # a package of others can fail in any way
            raise ConfigError(
                f"{self.kind} '{name}', whose package fails: {entry.value}: {type(error).__name__}: {error}",
                "a package that can be imported",
                "repair or remove the package",
            ) from error
        if not (isinstance(found, type) and issubclass(found, self._base) and self._fits(found, name)):
            wanted = f"a subclass of {self._base.__name__} of this name"
            raise ConfigError(f"{self.kind} '{name}': {entry.value} is {found!r}", wanted, "correct it")
        return found

    def classes(self) -> dict[str, type]:
        """The class of every name that can be imported; the others are told once."""
        if self._classes is None:
            self._classes = {}
            for name in self.names():
                try:
                    self._classes[name] = self.load(name)
                except ConfigError as error:
                    logger.warning("%s", error.found)
        return self._classes

    def _found(self) -> dict[str, importlib.metadata.EntryPoint]:
        if self._entries is None:
            self._entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=self.group)}
        return self._entries
