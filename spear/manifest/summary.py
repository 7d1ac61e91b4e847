"""Counts and hours of a corpus, as data and as a table."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from spear import fs
from spear.manifest.item import Item

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def summarise(items: Iterable[Item]) -> dict:
    """Hours, counts and durations of items.

    Returns:
        {items, hours, recordings, speakers, ids_sha256, groups: {"train speech": {items, hours}, ...},
        duration_seconds: {min, mean, max, p1, ..., p99}, tasks: {name: {train, dev, test}}}.
    """
    items = list(items)
    groups: dict[str, list[float]] = defaultdict(list)
    tasks: dict[str, Counter] = defaultdict(Counter)
    for item in items:
        groups[f"{item.split} {item.kind}"].append(item.duration_seconds)
        for task, split in item.task_splits.items():
            tasks[task][split] += 1
    durations = np.array([item.duration_seconds for item in items])
    spread = {}
    if items:
        spread = {"min": float(durations.min()), "mean": float(durations.mean()), "max": float(durations.max())}
        spread |= {f"p{p}": float(value) for p, value in zip(_PERCENTILES, np.percentile(durations, _PERCENTILES))}
    return {
        "items": len(items),
        "hours": round(float(durations.sum()) / 3600, 4),
        "recordings": len({item.path for item in items}),
        "speakers": len({item.speaker for item in items if item.speaker and "+" not in item.speaker}),
        "ids_sha256": ids_sha256(item.id for item in items),
        "groups": {name: {"items": len(d), "hours": round(sum(d) / 3600, 4)} for name, d in sorted(groups.items())},
        "duration_seconds": {name: round(value, 3) for name, value in spread.items()},
        "tasks": {name: {split: count[split] for split in ("train", "dev", "test")} for name, count in tasks.items()},
    }


def ids_sha256(ids: Iterable[str]) -> str:
    """Hash of a set of ids, whatever their order: two runs with equal hashes saw the same data."""
    return fs.sha256_json(sorted(ids))


def format_summary(summary: dict) -> str:
    """The table that stage 1 prints. Takes its `summary.json`."""
    lines = [f"{'part':<18}{'items':>8}{'hours':>9}"]
    for name, group in summary["groups"].items():
        lines.append(f"{name:<18}{group['items']:>8}{group['hours']:>9.3f}")
    lines.append(f"{'all':<18}{summary['items']:>8}{summary['hours']:>9.3f}")
    if "coverage" in summary:
        coverage = summary["coverage"]
        listed = "listed" if summary["has_manifest"] else "found"
        lines.append(
            f"coverage: {coverage['usable']} of {coverage['listed']} recordings {listed} are usable "
            f"({100 * coverage['usable_fraction']:.1f} %); {coverage['missing']} missing, {coverage['bad']} bad"
        )
    for reason, count in summary.get("quarantine", {}).items():
        lines.append(f"  quarantine: {count} x {reason}")
    loud = summary.get("full_scale", {})
    if loud.get("beyond"):
        names = ("rescaled", "clipped", "as_they_are", "excluded")
        parts = ", ".join(f"{loud[name]} {name.replace('_', ' ')}" for name in names)
        lines.append(f"beyond full scale: {loud['beyond']} recordings ({parts}); see --full-scale")
    if loud.get("cancelling"):
        lines.append(f"channels cancel in their mean: {loud['cancelling']} recordings; the loudest channel is taken")
    spread = summary["duration_seconds"]
    if spread:
        lines.append(
            f"seconds per cut: {spread['min']} to {spread['max']}, mean {spread['mean']}, median {spread['p50']}"
        )
    lines.append(f"speakers: {summary['speakers']}; hash of the ids: {summary['ids_sha256'][:16]}")
    if summary["tasks"]:
        lines.append(f"{'task':<26}{'train':>7}{'dev':>6}{'test':>6}")
    for name, counts in summary["tasks"].items():
        lines.append(f"{name:<26}{counts['train']:>7}{counts['dev']:>6}{counts['test']:>6}")
    lines += [f"note: {note}" for note in summary.get("notes", [])]
    return "\n".join(lines)
