"""A trained quantizer on disk: `quantizer.safetensors` and `card.json`, bound to each other and to their teacher.

The channels' mean and standard deviation are part of the quantizer: tokens computed without them, or with those of
other data, are wrong without any error. The authors' `{"quantizer": state_dict, "mean", "std"}` file reads and
writes too.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spear import __version__, fs, records, seal, weights
from spear.errors import CardError, DataError
from spear.quantize.codec import DEFAULT_BEAM, DEFAULT_PASSES, Quantizer, check_vectors

FORMAT = "spear-quantizer-1"
_TENSORS, _CARD = "quantizer.safetensors", "card.json"


@dataclass
class _Card:
    """What every card of a quantizer has."""

    num_codebooks: records.PositiveCount
    codebook_size: records.PositiveCount
    dim: records.PositiveCount
    content_sha256: records.Sha256
    teacher: dict[str, Any]
    structure: str = ""  # cards made before it was noted lack it


@dataclass
class TrainedQuantizer:
    """A quantizer with the normalisation it was trained under, and its card.

    Attributes:
        quantizer: works on normalised vectors.
        mean, std: (dim,) float32 channel statistics, or None when vectors are used as they are.
        card: num_codebooks, codebook_size, dim, normalise, content_sha256, teacher, metrics, structure (residual or
            even, where it was trained here)...
    """

    quantizer: Quantizer
    mean: Tensor | None
    std: Tensor | None
    card: dict[str, Any]

    def normalise(self, embeddings: Tensor | np.ndarray) -> Tensor:
        """(..., dim) embeddings -> float32 vectors as the quantizer expects them, on its device.

        Raises:
            DataError: another dim, or values that are not finite (says how many rows).
        """
        device = self.quantizer.centers.device
        x = check_vectors(torch.as_tensor(embeddings), self.quantizer.dim).to(device).float()
        return x if self.mean is None else (x - self.mean.to(device)) / self.std.to(device)

    def encode(
        self,
        embeddings: Tensor | np.ndarray,
        refine_passes: int = DEFAULT_PASSES,
        beam: int = DEFAULT_BEAM,
        bfloat16: bool = False,
    ) -> Tensor:
        """(..., dim) teacher embeddings -> (..., num_codebooks) uint8; see `Quantizer.encode`."""
        return self.quantizer.encode(self.normalise(embeddings), refine_passes, beam, bfloat16)

    def decode(self, indexes: Tensor | np.ndarray) -> Tensor:
        """(..., num_codebooks) codes -> (..., dim) float32 embeddings on the teacher's own scale."""
        device = self.quantizer.centers.device
        with torch.no_grad():
            x = self.quantizer.decode(torch.as_tensor(indexes).to(device))
        return x if self.mean is None else x * self.std.to(device) + self.mean.to(device)

    def to(self, device: str | torch.device) -> "TrainedQuantizer":
        """Moves the tensors; returns itself."""
        self.quantizer.to(device)
        if self.mean is not None:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def check(self, dim: int | None = None, teacher: Mapping[str, Any] | None = None) -> None:
        """Refuses to be used with another teacher.

        Args:
            dim: of the embeddings, when known.
            teacher: parts of a fingerprint that must agree with the card's (layer, weights_sha256...).

        Raises:
            CardError: names each differing key with both values.
        """
        wanted = {"dim": dim} if dim is not None else {}
        own: dict[str, Any] = {"dim": self.card["dim"]}
        for key, value in (teacher or {}).items():
            wanted[f"teacher {key}"] = value
            own[f"teacher {key}"] = (self.card.get("teacher") or {}).get(key)
        wrong = [key for key, value in wanted.items() if own[key] != value]
        if wrong:
            raise CardError(
                "a quantizer of " + ", ".join(f"{key} = {own[key]!r}" for key in wrong),
                ", ".join(f"{key} = {wanted[key]!r}" for key in wrong),
                "give this teacher's own quantizer, or train one with spear train-quantizer",
            )


def save_quantizer(
    directory: str | Path,
    quantizer: Quantizer,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    teacher: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict:
    """Writes quantizer.safetensors, then card.json (whose presence means that all is there).

    Args:
        mean, std: (dim,) channel statistics, both or neither.
        teacher: fingerprint of the teacher whose embeddings it codes.
        metrics: of training.
        details: further keys of the card, such as the hash of the training data and the settings.

    Returns:
        the card.
    """
    directory = Path(directory)
    card = make_card(quantizer, mean, std, teacher, metrics, details)
    tensors = _all_tensors(quantizer, mean, std)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _CARD).unlink(missing_ok=True)  # never an old card beside new tensors
    with fs.atomic(directory / _TENSORS) as temporary:
        save_file(tensors, temporary, {"format": FORMAT, "teacher": json.dumps(card["teacher"], sort_keys=True)})
    seal.write_json(directory / _CARD, card)
    return card


