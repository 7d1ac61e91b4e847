"""Whether what is about to be trained on is still what was verified: READY, read.

READY (of `spear verify-tokens`) says by hash which manifests and tokens fit each other. Comparing them takes seconds,
reading every token again would take hours; what is not compared is said.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from spear import fs, records, seal
from spear.errors import DataError, SpearError
from spear.manifest.fingerprints import compare_samples
from spear.shards import read_index, shard_names
from spear.tokens.card import TokenCard
from spear.tokens.features import load_card


class _Cuts(msgspec.Struct):
    sha256: records.Sha256
    items: records.Count


class _Stream(msgspec.Struct):
    card_sha256: records.Sha256
    shards_sha256: records.Sha256


class _Ready(msgspec.Struct):
    cuts: dict[str, _Cuts] = {}
    streams: dict[str, _Stream] = {}


@dataclass
class ReadyCheck:
    """What a look at a data directory found: what is wrong, what is gone, what was compared, what was not."""

    problems: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)


def check_ready(data_dir: str | Path, cuts: Iterable[str | Path], streams: Mapping[str, str | Path]) -> ReadyCheck:
    """Compares a data directory with its READY file, and a sample of its recordings with what stage 1 decoded.

    Args:
        data_dir: where READY is.
        cuts: manifests in use.
        streams: directories of token streams in use, by name.
    """
    data_dir, found = Path(data_dir), ReadyCheck()
    ready, unnamed = _Ready(), "no READY file, which stage 5 writes"
    if (data_dir / "READY").is_file():
        unnamed = "READY does not name it"
        try:
            ready = records.convert(seal.read_json(data_dir / "READY"), _Ready, str(data_dir / "READY"))
        except DataError as error:
            found.problems.append(error.found)
            return found
    for path in map(Path, cuts):
        if path.name not in ready.cuts:
            found.not_compared.append(f"manifest {path.name} ({unnamed})")
        elif fs.sha256_file(path) != ready.cuts[path.name].sha256:
            found.problems.append(f"{path} was changed after the tokens were verified")
        else:
            found.compared.append(f"manifest {path.name}")
    for name, directory in streams.items():
        _check_stream(name, Path(directory), ready.streams.get(Path(directory).name), data_dir, found)
    _check_recordings(data_dir, found)
    return found


def _check_stream(name: str, directory: Path, declared: _Stream | None, data_dir: Path, found: ReadyCheck) -> None:
    try:
        card = load_card(directory)
        if declared is None:
            found.not_compared.append(f"tokens of '{name}' (READY does not name them)")
        elif card.sha256 != declared.card_sha256:
            found.problems.append(f"{directory / 'card.json'} is another card than the one that was verified")
        elif shards_sha256(directory) != declared.shards_sha256:
            found.problems.append(f"the shards in {directory} are others than those that were verified")
        else:
            found.compared.append(f"card and checksums of '{name}'")
            found.not_compared.append(f"each token of '{name}' (compared with its checksum when it is read)")
        quantizer = data_dir / "quantizer" / directory.name / "card.json"
        if isinstance(card, TokenCard) and quantizer.is_file():
            content = seal.read_json(quantizer).get("content_sha256")
            if content == card.quantizer["content_sha256"]:
                found.compared.append(f"quantizer of '{name}'")
            else:
                found.problems.append(f"{quantizer.parent} is another quantizer than that of the tokens in {directory}")
    except SpearError as error:
        found.problems.append(error.found)


def _check_recordings(data_dir: Path, found: ReadyCheck) -> None:
    try:
        changed, found.gone, number = compare_samples(data_dir / "manifests")
    except SpearError as error:
        found.problems.append(error.found)
        return
    found.problems += changed
    if number:
        found.compared.append(f"a sample of {number} recordings")
    found.not_compared.append("the other recordings" if number else "recordings (stage 1 left no sample of them)")


def shards_sha256(directory: str | Path) -> str:
    """Hash of the checksums of all shards of a stream."""
    return fs.sha256_json([read_index(directory, shard)["sha256"] for shard in shard_names(directory)])
