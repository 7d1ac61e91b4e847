"""Typed configuration: dataclasses, YAML files that state only their difference, dotted overrides.

A configuration is a (nested) dataclass. Its values come, each overriding the former, from the defaults in the class,
from every ``--config FILE.yaml`` in order, and from flags such as ``--plan.max-seconds 60`` (dashes and underscores
are the same). A key nobody knows is refused with its file and the nearest known name: a misspelt setting must never
run for a day as its default. jsonargparse checks and converts the values.
"""

import dataclasses
import difflib
import enum
import functools
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from spear import fs, ranges
from spear.choices import Choice
from spear.errors import ConfigError, SpearError
from spear.settings_text import clipped, load_yaml, parse_yaml

Config = TypeVar("Config")
COMMAND_LINE = "the command line"
_MAX_LIST = 2000


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    description: str = "",
) -> Config:
    """Makes an instance of `config_class` from command-line arguments.

    Args:
        config_class: a dataclass; fields may be dataclasses, optional, lists, tuples, lists or dicts of dataclasses.
        argv: arguments; None means those of the process.
        aliases: further flags and the dotted key that each sets, such as ``{"max-duration": "plan.max_seconds"}``.
        description: what ``--help`` says first.

    Raises:
        ConfigError: unknown key, missing or ill-typed value; names the file or the command line, the key, and a remedy.
        SystemExit: with code 0, after ``--help`` and ``--print-config``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    settings = _Settings(config_class, {_underscores(name): key for name, key in (aliases or {}).items()})
    if "--help" in argv or "-h" in argv:
        print(_help(settings, description))
        raise SystemExit(0)
    flags = list(_flags(argv))
    for flag, value in flags:
        if flag == "--config":
            settings.add(load_yaml(value), value)
    for flag, value in flags:
        name = _underscores(flag)
        if name not in ("config", "print_config"):
            settings.override(flag, settings.aliases.get(name, flag.lstrip("-")), value)
    instance = settings.build()
    if any(_underscores(flag) == "print_config" for flag, _ in flags):
        print(yaml.safe_dump(to_dict(instance), sort_keys=False, allow_unicode=True), end="")
        raise SystemExit(0)
    return instance


def require(settings: Any, *names: str) -> None:
    """Refuses settings without these values, which have no default that could work.

    Raises:
        ConfigError: one is empty; names its flag.
    """
    for name in names:
        if not getattr(settings, name):
            raise ConfigError(f"no {name}", f"--{name} VALUE", "see --help for an example")


def from_dict(config_class: type[Config], values: Mapping, origin: str = "the given settings") -> Config:
    """Makes an instance from nested plain values, as `to_dict` gives; unknown keys and wrong types are refused.

    Args:
        origin: where the values come from (a file name), for messages.
    """
    settings = _Settings(config_class, {})
    settings.add(values, origin)
    return settings.build()


def to_dict(instance: Any) -> Any:
    """Nested dicts, lists and plain values (paths and enums become strings), ready for JSON and YAML."""
    if dataclasses.is_dataclass(instance) and not isinstance(instance, type):
        values = {field.name: to_dict(getattr(instance, field.name)) for field in dataclasses.fields(instance)}
        return values | values.pop("settings") if isinstance(instance, Choice) else values
    if isinstance(instance, Mapping):
        return {str(key): to_dict(value) for key, value in instance.items()}
    if isinstance(instance, list | tuple):
        return [to_dict(value) for value in instance]
    if isinstance(instance, enum.Enum):
        return instance.value
    return str(instance) if isinstance(instance, Path) else instance


def dump_yaml(instance: Any, path: str | Path) -> None:
    """Writes every setting of an instance (or a plain dict) to a YAML file that `parse` reads again."""
    fs.write_text(path, yaml.safe_dump(to_dict(instance), sort_keys=False, allow_unicode=True))


class _Entries(list):
    """A list that jsonargparse does not copy once for each of its entries, which takes minutes for some thousands."""

    def __deepcopy__(self, memo: dict) -> "_Entries":
        return self


class _Settings:
    """Plain values collected for one configuration class, and where each of them came from; `place` is a prefix."""

    def __init__(self, config_class: type, aliases: Mapping[str, str], place: str = ""):
        self.config_class, self.aliases, self.place = config_class, aliases, place
        self.values = _defaults(config_class)
        self.origins: dict[str, str] = {}

    def add(self, values: Mapping, origin: str, flag: str = "") -> None:
        """Lays nested values over what is there; keys that the class does not have are refused."""
        for key, value in values.items():
            self._assign([self.config_class], self.values, key, value, "", origin, flag)

    def _assign(self, hints: list, target: dict, key: Any, value: Any, path: str, origin: str, flag: str) -> None:
        path = f"{path}.{key}" if path else str(key)
        key, children = str(key), _children(hints, str(key))
        if not children:
            self._refuse(path, origin, flag)
        self.origins[path] = origin
        if isinstance(value, Mapping) and (_dataclasses(children) or _is_dict(children)):
            target[key] = dict(target[key]) if isinstance(target.get(key), dict) else {}
            for choice in _choices(children):
                # The settings of what was chosen before go with it; what is said in the same place as the choice stays.
                before, after = (of.get(choice.choice, choice.default_name()) for of in (target[key], value))
                if choice.choice in value and before != after:
                    here = {name for name in target[key] if self.origins.get(f"{path}.{name}") == origin}
                    kept = target[key].keys() & (choice.own_names() | here)
                    target[key] = {name: target[key][name] for name in kept}
            for inner_key, inner in value.items():
                self._assign(children, target[key], inner_key, inner, path, origin, flag)
        elif isinstance(value, list | tuple):
            if len(value) > _MAX_LIST:  # checking takes time that grows with the square of the length
                self._wrong(path, f"a list of {len(value)}", f"at most {_MAX_LIST} entries")
            items: dict = {}
            for index, inner in enumerate(value):
                self._assign(children, items, index, inner, path, origin, flag)
            target[key] = _Entries(items.values())
        elif value is not None and all(hint in (*_dataclasses(children), type(None)) for hint in children):
            self._wrong(path, repr(value), f"a mapping with settings of {_type_name(children)}")
        elif value is None and key in target and _is_dict(hints):
            del target[key]  # `streams: {music: null}` takes an entry of a mapping away again
        elif value is None and not {type(None), Any} & set(children):
            self._wrong(path, "no value", f"a value of type {_type_name(children)}")
        else:
            target[key] = value

    def override(self, flag: str, key: str, text: str) -> None:
        """Adds one dotted key with the text given for it on the command line."""
        hints: list = [self.config_class]
        names = []
        for part in key.split("."):
            names.append(part.replace("-", "_") if _dataclasses(hints) else part)
            hints = _children(hints, names[-1])
            if not hints or (names[-1].isdigit() and not _is_dict(hints)):
                self._refuse(".".join(names), COMMAND_LINE, flag)
        value = _from_text(hints, text)
        for name in reversed(names):
            value = {name: value}
        self.add(value, COMMAND_LINE, flag)

    def build(self) -> Any:
        """Checks and converts the values, and makes the instance."""
        parser = _parser(self.config_class)
        folded = self._fold([self.config_class], self.values, "")
        try:
            values = parser.parse_object(folded)
            for path, value, expected in ranges.problems(self.config_class, values):
                self._wrong(path, repr(value), expected)
            return self.config_class(**vars(parser.instantiate(values)))
        except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
            if isinstance(error.__cause__ or error.__context__, SpearError):
                raise (error.__cause__ or error.__context__) from None
            raise self._explain(clipped(str(error), 5000)) from None

    def _fold(self, hints: list, value: Any, path: str) -> Any:
        """The values with the settings of each choice in one entry, `settings`, checked under the names they have."""
        if not isinstance(value, Mapping):
            return value
        join = f"{path}.{{}}" if path else "{}"
        value = {key: self._fold(_children(hints, str(key)), inner, join.format(key)) for key, inner in value.items()}
        for choice in _choices(hints):
            name = value.get(choice.choice, choice.default_name())
            inner = _Settings(choice.option(name), {}, path)
            inner.origins = self.origins
            rest = {key: value.pop(key) for key in value.keys() - choice.own_names()}
            for key in sorted(rest.keys() - _fields(inner.config_class).keys()):
                if fix := choice.foreign(name, key, rest.pop(key)):
                    found = f"the key '{join.format(key)}' in {self._origin(join.format(key))}"
                    raise ConfigError(found, f"a setting of the {choice.choice} {name}", fix)
            inner.values |= rest
            inner.build()
            value["settings"] = rest
        return value

    def _refuse(self, path: str, origin: str, flag: str) -> None:
        path = clipped(path)
        parts = path.split(".")
        names = [  # with the entry of a mapping that the user named, so that its siblings are the nearest
            ".".join(
                parts[i] if part in ("<name>", "<item>") and i < len(parts) else part
                for i, part in enumerate(name.split("."))
            )
            for name in (setting.name for setting in dotted_names(self.config_class))
        ]
        by_last = {name.rpartition(".")[2]: name for name in names}
        if origin == COMMAND_LINE:
            by_last |= {alias: alias for alias in self.aliases}
        near = difflib.get_close_matches(path, names, n=1, cutoff=0.75)
        near += [by_last[name] for name in difflib.get_close_matches(parts[-1], by_last, n=1, cutoff=0.6)]
        near += difflib.get_close_matches(path, names, n=1, cutoff=0.4)
        style = (lambda name: "--" + name.replace("_", "-")) if origin == COMMAND_LINE else str
        raise ConfigError(
            f"{flag or f'the key {path!r}'} in {origin}".replace(f"in {COMMAND_LINE}", f"on {COMMAND_LINE}"),
            f"a setting of {self.config_class.__name__}",
            f"did you mean {style(near[0])}?" if near else "remove it; --help lists the settings that exist",
        )

    def _origin(self, path: str) -> str:
        return next((self.origins[p] for p in _ancestors(path) if p in self.origins), "the defaults")

    def _wrong(self, path: str, found: str, expected: str) -> None:
        path = f"{self.place}.{path}" if self.place else path
        raise ConfigError(
            f"{clipped(path)}: {clipped(found)} (from {self._origin(path)})",
            clipped(expected, 1000),
            "correct the value; --help shows types and defaults",
        )

    def _explain(self, message: str) -> ConfigError:
        """Turns a message of jsonargparse into ours."""
        path = ".".join(re.findall(r'arser key "([^"]+)"', message))
        missing = re.search(r"arguments are required: (.*)|Key \"([^\"]+)\" is required", message)
        lines = [line.strip(" -") for line in message.splitlines() if "arser key" not in line]
        if missing:
            name = missing.group(1) or missing.group(2)
            style = "" if path else f"; give --{name.replace('_', '-')} or set it in a --config file"
            return ConfigError(
                f"no value for {path + '.' if path else ''}{name}", "a value: it has no default" + style, "add it"
            )
        expected = [line for line in lines if line.startswith("Expected") and "NoneType" not in line]
        try:
            found = re.search(r"(?:Got value|Given value): (.*)", message)
            self._wrong(
                path or self.config_class.__name__,
                found.group(1) if found else " ".join(lines),
                " or ".join(dict.fromkeys(_tidy(line) for line in expected)) or "a value that the setting accepts",
            )
        except ConfigError as error:
            return error


def _tidy(line: str) -> str:
    """'Expected a <class 'float'>. Got value: abc' -> 'a float'."""
    line = re.sub(r"\.? ?Got value.*", "", line.removeprefix("Expected "))
    return re.sub(r"<class '([\w.]+)'>", r"\1", line).replace("typing.Literal", "value of ")


def _ancestors(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


# Flags and help ----------------------------------------------------------------------------------------------------


def _underscores(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of flag and text; a flag without a value means true."""
    position = 0
    while position < len(argv):
        flag, equals, value = argv[position].partition("=")
        position += 1
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(
                f"the argument '{flag}' on {COMMAND_LINE}", "flags such as --seed 1", "see --help for all of them"
            )
        if not equals:
            has_value = position < len(argv) and not argv[position].startswith("--")
            value = argv[position] if has_value else "true"
            if flag == "--config" and not has_value:
                raise ConfigError("--config without a file", "--config FILE.yaml", "add the name of the file")
            position += has_value
        yield flag, value


