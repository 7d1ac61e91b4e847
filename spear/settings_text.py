"""Settings as text: YAML of plain types, whose size is known before anything of it is built."""

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from spear import fs
from spear.errors import ConfigError, DataError


def load_yaml(path: str | Path) -> dict:
    """Reads a YAML file that holds a mapping.

    Raises:
        ConfigError: missing file, invalid YAML, a key given twice, or something other than a mapping.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1, cutoff=0.4)
        hint = f"did you mean {path.parent / near[0]}?" if near else "give the path of an existing YAML file"
        raise ConfigError(f"no file {path}", "a YAML file with settings", hint)
    if (size := path.stat().st_size) > _MAX_YAML_BYTES:
        raise ConfigError(f"{path} of {fs.human_bytes(size)}", "settings", "give the path of a YAML file with settings")
    try:
        text = "\n".join(line for _, line in fs.iter_lines(path))
    except DataError as error:
        raise ConfigError(error.found, error.expected, error.fix) from error
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}", "a mapping of settings", "write lines such as 'seed: 42'"
        )
    return values


def parse_yaml(text: str, where: str) -> Any:
    """A YAML value of plain types; dates stay texts.

    Its size is known before anything of it is built: names for parts (anchors) count as often as they are used, so that
    ten lines which stand for a billion values are refused.

    Args:
        text: YAML.
        where: the file, for messages.

    Raises:
        ConfigError: invalid or too large, a key given twice, or a tag for a type of its own.
    """
    try:
        _check_size(text)
        return yaml.load(text, _StrictLoader)
    # PyYAML converts numbers without looking: int() of 5,000 digits, a table of truth values without an entry...
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(
            f"{where} is not valid YAML: {clipped(str(error), 600)}", "keys and values", "correct that line"
        ) from error


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where PyYAML was built with it: ten times as fast
_MAX_YAML_BYTES, _MAX_YAML_VALUES, _MAX_YAML_DEPTH = 16 << 20, 100_000, 50
_TAGS = {None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))}


def _check_size(text: str) -> None:
    """Refuses what would be deeper or larger than settings are, reading nothing but the events of the parser."""
    sizes: dict[str, int] = {}
    total, open_parts = 0, []
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the name *{event.anchor} stands for nothing, or for a part that it is in itself")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += (size := 1 + len(event.value) // 64)
            sizes |= {event.anchor: size} if event.anchor else {}
        elif isinstance(event, yaml.CollectionStartEvent):
            open_parts.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_parts.pop()
            sizes |= {anchor: total - before} if anchor else {}
        if getattr(event, "tag", None) not in _TAGS:
            raise ValueError(f"line {event.start_mark.line + 1}: a value of the type {event.tag}")
        if total > _MAX_YAML_VALUES or len(open_parts) > _MAX_YAML_DEPTH:
            raise ValueError(f"more than {_MAX_YAML_VALUES} values, or {_MAX_YAML_DEPTH} of them inside each other")


class _StrictLoader(_Loader):
    """A safe loader that refuses a key given twice, of which PyYAML silently keeps the last, and knows no dates."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        seen = set()
        own = node.value if isinstance(node, yaml.MappingNode) else ()
        for key_node in (key for key, _ in own if not key.tag.endswith(":merge")):
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' occurs twice", node.start_mark)
            seen |= {key} if isinstance(key, Hashable) else set()
        return super().construct_mapping(node, deep)


def clipped(text: str, length: int = 200) -> str:
    """The beginning of a text that may be long."""
    return text if len(text) <= length else f"{text[:length]}..."
