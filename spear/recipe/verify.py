"""`spear recipe verify`: what is wrong with a recipe that somebody else made, before any of it is run, and offline."""

import ast
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from spear import config, fs
from spear.errors import SpearError
from spear.tokens import TokenCard
from spear.train.config import TrainConfig

_NOT_THE_RECIPE = ("data", "exp")
_PARTS = ("README.md", "prepare.sh", "train.py", "conf", "shared")
_HOME = re.compile(r"(?<![\w.$}])/(?:" + "home|Users|" + "root|scratch|mnt)" + r"/[\w.-]+")
_WORTH_READING = {
    r"\b(curl|wget|scp|rsync|ssh|aws|gsutil)\b": "reaches the network",
    r"\bpip3? install\b": "installs software",
    r"\bsudo\b": "asks for the rights of the administrator",
    r"\brm\s+-\w*r": "deletes directories",
    r"\b(eval|exec)\b(?!\s*\))": "runs text as code",
    r"trust_remote_code=true": "runs code that comes with weights",
    r"\b(pickle|subprocess|os\.system)\b": "can run anything",
}


@dataclass(frozen=True)
class Finding:
    """One remark: `problem` (it cannot work, or is not what it says), or `note` (read this before you run it)."""

    kind: str
    where: str
    what: str


def verify_recipe(recipe: str | Path) -> list[Finding]:
    """Looks at a recipe's files, its settings, and what has been prepared in it; runs nothing of it.

    Checks: the parts of a recipe; links that lead out of it or nowhere; syntax of scripts; every conf/*.yaml (those in
    its folders are parts of others) against this version's settings; paths of somebody's home; lines that reach the
    network, install, delete or run text as code; and, where there are data, that manifests, tokens, cards and
    quantizers are those of one another.
    """
    recipe, findings = Path(recipe), []
    if not recipe.is_dir():
        return [Finding("problem", str(recipe), "no such directory")]
    for name in _PARTS:
        if not (recipe / name).exists():
            findings.append(Finding("problem", name, "missing"))
    files = _files(recipe, findings)
    for path in files:
        _check_file(path, path.relative_to(recipe).as_posix(), findings)
    for path in sorted((recipe / "conf").glob("*.yaml")):
        _check_settings(recipe, path, findings)
    _check_data(recipe, findings)
    return sorted(findings, key=lambda finding: (finding.kind != "problem", finding.where))


def _files(recipe: Path, findings: list[Finding]) -> list[Path]:
    files = []
    for path in sorted(recipe.rglob("*")):
        parts = path.relative_to(recipe).parts
        if parts[0].split("_")[0] in _NOT_THE_RECIPE or "__pycache__" in parts:
            continue
        if path.is_symlink():
            inside = recipe.resolve() in path.resolve().parents
            if not path.exists():
                findings.append(Finding("problem", "/".join(parts), "a link to nothing"))
            elif not inside and parts != ("shared",):
                findings.append(Finding("problem", "/".join(parts), "a link out of the recipe"))
        elif path.is_file() and parts[0] != "shared":
            files.append(path)
    return files


def _check_file(path: Path, name: str, findings: list[Finding]) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        findings.append(Finding("note", name, f"not text, {fs.human_bytes(path.stat().st_size)}"))
        return
    if path.suffix == ".py":
        try:
            ast.parse(text)
        except SyntaxError as error:
            findings.append(Finding("problem", name, f"line {error.lineno}: {error.msg}"))
    if path.suffix == ".sh":
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        if done.returncode:
            findings.append(Finding("problem", name, done.stderr.strip().splitlines()[0][-120:]))
    for number, line in enumerate(text.splitlines(), 1):
        if _HOME.search(line):
            findings.append(Finding("problem", f"{name}:{number}", f"a path of another machine: {line.strip()[:80]}"))
        if path.suffix in (".sh", ".py") and not line.lstrip().startswith("#"):
            for pattern, why in _WORTH_READING.items():
                if re.search(pattern, line):
                    findings.append(Finding("note", f"{name}:{number}", f"{why}: {line.strip()[:80]}"))


def _check_settings(recipe: Path, path: Path, findings: list[Finding]) -> None:
    name = path.relative_to(recipe).as_posix()
    try:
        values = config.load_yaml(path)
        if set(values) & {"tasks", "skipped"}:
            return  # a list of tasks, not a training run
        settings = config.from_dict(TrainConfig, values, name)
    except SpearError as error:
        findings.append(Finding("problem", name, f"{error.found}; expected {error.expected}"))
        return
    for source in settings.sources:
        for stream in settings.streams:
            try:
                if source.domain:
                    settings.stream_weight(stream, source.domain)
            except SpearError as error:
                findings.append(Finding("problem", name, error.found))


def _check_data(recipe: Path, findings: list[Finding]) -> None:
    """Whether what stage 5 declared ready is still what it was, by hashes of the small files."""
    data = recipe / "data"
    ready = data / "READY"
    if not ready.exists():
        findings.append(Finding("note", "data", "not prepared here; run prepare.sh"))
        return
    declared = fs.read_json(ready)
    for name, cuts in declared.get("cuts", {}).items():
        path = data / "manifests" / name
        if not path.exists():
            findings.append(Finding("problem", f"data/manifests/{name}", "missing, and READY names it"))
        elif fs.sha256_file(path) != cuts["sha256"]:
            findings.append(Finding("problem", f"data/manifests/{name}", "changed since the tokens were verified"))
    for stream, content in declared.get("streams", {}).items():
        where = f"data/tokens/{stream}"
        try:
            card = TokenCard.load(data / "tokens" / stream)
        except SpearError as error:
            findings.append(Finding("problem", where, error.found))
            continue
        if card.sha256 != content["card_sha256"]:
            findings.append(Finding("problem", where, "its card changed since the tokens were verified"))
        quantizer = data / "quantizer" / stream / "card.json"
        if quantizer.exists():
            found, wanted = fs.read_json(quantizer)["content_sha256"], card.quantizer["content_sha256"]
            if found != wanted:
                what = f"quantizer {found[:12]}, but the tokens were made with {wanted[:12]}"
                findings.append(Finding("problem", f"data/quantizer/{stream}", what))
