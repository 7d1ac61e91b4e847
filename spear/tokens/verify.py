"""Verification of streams (tokens, labels, frames) against the cuts they are meant for; a pass leaves a READY file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import spear
from spear import seal
from spear.audio import FbankConfig
from spear.errors import SpearError
from spear.fs import sha256_file
from spear.shards import ShardStore, read_index, verify_shards
from spear.tokens.card import TokenCard
from spear.tokens.extract import MAX_FRAME_DIFFERENCE
from spear.tokens.features import FeatureCard, load_card
from spear.tokens.ready import shards_sha256
from spear.tokens.recompute import Agreement
from spear.tokens.units import Item, ids_sha256, item_frames, read_cuts

_MIN_USE = 0.25  # of the codebook size: a lower perplexity is worth a warning
_MIN_FRAMES_PER_CODE = 20
_FRAMES = 1 << 14  # of a teacher, looked at in one piece


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which stream, which check found it, and what it found."""

    stream: str
    check: str
    detail: str


@dataclass
class StreamReport:
    """What verification saw in one stream.

    Attributes:
        name: of the stream.
        items, rows: in its shards.
        quarantined: cuts without tokens for a stated reason.
        perplexity_N: exp(entropy) of each codebook's use, between 1 and K.
        dead_N: codes never used, for each codebook.
        content: hashes for the READY file.
    """

    name: str
    items: int = 0
    rows: int = 0
    quarantined: int = 0
    perplexity_N: np.ndarray = field(default_factory=lambda: np.zeros(0))
    dead_N: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    content: dict[str, Any] = field(default_factory=dict)


