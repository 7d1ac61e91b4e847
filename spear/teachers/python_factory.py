"""A teacher of your own, from any module that Python can import.

    python:my_package.my_module:MyTeacher@3,option=value

FACTORY is called with device, with layer where @LAYER is given, and with the options as texts; it gives a `Teacher`.
Its frame rule is one of `spear.teachers.align.FRAME_RULES` or such as hop320-window400, which later stages understand
without your module. A package that is installed can bring more: see `spear.teachers.register`.
"""

import importlib

import torch

from spear import weights
from spear.errors import ConfigError
from spear.teachers.align import expected_frames
from spear.teachers.base import IDENTITY_KEYS, Teacher

_ATTRIBUTES = ("name", "sample_rate", "frame_rate", "frame_rule", "dim", "layer", "batch_invariant", "device")


def load_factory(path="", layer: int | None = None, device: str | torch.device = "cpu", **options) -> Teacher:
    """The teacher that a factory gives.

    Args:
        path: MODULE:FACTORY.
        layer, device, options: of the factory.

    Raises:
        ConfigError: no such module or factory, it fails, or it gives no teacher.
    """
    module, _, name = str(path).partition(":")
    expected = "python:MODULE:FACTORY, where FACTORY gives a teacher"
    if not module or not name:
        raise ConfigError(f"teacher 'python:{path}'", expected, "correct the spec")
    try:
        factory = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of others can fail in any way
        raise ConfigError(
            f"{path} cannot be imported ({type(error).__name__}: {weights.shown(str(error))})",
            expected,
            "correct the spec, or put the module's folder into PYTHONPATH",
        ) from error
    if layer is not None:
        options["layer"] = layer
    teacher = factory(device=device, **options)
    missing = [key for key in (*_ATTRIBUTES, "fingerprint", "embed") if not hasattr(teacher, key)]
    if missing:
        raise ConfigError(
            f"{path} gives a {type(teacher).__name__} without {weights.some(missing)}",
            "what spear.teachers.Teacher says",
            "add them",
        )
    _check(teacher, str(path))
    return teacher


def _check(teacher: Teacher, path: str) -> None:
    """Refuses a fingerprint that does not say what the teacher says."""
    found = teacher.fingerprint()
    own = {"layer": teacher.layer, "sample_rate_hz": teacher.sample_rate, "dim": teacher.dim}
    own |= {"frame_rate_hz": float(teacher.frame_rate), "frame_rule": teacher.frame_rule}
    wrong = [key for key in IDENTITY_KEYS if key not in found or found[key] != own.get(key, found[key])]
    if wrong:
        raise ConfigError(
            f"{path} with a fingerprint whose {', '.join(wrong)} is missing or another than the teacher's",
            ", ".join(IDENTITY_KEYS),
            "correct fingerprint()",
        )
    expected_frames(teacher.sample_rate, teacher)
