"""Encoders behind one interface: `EncoderConfig` says what one is, the registry which there are."""

from spear.models.encoders.base import EncoderConfig, switch_regularisers
from spear.models.encoders.registry import DEFAULT, ENCODERS, KEY, config_classes, from_dict, load, names, to_dict

__all__ = [
    "DEFAULT",
    "ENCODERS",
    "KEY",
    "EncoderConfig",
    "config_classes",
    "from_dict",
    "load",
    "names",
    "switch_regularisers",
    "to_dict",
]
