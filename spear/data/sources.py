"""Weighted corpora: from manifests and token streams to one table of cuts that can be trained on."""

import collections
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spear.data.cuts import DOMAINS, SAMPLE_RATE_HZ, CutTable
from spear.data.streams import StreamConfig, TokenStream
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
        tokens: directory of a stream's tokens for this source, by stream name, where it is not the stream's own.
    """

    name: str
    cuts: str
    domain: str = ""
    weight: float = 1.0
    item_weights: str = ""
    tokens: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CutLimits:
    """Cuts outside these lengths are dropped and counted (SPEAR trains on 0.9 to 32 s)."""

    min_seconds: float = 0.3
    max_seconds: float = 32.0


@dataclass(frozen=True, eq=False)
class Sources:
    """What `load_sources` returns.

    Args:
        cuts: all usable cuts.
        weights: (num_cuts,) expected occurrences per epoch, None when all are 1.
        streams: the open token streams.
        summary: kept and dropped cuts with their seconds, for each source and reason.
    """

    cuts: CutTable
    weights: np.ndarray | None
    streams: list[TokenStream]
    summary: dict


class _Item(NamedTuple):
    """An item with the source's domain."""

    id: str
    path: str | Path
    start_seconds: float
    duration_seconds: float
    domain: str


def load_sources(
    sources: list[SourceConfig],
    streams: list[StreamConfig] | None = None,
    limits: CutLimits | None = None,
    items: dict[str, list] | None = None,
    require_every_source: bool = True,
) -> Sources:
    """Reads the manifests, opens the streams, and drops (with a count for each reason) what cannot be trained on.

    Args:
        sources: the corpora.
        streams: token streams; none for objectives that need no tokens.
        limits: of the length of a cut.
        items: items by source name, instead of reading `cuts`.
        require_every_source: refuse a source all of whose cuts are dropped; False for small subsets (validation).

    Raises:
        ConfigError: two sources of one name, an unknown domain, or a negative weight.
        DataError: a manifest or token stream is missing, an id occurs twice, or no cut is left.
        CardError: a token card does not fit.
    """
    limits = limits or CutLimits()
    _check_configs(sources)
    opened = [TokenStream(s, [c.tokens.get(s.name, s.path) for c in sources]) for s in streams or []]
    kept, weights, numbers, summary = [], [], [], {}
    owner: dict[str, str] = {}
    for number, config in enumerate(sources):
        dropped: dict[str, list[float]] = collections.defaultdict(list)
        item_weights = _read_item_weights(config)
        before = len(kept)
        for item in items[config.name] if items is not None else read_source(config):
            domain = config.domain or item.domain
            reason = _unusable(item, domain, number, opened, limits)
            if reason:
                dropped[reason].append(item.duration_seconds)
                continue
            if item.id in owner:
                raise DataError(
                    f"cut '{item.id}' in source '{config.name}' and before it in '{owner[item.id]}'",
                    "every id once over all sources",
                    "remove the duplicate; to repeat cuts, use the source's weight",
                )
            owner[item.id] = config.name
            kept.append(_Item(item.id, item.path, item.start_seconds, item.duration_seconds, domain))
            weights.append(config.weight * item_weights.get(item.id, 1.0))
            numbers.append(number)
        summary[config.name] = _report(config.name, kept[before:], dropped, limits)
        if require_every_source and dropped and len(kept) == before:
            raise DataError(
                f"no usable cut in source '{config.name}': " + ", ".join(f"{len(d)} {r}" for r, d in dropped.items()),
                f"cuts of {limits.min_seconds:g} to {limits.max_seconds:g} s that have the tokens of their domain",
                "extract the missing tokens, correct the stream's domains, or remove the source",
            )
    if not kept:
        raise DataError(
            f"no cut in {', '.join(c.cuts or c.name for c in sources) or 'an empty list of sources'}",
            "at least one cut to train on",
            "check the manifests stage and its quarantine.jsonl",
        )
    weights = np.asarray(weights, dtype=np.float64)
    return Sources(CutTable(kept, numbers), None if np.all(weights == 1) else weights, opened, summary)


def _check_configs(sources: list[SourceConfig]) -> None:
    names = [config.name for config in sources]
    for config in sources:
        if names.count(config.name) > 1:
            raise ConfigError(f"{names.count(config.name)} sources named '{config.name}'", "unique names", "rename one")
        if config.domain not in ("", *DOMAINS):
            raise ConfigError(f"domain '{config.domain}' of source '{config.name}'", " or ".join(DOMAINS), "correct it")
        if not (config.weight >= 0 and np.isfinite(config.weight)):
            raise ConfigError(f"weight {config.weight} of source '{config.name}'", "zero or more", "correct it")


def read_source(config: SourceConfig) -> list:
    """The items of a source's manifest.

    Raises:
        DataError: there is no such file.
    """
    if not Path(config.cuts).exists():
        raise DataError(
            f"no manifest {config.cuts} of source '{config.name}'",
            "a JSONL file of cuts",
            "run the manifests stage (prepare.sh --stage 1 --stop-stage 1), or correct the path",
        )
    from spear.manifest import read_items  # imports lhotse, which takes seconds; only where it is needed

    return read_items(config.cuts)


def _read_item_weights(config: SourceConfig) -> dict[str, float]:
    if not config.item_weights:
        return {}
    weights = {}
    for number, line in enumerate(Path(config.item_weights).read_text(encoding="utf-8").splitlines(), 1):
        item_id, _, value = line.partition("\t")
        try:
            weights[item_id] = float(value)
        except ValueError as error:
            raise DataError(
                f"line {number} of {config.item_weights}: {line!r}", "an id, a tab and a number", "correct the line"
            ) from error
    return weights


def _unusable(item, domain: str, source: int, streams: list[TokenStream], limits: CutLimits) -> str:
    """Why a cut cannot be trained on; empty when it can."""
    if not item.duration_seconds >= limits.min_seconds or round(item.duration_seconds * SAMPLE_RATE_HZ) < 1:
        return "too short"
    if item.duration_seconds > limits.max_seconds:
        return "too long"
    for stream in streams:
        if domain in stream.config.domains and not stream.has(item.id, source):
            return f"no tokens of {stream.name}"
    return ""


def _report(name: str, kept: list[_Item], dropped: dict[str, list[float]], limits: CutLimits) -> dict:
    """Logs and returns the counts of one source."""
    seconds = sum(item.duration_seconds for item in kept)
    logger.info("source %s: %d cuts, %.2f h", name, len(kept), seconds / 3600)
    for reason, durations in sorted(dropped.items()):
        logger.warning(
            "source %s: dropped %d cuts, %.2f h: %s (limits %g to %g s)",
            name,
            len(durations),
            sum(durations) / 3600,
            reason,
            limits.min_seconds,
            limits.max_seconds,
        )
    counts = {reason: {"num_cuts": len(d), "seconds": float(sum(d))} for reason, d in sorted(dropped.items())}
    return {"num_cuts": len(kept), "seconds": float(seconds), "dropped": counts}
