"""Settings and prepared data of a received recipe: whether they can be used, and fit one another."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from spear import config, fs, records
from spear.errors import SpearError
from spear.manifest.tasks import read_task_specs
from spear.recipe.inventory import Entry, Inventory
from spear.tokens import TokenCard
from spear.tokens.features import card_from_dict
from spear.train.config import TrainConfig

_MAX_SETTINGS_BYTES = 1 << 16
_MAX_KEYS = 5000
_BROKEN = (SpearError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
Add = Callable[[str, str, str], None]


@dataclass
class _Content:
    sha256: str


@dataclass
class _Stream:
    card_sha256: str


@dataclass
class _Ready:
    cuts: dict[str, _Content]
    streams: dict[str, _Stream]


@dataclass
class _QuantizerCard:
    content_sha256: str


def check_settings(inventory: Inventory, add: Add, own: Collection[str]) -> None:
    """Every YAML file below conf/ against this version's settings, or as a list of tasks.

    Args:
        inventory: of the recipe.
        add: takes kind, place and words of a finding.
        own: files that are spear's, which come last and are left out when there is no time.
    """
    entries = [entry for entry in inventory.entries.values() if entry.parts[0] == "conf" and entry.type == "file"]
    entries = [entry for entry in entries if PurePosixPath(entry.name).suffix.lower() in (".yaml", ".yml")]
    for entry in sorted(entries, key=lambda entry: entry.name in own):
        if inventory.late:
            if entry.name not in own:
                inventory.leave(entry.name)
            continue
        say = _without_quotes(add, entry)
        try:
            _check_settings(inventory, entry, say)
        except _BROKEN as error:
            expected = f"; expected {error.expected}" if isinstance(error, SpearError) else ""
            say("problem", entry.name, f"{getattr(error, 'found', error)}{expected}")


def _without_quotes(add: Add, *entries: Entry | None) -> Add:
    """`add`, which does not quote from files that have other names too: they may be somebody else's, outside."""
    for entry in entries:
        if entry and entry.names > 1:
            what = "not as it should be; nothing of it is quoted, as the file has other names (hard links)"
            return lambda kind, where, _, name=entry.name: add(kind, name, what)
    return add


def _check_settings(inventory: Inventory, entry: Entry, add: Add) -> None:
    data = inventory.read(entry, _MAX_SETTINGS_BYTES)
    if data is None:
        add("problem", entry.name, f"{fs.human_bytes(entry.size_bytes)}, too large for settings; not read")
        return
    excess = _excess(data)
    if excess:
        add("problem", entry.name, excess)
        return
    path = inventory.root / entry.name
    values = config.load_yaml(path)
    if "tasks" in values:
        read_task_specs(path)
        return
    if len(entry.parts) > 2 and isinstance(
        values.get("streams"), dict
    ):  # on top of another file, whose streams it ends
        values["streams"] = {name: stream for name, stream in values["streams"].items() if stream is not None}
    settings = config.from_dict(TrainConfig, values, entry.name)
    for name in ("exp_dir", "data_dir"):
        if _leaves(getattr(settings, name)):
            add("problem", entry.name, f"{name}: {getattr(settings, name)} leads out of the recipe")
    for source in settings.sources:
        if _leaves(source.cuts):
            add("note", entry.name, f"cuts: {source.cuts} leads out of the recipe")
        for stream in settings.streams:
            if source.domain:
                settings.stream_weight(stream, source.domain)


def _excess(data: bytes) -> str:
    """What makes YAML larger than it looks: references in references grow without end; empty when nothing does."""
    depth, count, anchored = 0, 0, []
    try:
        for event in yaml.parse(data.decode()):
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if event.anchor:
                    anchored.append(depth)
            elif isinstance(event, yaml.CollectionEndEvent):
                if anchored and anchored[-1] == depth:
                    anchored.pop()
                depth -= 1
            elif isinstance(event, yaml.AliasEvent) and anchored:
                return "references (*) within what is referred to (&)"
            if depth > 50 or count > _MAX_KEYS:
                return "more than settings need: " + ("too deep" if depth > 50 else f"over {_MAX_KEYS} keys and values")
    except (yaml.YAMLError, ValueError, RecursionError):
        pass  # said by the reader of settings
    return ""


def _leaves(path: Any) -> bool:
    return PurePosixPath(str(path)).is_absolute() or ".." in PurePosixPath(str(path)).parts


def check_ready(inventory: Inventory, add: Add) -> None:
    """Whether what stage 5 declared ready is still what it was, by hashes of the small files.

    Args:
        inventory: of the recipe.
        add: takes kind, place and words of a finding.
    """
    ready = inventory.file("data/READY")
    if not ready:
        add("note", "data", "not prepared here; run prepare.sh")
        return
    add = _without_quotes(add, ready)
    try:
        declared = _json(inventory, ready, _Ready)
    except _BROKEN as error:
        add("problem", ready.name, str(getattr(error, "found", error)))
        return
    for name, content in declared.cuts.items():
        where = f"data/manifests/{name}"
        entry = inventory.file(where) if _is_plain(name) else None
        if not entry:
            add(
                "problem", where, "missing, and READY names it" if _is_plain(name) else "READY names no file of its own"
            )
        elif (found := inventory.sha256(entry)) != content.sha256:
            if found:
                add("problem", where, "changed since the tokens were verified")
            else:
                inventory.leave(where)
    for stream, content in declared.streams.items():
        if not _is_plain(stream):
            add("problem", f"data/tokens/{stream}", "READY names no stream of its own")
            continue
        cards = [inventory.file(f"data/{place}/{stream}/card.json") for place in ("tokens", "quantizer")]
        say = _without_quotes(add, *cards)
        try:
            _check_stream(inventory, stream, content, say)
        except _BROKEN as error:
            say("problem", f"data/tokens/{stream}", str(getattr(error, "found", error)))


def _check_stream(inventory: Inventory, stream: str, content: _Stream, add: Add) -> None:
    where = f"data/tokens/{stream}"
    entry = inventory.file(f"{where}/card.json")
    if not entry:
        add("problem", where, "no card.json")
        return
    card = card_from_dict(_json(inventory, entry, dict), entry.name)
    if card.sha256 != content.card_sha256:
        add("problem", where, "its card changed since the tokens were verified")
    quantizer = inventory.file(f"data/quantizer/{stream}/card.json")
    if quantizer and isinstance(card, TokenCard):
        found = _json(inventory, quantizer, _QuantizerCard).content_sha256
        wanted = str(card.quantizer["content_sha256"])
        if found != wanted:
            what = f"quantizer {found[:12]}, but the tokens were made with {wanted[:12]}"
            add("problem", f"data/quantizer/{stream}", what)


def _json(inventory: Inventory, entry: Entry, record: type) -> Any:
    data = inventory.read(entry)
    if data is None:
        raise ValueError(f"{fs.human_bytes(entry.size_bytes)}, too large for what it should be; not read")
    return records.convert(fs.parse_json(data.decode(), entry.name), record, entry.name)


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")