def make_card(
    quantizer: Quantizer,
    mean: Tensor | None,
    std: Tensor | None,
    teacher: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict:
    """The card of a quantizer; arguments as of `save_quantizer`."""
    return {
        **(details or {}),
        "format": FORMAT,
        "num_codebooks": quantizer.num_codebooks,
        "codebook_size": quantizer.codebook_size,
        "dim": quantizer.dim,
        "normalise": mean is not None,
        "id": quantizer.id,
        "content_sha256": content_hash(_all_tensors(quantizer, mean, std)),
        "teacher": dict(teacher or {}),
        "metrics": dict(metrics or {}),
        "spear_version": __version__,
    }


def load_quantizer(path: str | Path) -> TrainedQuantizer:
    """Reads a directory written by `save_quantizer`, or a torch.save file of the authors or of multi_quantization.

    Raises:
        DataError: missing or foreign files.
        CardError: the tensors are not those that the card describes.
    """
    path = Path(path)
    if path.is_file() and path.name not in (_TENSORS, _CARD):
        return _load_authors_file(path)
    directory = path.parent if path.is_file() else path
    card, tensors_path = seal.read_json(directory / _CARD), directory / _TENSORS
    if card.get("format") != FORMAT:
        raise DataError(f"{directory / _CARD} is no quantizer's card", f'"format": "{FORMAT}"', "give its directory")
    records.convert(card, _Card, str(directory / _CARD), "run spear train-quantizer again")
    try:
        tensors = load_file(tensors_path)
    except Exception as error:  # safetensors raises a class of its own
        raise DataError(
            f"{tensors_path} cannot be read ({error})", "a safetensors file", "run spear train-quantizer again"
        ) from error
    found = content_hash(tensors)
    if found != card["content_sha256"]:
        raise CardError(
            f"{tensors_path} with content {found[:16]}",
            f"content {card['content_sha256'][:16]} of its card.json",
            "copy both files from one run, or run spear train-quantizer again",
        )
    return _assemble(tensors, card)


def save_authors_file(path: str | Path, trained: TrainedQuantizer) -> None:
    """Writes `{"quantizer": state_dict, "mean", "std"}`, which the authors' extraction scripts read."""
    state = {key: value.detach().cpu() for key, value in trained.quantizer.state_dict().items()}
    mean, std = (None if value is None else value.cpu() for value in (trained.mean, trained.std))
    with fs.atomic(path) as temporary:
        torch.save({"quantizer": state, "mean": mean, "std": std}, temporary)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of names, types, shapes and values; the file format and the order of the keys do not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _all_tensors(quantizer: Quantizer, mean: Tensor | None, std: Tensor | None) -> dict[str, Tensor]:
    tensors = {key: value.detach().cpu().contiguous() for key, value in quantizer.state_dict().items()}
    if mean is not None:
        tensors.update(mean=mean.detach().cpu().float().contiguous(), std=std.detach().cpu().float().contiguous())
    return tensors


def _assemble(tensors: dict[str, Tensor], card: dict[str, Any]) -> TrainedQuantizer:
    mean, std = tensors.pop("mean", None), tensors.pop("std", None)
    quantizer = Quantizer.from_state_dict(tensors)
    sizes = {"num_codebooks": quantizer.num_codebooks, "codebook_size": quantizer.codebook_size, "dim": quantizer.dim}
    wrong = [key for key, value in sizes.items() if card.get(key) != value]
    if wrong:
        raise CardError(
            ", ".join(f"{key} = {sizes[key]} in the tensors" for key in wrong),
            ", ".join(f"{key} = {card.get(key)!r} on the card" for key in wrong),
            "run spear train-quantizer again",
        )
    return TrainedQuantizer(quantizer, mean, std, card)


def _load_authors_file(path: Path) -> TrainedQuantizer:
    content = weights.read_torch(path, ("quantizer", "mean", "std"))
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}", "a dictionary of tensors", "check the path")
    nested = isinstance(content.get("quantizer"), dict)
    mean, std = (content.get(key) if nested else None for key in ("mean", "std"))
    state = weights.tensors_of(content["quantizer"] if nested else content)
    weights.check_finite(state, path)
    quantizer = Quantizer.from_state_dict(state)
    if mean is not None or std is not None:
        mean, std = (_statistics(value, quantizer.dim, path) for value in (mean, std))
        std = torch.where(std > 0, std, 1.0)  # a constant channel becomes 0, not NaN
    # The file does not say which teacher; save_quantizer makes a card that does.
    return TrainedQuantizer(quantizer, mean, std, make_card(quantizer, mean, std))


def _statistics(value: Any, dim: int, path: Path) -> Tensor:
    """The mean or standard deviation of an authors' file as (dim,) float32."""
    if not isinstance(value, Tensor) or value.numel() != dim or not bool(torch.isfinite(value.float()).all()):
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise DataError(
            f"{path} with a mean or std that is {found}, or not finite",
            f"{dim} finite numbers each",
            "give the file that was saved with the quantizer",
        )
    return value.float().flatten()