def _from_text(hints: list, text: str) -> Any:
    """Text of the command line as a plain value; jsonargparse turns strings into numbers and the like."""
    lists = [hint for hint in hints if (typing.get_origin(hint) or hint) in (list, tuple)]
    if text in ("null", "None") and type(None) in hints:
        return None
    if lists and str not in hints and not text.lstrip().startswith(("[", "{")):
        if os.path.exists(text):
            return [text]  # a path with a comma, not two paths
        return [piece.strip() for piece in text.split(",") if piece.strip()]  # icefall writes lists as 1,2,3
    if (lists and str not in hints) or _dataclasses(hints) or _is_dict(hints):
        return parse_yaml(text, f"'{clipped(text)}' on {COMMAND_LINE}")
    return text


def _help(settings: _Settings, description: str) -> str:
    """All settings with type, default, aliases and their line of the docstring."""
    lines = [description.strip() or (settings.config_class.__doc__ or "").strip().partition("\n")[0], ""]
    lines += [
        "  --config FILE.yaml   settings that differ from the defaults; may be repeated, the later file wins",
        "  --print-config       prints the complete settings as YAML and ends",
        "",
    ]
    for setting in dotted_names(settings.config_class):
        other = [f"--{alias.replace('_', '-')}" for alias, key in settings.aliases.items() if key == setting.name]
        default = f" = {_default_text(setting.field)}" if _has_default(setting.field) else " (required)"
        also = f" (also {', '.join(other)})" if other else ""
        flag = setting.name if "<item>" in setting.name else "--" + setting.name.replace("_", "-")
        lines.append(f"  {flag} {_type_name(_options(setting.hint))}{default}{also}")
        lines += textwrap.wrap(setting.text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default_text(field: dataclasses.Field) -> str:
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    return yaml.safe_dump(to_dict(value), default_flow_style=True, width=1000).removesuffix("...\n").strip()


# Types -------------------------------------------------------------------------------------------------------------


def _type_name(hints: list) -> str:
    names = [hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint) for hint in hints]
    return "|".join(re.sub(r"\b(?:\w+\.)+(?=\w)", "", name).replace("NoneType", "null") for name in names)


