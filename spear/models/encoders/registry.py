"""Encoders by name: ours, and those that installed packages bring."""

from typing import Any

from spear.errors import ConfigError
from spear.models.encoders.base import EncoderConfig
from spear.plugins import Plugins

DEFAULT = "zipformer"
"""The encoder of files that name none: the released ones, and those of versions that knew no other."""
KEY = "encoder"
"""The key of the name in config.json and in a checkpoint's `model_config`."""

ENCODERS = Plugins(
    "encoder",
    "spear.encoders",
    {
        "zipformer": "spear.models.config:SpearConfig",
        "transformer": "spear.models.encoders.transformer:TransformerConfig",
    },
    EncoderConfig,
    lambda found, name: found.encoder == name,
)
names, load, config_classes = ENCODERS.names, ENCODERS.load, ENCODERS.classes


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