@dataclass
class VerifyReport:
    """The whole check: `problems` is empty exactly when the tokens may be trained on."""

    streams: list[StreamReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def add(self, agreement: Agreement) -> None:
        """Takes in what tokens that were made again have shown."""
        self.problems += [Problem(agreement.stream, "recomputed", line) for line in agreement.problems()[:10]]

    def table(self) -> str:
        """The streams, then what is wrong with them, as text for the terminal."""
        lines = [
            f"{'stream':<16}{'cuts':>9}{'frames':>12}{'quarantined':>13}{'perplexity min, mean':>24}{'dead codes':>12}"
        ]
        for s in self.streams:
            use = f"{s.perplexity_N.min():.1f}, {s.perplexity_N.mean():.1f}" if len(s.perplexity_N) else "-"
            lines.append(f"{s.name:<16}{s.items:>9}{s.rows:>12}{s.quarantined:>13}{use:>24}{int(s.dead_N.sum()):>12}")
        for title, problems in (("problem", self.problems), ("warning", self.warnings)):
            lines += [f"{title}: {p.stream}: {p.check}: {p.detail}" for p in problems]
        return "\n".join(lines)


def codebook_use(counts_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (N, K) of each code -> perplexity (N,) between 1 and K, and number of codes never used (N,)."""
    p_NK = counts_NK / np.maximum(counts_NK.sum(axis=1, keepdims=True), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy_N = -np.where(p_NK > 0, p_NK * np.log(p_NK), 0.0).sum(axis=1)
    return np.exp(entropy_N), (counts_NK == 0).sum(axis=1)


def verify_tokens(
    tokens: str | Path, cuts: Sequence[str | Path], expected: Mapping[str, Any] | None = None
) -> VerifyReport:
    """Checks every stream below a directory: cards, checksums, ids, lengths, codebook use.

    Of stored frames of a teacher, which may be of a sample of the cuts, those that are there are checked.

    Args:
        tokens: such as data/tokens; each subdirectory is a stream.
        cuts: every cuts file that the tokens are meant for.
        expected: parts of a card that all streams must agree with; the present feature definition if not given.

    Raises:
        DataError: the cuts cannot be read. Whatever is wrong with the tokens is in the report instead.
    """
    report = VerifyReport()
    items = [item for group in read_cuts(cuts).values() for item in group]
    expected = {"fbank_sha256": FbankConfig().definition_hash()} if expected is None else expected
    tokens = Path(tokens)
    directories = sorted(path for path in tokens.iterdir() if path.is_dir()) if tokens.is_dir() else []
    if not directories:
        report.problems.append(Problem("-", "streams", f"no stream in {tokens}; run spear extract-tokens"))
    for directory in directories:
        report.streams.append(_verify_stream(directory, items, expected, report))
    return report


def _verify_stream(directory: Path, items: list[Item], expected: Mapping, report: VerifyReport) -> StreamReport:
    name = directory.name
    result = StreamReport(name)
    try:
        card = load_card(directory)
        if isinstance(card, TokenCard):
            card.check_compatible({**expected, "stream": name}, "this version and directory")
    except SpearError as error:
        report.problems.append(Problem(name, "card", f"{error.found}; expected {error.expected}"))
        return result
    damage = verify_shards(directory)
    report.problems += [Problem(name, "checksums", line) for line in damage]
    if damage:
        return result
    try:
        store = ShardStore(directory)
    except SpearError as error:
        report.problems.append(Problem(name, "shards", f"{error.found}; expected {error.expected}"))
        return result
    if problem := card.shape_problem(store):
        report.problems.append(Problem(name, "card", f"{problem[0]}; expected {problem[1]} as in the card"))
        return result
    _check_items(store, card, items, result, report)
    if isinstance(card, TokenCard):
        _check_use(store, card, result, report)
    else:
        _check_finite(store, result, report)
    result.content = {
        "card_sha256": card.sha256,
        "shards_sha256": shards_sha256(directory),
        "items": result.items,
        "rows": result.rows,
        "quarantined": result.quarantined,
    }
    return result


def _check_items(
    store: ShardStore, card: TokenCard | FeatureCard, items: list[Item], result, report: VerifyReport
) -> None:
    """Counts and lengths: every cut of the stream's domains has its rows, or a reason in quarantine."""
    name = result.name
    units = {shard: read_index(store.directory, shard) for shard in store.shards}
    wrong_unit = [shard for shard, index in units.items() if "unit_sha256" not in index]
    if wrong_unit:
        report.problems.append(Problem(name, "shards", f"not made by extract-tokens: {_some(wrong_unit)}"))
    quarantined = {entry["id"] for index in units.values() for entry in index.get("quarantined", [])}
    result.items, result.rows = len(store), store.num_rows
    is_sample = isinstance(card, FeatureCard)
    domains = () if is_sample else card.domains
    wanted = [item for item in items if not domains or item.domain in domains]
    missing, short = [], []
    for item in wanted:
        if item.id not in store:
            if item.id in quarantined:
                result.quarantined += 1
            else:
                missing.append(item.id)
            continue
        rows, frames = store.rows(item.id), item_frames(item, card.teacher)
        if not frames - MAX_FRAME_DIFFERENCE <= rows <= frames:
            short.append(f"{item.id} ({rows} frames, {frames} expected)")
    if missing:
        detail = f"{len(missing)} of {len(wanted)} cuts have none: {_some(missing)}"
        (report.warnings if is_sample else report.problems).append(Problem(name, "counts", detail))
    if short:
        report.problems.append(Problem(name, "lengths", f"{len(short)} cuts differ: {_some(short)}"))
    if quarantined:
        report.warnings.append(Problem(name, "quarantine", f"{len(quarantined)} cuts: {_some(sorted(quarantined))}"))
    known = sum(item.id in store for item in items)
    if known < len(store):
        report.warnings.append(
            Problem(name, "counts", f"{len(store) - known} items belong to none of these cuts files")
        )


def _check_finite(store: ShardStore, result: StreamReport, report: VerifyReport) -> None:
    """No frame holds a value that is no number, or too large for float16."""
    for shard in store.shards:
        rows = store.memory_map(shard)
        bad = sum(
            int((~np.isfinite(np.asarray(rows[start : start + _FRAMES])).all(axis=1)).sum())
            for start in range(0, len(rows), _FRAMES)
        )
        if bad:
            report.problems.append(Problem(result.name, "values", f"{bad} frames of shard {shard} are not finite"))


def _check_use(store: ShardStore, card: TokenCard, result: StreamReport, report: VerifyReport) -> None:
    """Perplexity and dead codes of each codebook; impossible codes are a problem, little use a warning."""
    size, values = card.codebook_size, np.iinfo(card.dtype).max + 1
    counts_NK = np.zeros((card.num_codebooks, values), dtype=np.int64)
    for shard in store.shards:
        rows = store.memory_map(shard)
        for start in range(0, len(rows), 1 << 18):
            part = np.asarray(rows[start : start + (1 << 18)])
            for codebook in range(card.num_codebooks):
                counts_NK[codebook] += np.bincount(part[:, codebook], minlength=values)
    if counts_NK[:, size:].any():
        codebook = int(np.flatnonzero(counts_NK[:, size:].any(axis=1))[0])
        highest = int(np.flatnonzero(counts_NK[codebook])[-1])
        detail = f"code {highest} in codebook {codebook}; expected less than {size}"
        report.problems.append(Problem(result.name, "codes", detail))
    result.perplexity_N, result.dead_N = codebook_use(counts_NK[:, :size])
    if store.num_rows < _MIN_FRAMES_PER_CODE * size:
        return  # too few frames to say anything about use
    for codebook in np.flatnonzero(result.perplexity_N < _MIN_USE * size):
        detail = (
            f"codebook {codebook}: perplexity {result.perplexity_N[codebook]:.1f} of {size}, "
            f"{result.dead_N[codebook]} codes never used"
        )
        report.warnings.append(Problem(result.name, "codebook use", detail))


def write_ready(path: str | Path, report: VerifyReport, cuts: Sequence[str | Path]) -> dict:
    """Writes the READY file: what was verified, by hash. Removes it instead when there are problems.

    Returns:
        Its content; empty when there are problems.
    """
    path = Path(path)
    if report.problems:
        path.unlink(missing_ok=True)
        return {}
    files = read_cuts(cuts)
    ready = {
        "spear_version": spear.__version__,
        "streams": {s.name: s.content for s in report.streams},
        "cuts": {
            Path(file).name: {
                "sha256": sha256_file(file),
                "items": len(items),
                "ids_sha256": ids_sha256(i.id for i in items),
            }
            for file, items in zip(cuts, files.values())
        },
    }
    seal.write_json(path, ready)
    return ready


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
