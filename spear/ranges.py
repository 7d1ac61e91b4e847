"""Ranges of settings: `Annotated[int, msgspec.Meta(ge=1)]` in a configuration class is checked here, for all of them.

`spear.config` checks what files and the command line say before it makes an instance. Classes that are also made in
Python call `check` when they are made. A number that is NaN or infinite is no setting, whatever its type says.
"""

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from spear.errors import ConfigError

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Part = Annotated[float, msgspec.Meta(ge=0, lt=1)]  # of which something must be left
# Of processes and threads: more than this is a slip of the keyboard that would bring the machine down.
Workers = Annotated[int, msgspec.Meta(ge=0, le=1024)]
Threads = Annotated[int, msgspec.Meta(ge=1, le=1024)]
CodebookSize = Annotated[int, msgspec.Meta(ge=2, le=256)]
Jobs = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Minutes = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
_COMPARE = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
_ENDLESS = 2**63 - 1  # bounds beyond it are those of the type, not of the setting


class Problem(typing.NamedTuple):
    """A value out of its range: the dotted name of its setting, the value, and what it may be in words."""

    path: str
    value: Any
    expected: str


def check(instance: Any) -> None:
    """Refuses a configuration that was made with a number out of its range.

    Args:
        instance: of a dataclass; others inside it are checked as well.

    Raises:
        ConfigError: names the setting, the value and the range.
    """
    for path, value, expected in problems(type(instance), instance):
        raise ConfigError(f"{type(instance).__name__}.{path}: {value!r}", expected, "correct the value")


def problems(hint: Any, value: Any, path: str = "") -> Iterator[Problem]:
    """What is out of range in a value of an annotated type: an instance, or nested plain values of one."""
    metas = getattr(hint, "__metadata__", ())
    hint = typing.get_args(hint)[0] if metas else hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            yield from problems(option, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(hint, metas, value, path)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        inner = vars(value) if hasattr(value, "__dict__") else value
        for name, annotation in _annotations(hint).items() if isinstance(inner, Mapping) else ():
            yield from problems(annotation, inner.get(name), f"{path}.{name}" if path else name)
    elif origin is dict and isinstance(value, Mapping) and arguments:
        for key, entry in value.items():
            yield from problems(arguments[1], entry, f"{path}.{key}")
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            of_item = arguments[number % len(arguments)] if origin is tuple and ... not in arguments else arguments[0]
            yield from problems(of_item, entry, f"{path}.{number}")


def _number(hint: Any, metas: tuple, value: float, path: str) -> Iterator[Problem]:
    bounds = {name: getattr(meta, name, None) for meta in metas for name in _COMPARE}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    if not math.isfinite(value) or not all(_COMPARE[name](value, bound) for name, bound in bounds.items()):
        bounds = {name: bound for name, bound in bounds.items() if abs(bound) < _ENDLESS}
        yield Problem(path, value, _in_words("a whole number" if hint is int else "a number", bounds))


def _in_words(noun: str, bounds: dict[str, float]) -> str:
    """'a number from 0 to 1'."""
    low = f"from {bounds['ge']:g}" if "ge" in bounds else f"above {bounds['gt']:g}" if "gt" in bounds else ""
    high = f"to {bounds['le']:g}" if "le" in bounds else f"below {bounds['lt']:g}" if "lt" in bounds else ""
    if low.startswith("from") and not high:
        return f"{noun} {low} on"
    return " ".join(filter(None, (noun, low, "and" if low and high and "le" not in bounds else "", high)))


@functools.cache
def _annotations(config_class: type) -> dict[str, Any]:
    return typing.get_type_hints(config_class, include_extras=True)
