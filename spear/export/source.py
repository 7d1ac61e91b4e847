"""What is exported: an encoder, and the head of a fine-tuned run where there is one."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from spear import fs
from spear.errors import ConfigError, SpearError
from spear.manifest.vocabulary import Vocabulary
from spear.models import encoders
from spear.models.loading import load_model
from spear.models.spear import SpearModel
from spear.train import checkpoint
from spear.train.finetuned import load_finetuned

KINDS = ("ctc", "transducer", "tagging", "classification")
"""Objectives whose heads can be exported."""
_PLACES = ("", "final")


@dataclass
class Source:
    """What is exported.

    Attributes:
        model: the encoder, in evaluation mode.
        kind: of the head, one of `KINDS`; empty for an encoder alone.
        head: the module, or None.
        vocabulary: of the head.
        head_settings: what makes the head again: layers, num_outputs, pooling.
        meta: what checkpoint.json says; empty where there is none.
        exp_dir: of the run, where there is one.
    """

    model: SpearModel
    kind: str = ""
    head: nn.Module | None = None
    vocabulary: Vocabulary | None = None
    head_settings: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    exp_dir: Path | None = None

    @property
    def config(self) -> encoders.EncoderConfig:
        """Of the encoder as it computes: fine-tuned models never look at padding."""
        exact = any(getattr(module, "exact_padding", False) for module in self.model.modules())
        names = {each.name for each in dataclasses.fields(self.model.config)}
        changes = {"exact_padding": exact} if "exact_padding" in names else {}
        return dataclasses.replace(self.model.config, **changes)

    def encoder_tensors(self) -> dict[str, Tensor]:
        """The encoder's tensors under the names of the released models."""
        kept = ("encoder_embed.", "encoder.")
        return {name: tensor for name, tensor in self.model.state_dict().items() if name.startswith(kept)}

    def labels(self) -> list[str]:
        """Names of what the head says, by number."""
        return list(self.vocabulary.units) if self.vocabulary else []


def read_source(path: str | Path, stream: str = "", encoder_only: bool = False) -> Source:
    """Reads a checkpoint; nothing in it is executed.

    Args:
        path: what `spear.load_model` reads, or a fine-tuned run.
        stream: whose head is exported, where a run has several.
        encoder_only: leaves heads out.

    Raises:
        CheckpointError, CardError: see `load_model` and `load_finetuned`.
        ConfigError: several heads and no stream, or none of that name.
    """
    path = Path(path)
    meta, exp_dir = _described(path)
    streams = meta.get("config", {}).get("streams", {})
    heads = [name for name, settings in streams.items() if settings.get("objective") in KINDS]
    if encoder_only or not (heads or stream):
        return Source(load_model(path), meta=meta, exp_dir=exp_dir)
    chosen = [name for name in heads if stream in ("", name)]
    if len(chosen) != 1:
        raise ConfigError(
            f"{len(chosen)} heads{f' named {stream}' if stream else ''} in {path}",
            "one of " + ", ".join(heads) if heads else f"a run that was fine-tuned ({', '.join(KINDS)})",
            "name it with --stream, or say --encoder-only" if heads else "leave --stream out: the encoder is exported",
        )
    tuned = load_finetuned(path)
    name, settings = chosen[0], tuned.config.streams[chosen[0]]
    return of_model(tuned.model, settings.objective, name, tuned.vocabularies[name], meta, exp_dir)


def of_model(
    model: SpearModel,
    kind: str,
    stream: str,
    vocabulary: Vocabulary,
    meta: dict | None = None,
    exp_dir: Path | None = None,
) -> Source:
    """A model with heads (`spear.models.pretrain.SpearPretrainModel`), of which one is meant.

    Args:
        model: in evaluation mode.
        kind: see `KINDS`.
        stream: the head's name.
        vocabulary: of its units or labels.
        meta, exp_dir: see `Source`.
    """
    head = model.heads[stream]
    settings = {"kind": kind, "layers": "weighted" if head.wants_layers else "last", "num_outputs": vocabulary.size}
    if kind == "classification":
        settings["pooling"] = "attentive" if head.pooling else "mean"
    return Source(model, kind, head, vocabulary, settings, meta or {}, exp_dir)


def _described(path: Path) -> tuple[dict, Path | None]:
    """What the run says about itself, as far as it can be read, and its directory."""
    for name in _PLACES:
        place = path / name
        if (place / "checkpoint.json").is_file():
            meta = checkpoint.verify(place)
            exp_dir = place.parent if place.name == "final" else place.parent.parent
            return _tidy({**_seen(exp_dir, meta.get("step")), **meta}), exp_dir
    if path.is_dir() and (found := checkpoint.newest(path)):
        return _tidy(found[1]), path
    return {}, None


def _tidy(meta: dict) -> dict:
    """Without what is not of the kind that it should be: the file may be another's."""
    config = meta.get("config") if isinstance(meta.get("config"), dict) else {}
    streams, sources = config.get("streams"), config.get("sources")
    streams = (
        {name: each for name, each in streams.items() if isinstance(each, dict)} if isinstance(streams, dict) else {}
    )
    sources = [each for each in sources if isinstance(each, dict)] if isinstance(sources, list) else []
    cards = meta.get("cards") if isinstance(meta.get("cards"), dict) else {}
    return {**meta, "config": {**config, "streams": streams, "sources": sources}, "cards": cards}


def _seen(exp_dir: Path, step: object) -> dict:
    """Seconds of audio that the run had seen after a step, which its checkpoint of that step knows."""
    try:
        meta = fs.read_json(checkpoint.directory_of(exp_dir, int(step)) / "checkpoint.json")
        return {"seen_seconds": float(meta["seen_seconds"])}
    except (SpearError, OSError, LookupError, TypeError, ValueError):
        return {}


@torch.no_grad()
def unused(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares nothing with the model."""
    return tensor.detach().cpu().clone().contiguous()
