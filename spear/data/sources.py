"""Weighted corpora: from manifests and token streams to one table of cuts that can be trained on."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spear import fs, records
from spear.data.cuts import DOMAINS, SAMPLE_RATE_HZ, Columns, CutTable
from spear.data.index import read_columns
from spear.data.streams import StreamConfig, TargetStream
from spear.errors import ConfigError, DataError
from spear.log import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True)
class SourceConfig:
    """A corpus to train on.

    Args:
        name: for messages.
        cuts: manifest of cuts (JSONL), as stage 1 writes it.
        domain: "speech" or "audio"; empty for each item's own.
        weight: expected occurrences of a cut per epoch; fractions and zero are allowed.
        item_weights: file of ``id <tab> weight`` lines that multiply `weight`; cuts not in it keep 1. Empty for none.
        held_out: none of its cuts are trained on and all are scored, whatever `valid_fraction` is.
        tokens: directory of a stream's tokens for this source, by stream name, where it is not the stream's own.
    """

    name: str
    cuts: str
    domain: str = ""
    weight: records.NotNegative = 1.0
    item_weights: str = ""
    held_out: bool = False
    tokens: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CutLimits:
    """Cuts outside these lengths are dropped and counted (SPEAR trains on 0.9 to 32 s)."""

    min_seconds: float = 0.3
    max_seconds: float = 32.0

    def __post_init__(self):
        if not 0 <= self.min_seconds < self.max_seconds < float("inf"):
            raise ConfigError(
                f"cut_limits of {self.min_seconds:g} to {self.max_seconds:g} s",
                "the shortest length, not negative, below the longest",
                "correct cut_limits.min_seconds or cut_limits.max_seconds",
            )


@dataclass(frozen=True, eq=False)
class Sources:
    """What `load_sources` returns.

    Args:
        cuts: all usable cuts.
        weights: (num_cuts,) expected occurrences per epoch, None when all are 1.
        streams: the open streams of targets.
        summary: kept and dropped cuts with their seconds, for each source and reason.
    """

    cuts: CutTable
    weights: np.ndarray | None
    streams: list[TargetStream]
    summary: dict


def load_sources(
    sources: list[SourceConfig],
    streams: list[StreamConfig | TargetStream] | None = None,
    limits: CutLimits | None = None,
    items: dict[str, list | Columns] | None = None,
    chosen: dict[str, np.ndarray] | None = None,
    require_every_source: bool = True,
) -> Sources:
    """Reads the manifests, opens the streams, and drops (with a count for each reason) what cannot be trained on.

    Args:
        sources: the corpora.
        streams: streams of targets, opened already or not; none for objectives that need no stores.
        limits: of the length of a cut.
        items: items (or `read_source`) by source name, instead of reading `cuts`.
        chosen: by source name, whether an item may be used at all, (num_items,) bool.
        require_every_source: refuse a source all of whose cuts are dropped; False for small subsets (validation).

    Raises:
        ConfigError: two sources of one name, an unknown domain, or a negative weight.
        DataError: a manifest or token stream is missing, an id occurs twice, or no cut is left.
        CardError: a token card does not fit.
    """
    limits = limits or CutLimits()
    _check_configs(sources)
    opened = [s if isinstance(s, TargetStream) else s.open_for(sources, items, chosen) for s in streams or []]
    columns: dict[int, Columns] = {}
    rows: dict[int, np.ndarray] = {}
    domains: dict[int, np.ndarray] = {}
    weights, summary = [], {}
    for number, config in enumerate(sources):
        given = read_source(config) if items is None else items[config.name]
        columns[number] = given if isinstance(given, Columns) else Columns(given)
        candidates = np.arange(len(columns[number])) if chosen is None else np.flatnonzero(chosen[config.name])
        domain = columns[number].domain[candidates]
        if config.domain:
            domain = np.full_like(domain, DOMAINS.index(config.domain))
        dropped = _unusable(columns[number], candidates, domain, number, opened, limits)
        usable = np.ones(len(candidates), dtype=bool)
        for places in dropped.values():
            usable[places] = False
        rows[number], domains[number] = candidates[usable], domain[usable]
        weights.append(config.weight * _item_weights(config, columns[number], rows[number]))
        seconds = {reason: columns[number].duration[candidates[places]] for reason, places in dropped.items()}
        summary[config.name] = _report(config.name, columns[number].duration[rows[number]], seconds, limits)
        if columns[number].refused:  # said when the manifest was read
            summary[config.name]["refused"] = len(columns[number].refused)
        if require_every_source and dropped and not len(rows[number]):
            raise DataError(
                f"no usable cut in source '{config.name}': " + ", ".join(f"{len(d)} {r}" for r, d in dropped.items()),
                f"cuts of {limits.min_seconds:g} to {limits.max_seconds:g} s that have the tokens of their domain",
                "extract the missing tokens, correct the stream's domains, or remove the source",
            )
    if not sum(map(len, rows.values())):
        raise DataError(
            f"no cut in {', '.join(c.cuts or c.name for c in sources) or 'an empty list of sources'}",
            "at least one cut to train on",
            "check the manifests stage and its quarantine.jsonl",
        )
    _refuse_duplicates(sources, columns, rows)
    table, all_weights = CutTable.chosen(columns, rows, domains), np.concatenate(weights)
    return Sources(table, None if np.all(all_weights == 1) else all_weights, opened, summary)


def _check_configs(sources: list[SourceConfig]) -> None:
    names = [config.name for config in sources]
    for config in sources:
        if names.count(config.name) > 1:
            raise ConfigError(f"{names.count(config.name)} sources named '{config.name}'", "unique names", "rename one")
        if config.domain not in ("", *DOMAINS):
            raise ConfigError(f"domain '{config.domain}' of source '{config.name}'", " or ".join(DOMAINS), "correct it")
        if not (config.weight >= 0 and np.isfinite(config.weight)):
            raise ConfigError(f"weight {config.weight} of source '{config.name}'", "zero or more", "correct it")


def read_source(config: SourceConfig) -> Columns:
    """The cuts of a source's manifest.

    Raises:
        DataError: there is no such file.
    """
    if not Path(config.cuts).exists():
        raise DataError(
            f"no manifest {config.cuts} of source '{config.name}'",
            "a JSONL file of cuts",
            "run the manifests stage (prepare.sh --stage 1 --stop-stage 1), or correct the path",
        )
    return read_columns(config.cuts)


def _item_weights(config: SourceConfig, columns: Columns, rows: np.ndarray) -> np.ndarray:
    """(num_rows,) factors from the file `item_weights`; 1 without one."""
    if not config.item_weights:
        return np.ones(len(rows))
    stated = _read_item_weights(config)
    return np.asarray([stated.get(columns.id(row), 1.0) for row in rows], dtype=np.float64)


def _read_item_weights(config: SourceConfig) -> dict[str, float]:
    weights = {}
    for number, line in fs.iter_lines(config.item_weights):
        item_id, _, value = line.partition("\t")
        try:
            weights[item_id] = weight = float(value)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise DataError(
                f"line {number} of {config.item_weights}: {line[:200]!r}",
                "an id, a tab and a number that is not negative",
                "correct the line",
            )
    return weights


def _unusable(
    columns: Columns, rows: np.ndarray, domain: np.ndarray, source: int, streams: list[TargetStream], limits: CutLimits
) -> dict[str, np.ndarray]:
    """Places in `rows` of the cuts that cannot be trained on, by reason; each has one reason, the first that holds."""
    seconds = columns.duration[rows]
    short = ~(seconds >= limits.min_seconds) | (np.round(seconds * SAMPLE_RATE_HZ) < 1)
    reasons = {"too short": short, "too long": seconds > limits.max_seconds}
    for stream in streams:
        wanted = np.isin(domain, [DOMAINS.index(name) for name in stream.config.domains])
        reasons[f"no {stream.what} of {stream.name}"] = wanted & ~stream.has_keys(columns.key[rows], source)
    dropped, known = {}, np.zeros(len(rows), dtype=bool)
    for reason, holds in reasons.items():
        places = np.flatnonzero(holds & ~known)
        known |= holds
        if len(places):
            dropped[reason] = places
    return dropped


def _refuse_duplicates(sources: list[SourceConfig], columns: dict[int, Columns], rows: dict[int, np.ndarray]) -> None:
    keys = np.concatenate([columns[number].key[rows[number]] for number in columns])
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    starts = np.cumsum([0, *map(len, rows.values())])

    def find(index: int) -> tuple[str, str]:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        return columns[number].id(rows[number][index - starts[number]]), sources[number].name

    for place in twice[np.argsort(order[twice])]:  # in the order of the manifests
        (first, before), (second, name) = find(order[place]), find(order[place + 1])
        if first == second:
            raise DataError(
                f"cut '{first}' in source '{name}' and before it in '{before}'",
                "every id once over all sources",
                "remove the duplicate; to repeat cuts, use the source's weight",
            )


def _report(name: str, kept: np.ndarray, dropped: dict[str, np.ndarray], limits: CutLimits) -> dict:
    """Logs and returns the counts of one source, from the durations in seconds of its cuts."""
    logger.info("source %s: %d cuts, %.2f h", name, len(kept), kept.sum() / 3600)
    for reason, durations in sorted(dropped.items()):
        logger.warning(
            "source %s: dropped %d cuts, %.2f h: %s (limits %g to %g s)",
            name,
            len(durations),
            durations.sum() / 3600,
            reason,
            limits.min_seconds,
            limits.max_seconds,
        )
    counts = {reason: {"num_cuts": len(d), "seconds": float(d.sum())} for reason, d in sorted(dropped.items())}
    return {"num_cuts": len(kept), "seconds": float(kept.sum()), "dropped": counts}