def _options(hint: Any) -> list:
    """The alternatives of a union, or the hint alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for part in typing.get_args(hint) for option in _options(part)]
    return [hint]


# Both take milliseconds for a class, and settings of a run have dozens.
_type_hints = functools.cache(typing.get_type_hints)


@functools.cache
def _parser(config_class: type) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config_class)
    return parser


def _fields(config_class: type) -> dict[str, tuple[Any, dataclasses.Field]]:
    """Type and field of every setting of a dataclass; of a choice, those of all that can be chosen."""
    hints = _type_hints(config_class)
    found = {field.name: (hints[field.name], field) for field in dataclasses.fields(config_class) if field.init}
    for option in _options_of(config_class):
        found.pop("settings", None)
        for name, (hint, field) in _fields(option).items():
            found[name] = (found[name][0] | hint, found[name][1]) if name in found else (hint, field)
    return found


def _options_of(config_class: type) -> list[type]:
    return list(config_class.options().values()) if issubclass(config_class, Choice) else []


def _choices(hints: list) -> list[type[Choice]]:
    return [hint for hint in _dataclasses(hints) if issubclass(hint, Choice)]


def _dataclasses(hints: list) -> list[type]:
    return [hint for hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint)]


def _is_dict(hints: list) -> bool:
    return any((typing.get_origin(hint) or hint) in (dict, Any) for hint in hints)


def _children(hints: list, name: str) -> list:
    """Types that the entry `name` of a value of these types may have; empty when there can be no such entry."""
    found = []
    for hint in hints:
        origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
        if _dataclasses([hint]):
            found += _options(_fields(hint)[name][0]) if name in _fields(hint) else []
        elif origin is dict:
            found += _options(arguments[1]) if arguments else [Any]
        elif origin in (list, tuple) and name.isdigit():
            of_item = (
                arguments[0] if len(arguments) < 2 or arguments[1] is ... else arguments[int(name) % len(arguments)]
            )
            found += _options(of_item) if arguments else [Any]
        elif origin is Any or (origin is str and name.isdigit()):
            found.append(Any)
    return found


def _defaults(config_class: type) -> dict:
    """The defaults of a class as nested plain values, without the settings that have none."""
    values = {}
    for name, (_, field) in _fields(config_class).items():
        if _has_default(field):
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
            values[name] = to_dict(default)
    return values


class Setting(typing.NamedTuple):
    """One setting: its dotted name, type, dataclass field, and what its class says about it."""

    name: str
    hint: Any
    field: dataclasses.Field
    text: str


def dotted_names(config_class: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a configuration class; entries of mappings appear as ``<name>``, of lists as ``<item>``."""
    owners = (*reversed(_options_of(config_class)), config_class)
    docs = "\n".join(base.__doc__ or "" for owner in owners for base in reversed(owner.__mro__))
    described = re.findall(r"^ {4,8}([\w, ]+): (.+(?:\n {12}.*)*)", docs, re.MULTILINE)
    texts = {name: text for names, text in described for name in names.replace(",", " ").split()}
    for name, (hint, field) in _fields(config_class).items():
        options = _options(hint)
        if not _dataclasses(options):
            text = field.metadata.get("help", " ".join(texts.get(name, "").split()))
            yield Setting(prefix + name, hint, field, text)
        places = [(inner, f"{prefix}{name}.") for inner in _dataclasses(options)]
        for option in options:
            if typing.get_origin(option) in (dict, list, tuple):
                is_mapping = typing.get_origin(option) is dict
                entries = [o for entry in typing.get_args(option)[is_mapping:] for o in _options(entry)]
                place = f"{prefix}{name}.{'<name>' if is_mapping else '<item>'}."
                places += [(inner, place) for inner in _dataclasses(entries)]
        for inner, place in places if prefix.count(".") < 6 else []:
            yield from dotted_names(inner, place)
