"""Settings that depend on a name: a stream's objective, say, each of which has settings of its own.

In YAML, on the command line and in checkpoints they stand beside the name, as if they all were of one class:

    streams:
      speech: {objective: tokens, mix_tokens: true}
      timbre: {objective: random_projection, num_codebooks: 16}
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from spear.errors import ConfigError


@dataclass
class Choice:  # a dataclass, or jsonargparse would let settings name a class by its path
    """Base of a dataclass whose field `settings` holds an instance of the class that another field chooses by name.

    Attributes:
        choice: the field that chooses.
    """

    choice: ClassVar[str]

    @classmethod
    def options(cls) -> Mapping[str, type]:
        """The dataclasses of settings, by name."""
        raise NotImplementedError

    @classmethod
    def option(cls, name: str) -> type:
        """The dataclass of one name.

        Raises:
            ConfigError: there is none.
        """
        options = cls.options()
        if name not in options:
            near = difflib.get_close_matches(str(name), options, n=1)
            raise ConfigError(
                f"{cls.choice}: '{name}'",
                "one of " + ", ".join(options),
                f"did you mean '{near[0]}'?" if near else f"correct {cls.choice}",
            )
        return options[name]

    @classmethod
    def default_name(cls) -> str:
        """What is chosen when nothing is said."""
        return next(field.default for field in dataclasses.fields(cls) if field.name == cls.choice)

    @classmethod
    def own_names(cls) -> set[str]:
        """Settings that every choice has."""
        return {field.name for field in dataclasses.fields(cls)} - {"settings"}

    @classmethod
    def foreign(cls, name: str, key: str, value: Any) -> str:
        """Why a setting has no place beside a name; empty for the default of another choice, which decides nothing.

        Files that were written when all settings stood in one class have such defaults.
        """
        fields = {other: _fields(option) for other, option in cls.options().items()}
        if any(key in found and _default(found[key]) == value for found in fields.values()):
            return ""
        near = difflib.get_close_matches(key, [*fields[name], *cls.own_names()], n=1)
        return f"did you mean '{near[0]}'?" if near else f"remove it, or choose another {cls.choice}"


def _fields(option: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(option)}


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
