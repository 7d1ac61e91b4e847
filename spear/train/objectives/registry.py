"""Objectives by name: ours, and those that installed packages bring."""

import functools
import importlib
import importlib.metadata

from spear.errors import ConfigError
from spear.log import get_logger
from spear.train.objectives.base import Objective

logger = get_logger(__name__)
ENTRY_POINTS = "spear.objectives"
"""The group of entry points under which a package names its objectives: `name = module:Class`."""

_OURS = {
    "tokens": "spear.train.objectives.tokens:TokenObjective",
    "random_projection": "spear.train.objectives.random_projection:RandomProjectionObjective",
    "labels": "spear.train.objectives.labels:LabelObjective",
    "features": "spear.train.objectives.features:FeatureObjective",
}


def names() -> list[str]:
    """Names that `load` knows, ours first."""
    return [*_OURS, *sorted(_of_others().keys() - _OURS.keys())]


@functools.cache
def load(name: str) -> type[Objective]:
    """The class of an objective.

    Raises:
        ConfigError: there is none of this name, or the package that brings it cannot be imported.
    """
    if name in _OURS:
        module, attribute = _OURS[name].split(":")
        return getattr(importlib.import_module(module), attribute)
    entry = _of_others().get(name)
    if entry is None:
        raise ConfigError(f"objective: '{name}'", "one of " + ", ".join(names()), "correct the objective")
    try:
        found = entry.load()
    except Exception as error:  # a package of others can fail in any way
        raise ConfigError(
            f"objective '{name}', whose package fails: {entry.value}: {type(error).__name__}: {error}",
            "a package that can be imported",
            "repair or remove the package",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ConfigError(f"objective '{name}': {entry.value} is {found!r}", "a subclass of Objective", "correct it")
    return found


@functools.cache
def settings_classes() -> dict[str, type]:
    """The settings of every objective that can be imported, by name."""
    found = {}
    for name in names():
        try:
            found[name] = load(name).Settings
        except ConfigError as error:
            logger.warning("%s", error.found)
    return found


@functools.cache
def _of_others() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
