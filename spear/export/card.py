"""The model card: what the run knows about itself, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import spear
from spear import fs, weights
from spear.errors import SpearError
from spear.evaluate.results import load_runs
from spear.export.source import Source

_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:~|/(?!/))[^\s\"'`,;)]*/")
_TASKS = {
    "ctc": "automatic-speech-recognition",
    "tagging": "audio-classification",
    "classification": "audio-classification",
}
_UNKNOWN = "not recorded"


def model_card(source: Source, usage: str, licence: str = "") -> str:
    """README.md of an exported folder, Markdown with the front matter that the hub reads.

    Args:
        source: what is exported.
        usage: Markdown that says how it is used.
        licence: of the weights; the run does not know it.
    """
    parts = [
        _front_matter(source, licence),
        f"# SPEAR {'encoder' if not source.kind else source.kind + ' model'}",
        _what(source),
        "## Use\n\n" + usage.strip(),
        "## Licence\n\n" + (f"`{licence}`" if licence else "Not stated by who exported it."),
        "## Training\n\n" + _list(_training(source)),
        "## Data\n\n" + _list(_data(source)),
        "## Teachers and tokens\n\n" + _list(_cards(source)),
        "## Scores\n\n" + _scores(source.exp_dir),
        f"Exported by spear {spear.__version__}. Method: arXiv 2510.25955.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def told(value: Any) -> str:
    """A value from a run on one line, as code: without folders of the machine it was made on."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return "`" + weights.shown(_ABSOLUTE.sub("", text), 2000).replace("`", "'").replace("|", "\\|") + "`"


def _front_matter(source: Source, licence: str) -> str:
    lines = ["---", "library_name: transformers", "tags: [speech, audio, spear]"]
    if licence:
        lines.append(f"license: {json.dumps(licence)}")
    if source.kind in _TASKS:
        lines.append(f"pipeline_tag: {_TASKS[source.kind]}")
    return "\n".join([*lines, "---"])


def _what(source: Source) -> str:
    config, count = source.config, sum(p.numel() for p in source.model.parameters())
    widths = "/".join(map(str, _runs(config.layer_dims)))
    rows = [
        f"encoder: `{config.encoder}`, {len(config.layer_dims)} layers of {widths} channels",
        f"parameters: {count:,}, heads of this run included",
        f"input: audio at 16 kHz; {config.num_mel_bins} log-mel bins are computed from it",
        f"output: {config.output_dim} channels, {config.frame_rate_hz:g} frames a second",
    ]
    if source.kind:
        rows.append(f"head: `{source.kind}` of {source.vocabulary.size} {source.vocabulary.kind}")
    return _list(rows)


def _runs(values: tuple[int, ...]) -> list[int]:
    """Values without successive repeats."""
    return [value for place, value in enumerate(values) if not place or value != values[place - 1]]


def _training(source: Source) -> list[str]:
    meta, config = source.meta, source.meta.get("config", {})
    rows = {
        "run": meta.get("run_id"),
        "code": f"spear {meta['spear_version']}, commit {meta.get('git_commit')}" if "spear_version" in meta else None,
        "hardware": meta.get("hardware"),
        "seed": config.get("seed"),
        "steps": meta.get("step"),
        "hours of audio seen": round(meta["seen_seconds"] / 3600, 3) if "seen_seconds" in meta else None,
        "began from": config.get("init_from") or None,
    }
    return [f"{name}: {_UNKNOWN if value is None else told(value)}" for name, value in rows.items()]


def _data(source: Source) -> list[str]:
    rows = []
    for each in source.meta.get("config", {}).get("sources", []):
        tokens = f", tokens {told(each['tokens'])}" if each.get("tokens") else ""
        domain = f" {told(each['domain'])}," if each.get("domain") else ""
        rows.append(f"{told(each.get('name', ''))}:{domain} cuts {told(each.get('cuts', ''))}{tokens}")
    return rows


def _cards(source: Source) -> list[str]:
    streams, cards = source.meta.get("config", {}).get("streams", {}), source.meta.get("cards", {})
    rows = []
    for name, settings in streams.items():
        row = f"stream {told(name)}: objective {told(settings.get('objective', 'tokens'))}"
        rows.append(row + (f", card {told(cards[name])}" if name in cards else ""))
    return rows


def _scores(exp_dir: Path | None) -> str:
    rows = []
    if exp_dir is not None:
        for path in sorted(exp_dir.glob("score*.json")):
            rows += _own_score(path)
        for run in load_runs(exp_dir):
            low, high = run["interval"]
            rows.append(
                f"| {told(run['suite'])} {told(run['task'])} | {told(run['metric'])} | {run['score']:.4g} | "
                f"{low:.4g} to {high:.4g} | {told(run['command'])}, commit {told(run['commit'])} |"
            )
    if not rows:
        return "No score is recorded in the run."
    header = "| what | metric | value | 95 % interval | command or origin |\n| --- | --- | --: | --- | --- |"
    return "\n".join([header, *rows])


def _own_score(path: Path) -> list[str]:
    """The row of a score of `spear finetune`."""
    try:
        score = fs.read_json(path)
        low, high = score["interval_95"]
        count = f"{score['items']} {score['of']}"
        origin = f"`spear finetune --task {score['task']} --seed {score['seed']}`, after {score['step']} steps"
        return [
            f"| {told(count)} | {told(score['metric'])} | {score['value']:.4g} | {low:.4g} to {high:.4g} | {origin} |"
        ]
    except (SpearError, LookupError, TypeError, ValueError):
        return []


def _list(rows: list[str]) -> str:
    return "\n".join(f"- {row}" for row in rows) or f"- {_UNKNOWN}"
