"""Teachers by name. Adapters are imported only when they are asked for, so their packages stay optional."""

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import torch

from spear import weights
from spear.errors import ConfigError, DataError, SpearError
from spear.teachers.base import Teacher, TeacherSpec

_FACTORIES: dict[str, str | Callable[..., Teacher]] = {
    "spear": "spear.teachers.spear:SpearTeacher",
    "wavlm": "spear.teachers.wav2vec2:WavLMTeacher",
    "hubert": "spear.teachers.wav2vec2:HubertTeacher",
    "wav2vec2": "spear.teachers.wav2vec2:Wav2Vec2OwnTeacher",
    "data2vec": "spear.teachers.wav2vec2:Data2VecTeacher",
    "mert": "spear.teachers.wav2vec2:MertTeacher",
    "whisper": "spear.teachers.whisper:WhisperTeacher",
    "dasheng": "spear.teachers.dasheng:DashengTeacher",
    "usad": "spear.teachers.usad:UsadTeacher",
    "atst": "spear.teachers.atst:AtstTeacher",
    "beats": "spear.teachers.beats:BeatsTeacher",
    "eat": "spear.teachers.eat:EatTeacher",
    "hf": "spear.teachers.transformers_any:AnyTeacher",
    "python": "spear.teachers.python_factory:load_factory",
    "musicnn": "spear.teachers.musicnn:MusicnnTeacher",
    "aisfx": "spear.teachers.aisfx:AisfxTeacher",
}


def register(name: str, factory: str | Callable[..., Teacher]) -> None:
    """Adds a teacher: `factory(path=..., layer=..., device=..., **options)`, or where it is as 'module:attribute'."""
    _FACTORIES[name] = factory


def teacher_names() -> list[str]:
    """Names that `load_teacher` knows."""
    return sorted(_FACTORIES)


def load_teacher(
    name: str,
    path: str | Path = "",
    layer: int | None = None,
    device: str | torch.device = "cpu",
    **options,
) -> Teacher:
    """Loads a teacher.

    Args:
        name: in the registry, or a whole spec such as `spear:exp/teacher@5` (see `TeacherSpec`).
        path: of its weights.
        layer: which layer; the adapter's default when None.
        device: where it computes.
        options: the adapter's own settings.

    Raises:
        ConfigError: unknown name (with the nearest one) or option.
        MissingPackageError: the adapter needs a package that is not installed.
        DataError: weights that are no such teacher's, or an adapter that fails for any other reason.
    """
    if any(mark in name for mark in ":@,"):
        spec = TeacherSpec.parse(name)
        name, path = spec.name, path or spec.path
        layer = spec.layer if layer is None else layer
        options = {**spec.options, **options}
    factory = _factory(name)
    known = inspect.signature(factory).parameters
    unknown = [key for key in options if key not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        allowed = [key for key in known if key not in ("path", "layer", "device")]
        raise ConfigError(
            f"option '{unknown[0]}' of teacher '{name}'", f"one of {', '.join(allowed) or 'none'}", "correct the spec"
        )
    if layer is not None:
        options["layer"] = layer
    try:
        return factory(path=path, device=device, **options)
    except SpearError:
        raise
    except Exception as error:  # weights and code of others can fail in any way
        raise DataError(
            f"teacher '{name}' at {path or 'its default place'} failed: {type(error).__name__}: "
            f"{weights.shown(str(error))}",
            "weights that its adapter can load",
            "download them again; SPEAR_TRACEBACK=1 shows where it failed",
        ) from error


def _factory(name: str) -> Callable[..., Teacher]:
    if name not in _FACTORIES:
        near = difflib.get_close_matches(name, _FACTORIES, n=1)
        raise ConfigError(
            f"teacher '{name}'",
            f"one of {', '.join(teacher_names())}",
            f"did you mean '{near[0]}'?" if near else "correct the name, or add it with spear.teachers.register",
        )
    factory = _FACTORIES[name]
    if isinstance(factory, str):
        module, attribute = factory.split(":")
        factory = getattr(importlib.import_module(module), attribute)
    return factory


def identity_of(name: str, layer: int | None, dim: int) -> dict:
    """A fingerprint without the weights, for tokens that were made elsewhere: their hash is "unknown".

    Raises:
        ConfigError: unknown name, no layer, or a teacher whose frame rate depends on its weights.
    """
    factory = _factory(name)
    rate, rule = getattr(factory, "frame_rate", None), getattr(factory, "frame_rule", None)
    if layer is None or rate is None or rule is None:
        raise ConfigError(
            f"teacher '{name}' {'without a layer' if layer is None else 'whose frame rate its weights decide'}",
            "NAME@LAYER, or NAME:PATH@LAYER to read its weights",
            "give the whole spec",
        )
    return {
        "teacher": name,
        "weights_sha256": "unknown",
        "layer": layer,
        "frame_rate_hz": float(rate),
        "sample_rate_hz": int(factory.sample_rate),
        "dim": dim,
        "frame_rule": rule,
    }
