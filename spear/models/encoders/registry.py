"""Encoders by name: ours, and those that installed packages bring."""

import functools
import importlib
import importlib.metadata
from typing import Any

from spear.errors import ConfigError
from spear.log import get_logger
from spear.models.encoders.base import EncoderConfig

logger = get_logger(__name__)
ENTRY_POINTS = "spear.encoders"
"""The group of entry points under which a package names its encoders: `name = module:ConfigClass`."""
DEFAULT = "zipformer"
"""The encoder of files that name none: the released ones, and those of versions that knew no other."""
KEY = "encoder"
"""The key of the name in config.json and in a checkpoint's `model_config`."""

_OURS = {
    "zipformer": "spear.models.config:SpearConfig",
    "transformer": "spear.models.encoders.transformer:TransformerConfig",
}


def names() -> list[str]:
    """Names that `load` knows, ours first."""
    return [*_OURS, *sorted(_of_others().keys() - _OURS.keys())]


@functools.cache
def load(name: str) -> type[EncoderConfig]:
    """The configuration class of an encoder.

    Raises:
        ConfigError: there is none of this name, or the package that brings it cannot be imported.
    """
    if name in _OURS:
        module, attribute = _OURS[name].split(":")
        return getattr(importlib.import_module(module), attribute)
    entry = _of_others().get(name)
    if entry is None:
        raise ConfigError(f"encoder: {name[:80]!r}", "one of " + ", ".join(names()), "correct the encoder")
    try:
        found = entry.load()
    except Exception as error:  # a package of others can fail in any way
        raise ConfigError(
            f"encoder '{name}', whose package fails: {entry.value}: {type(error).__name__}: {error}",
            "a package that can be imported",
            "repair or remove the package",
        ) from error
    if not (isinstance(found, type) and issubclass(found, EncoderConfig) and found.encoder == name):
        raise ConfigError(
            f"encoder '{name}': {entry.value} is {found!r}", "a subclass of EncoderConfig of this name", "correct it"
        )
    return found


@functools.cache
def config_classes() -> dict[str, type[EncoderConfig]]:
    """The configuration class of every encoder that can be imported, by name."""
    found = {}
    for name in names():
        try:
            found[name] = load(name)
        except ConfigError as error:
            logger.warning("%s", error.found)
    return found


def to_dict(config: EncoderConfig) -> dict:
    """The name of the encoder and all its fields, for JSON."""
    return {KEY: config.encoder, **config.to_dict()}


def from_dict(values: Any) -> EncoderConfig:
    """Reads `to_dict()` or a config.json of any version.

    Raises:
        ConfigError: no such encoder, no mapping, or values that do not fit it.
    """
    name = values.get(KEY, DEFAULT) if isinstance(values, dict) else DEFAULT
    if not isinstance(name, str):
        raise ConfigError(f"{KEY} of type {type(name).__name__}", "a name", "copy the checkpoint again")
    return load(name).from_dict(values)


@functools.cache
def _of_others() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
