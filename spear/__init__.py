"""SPEAR: self-supervised speech and audio representations by masked prediction of multi-codebook tokens."""

import importlib

__version__ = "0.1.0"

# Imported on first use, so that `import spear` takes no time and command-line help needs no torch.
_MEMBERS = {
    "SpearConfig": "spear.models.config",
    "SpearModel": "spear.models.spear",
    "SpearOutput": "spear.models.spear",
    "load_model": "spear.models.loading",
    "save_model": "spear.models.loading",
}
_SUBMODULES = ("audio", "errors", "models", "nn", "optim", "quantize", "teachers")

__all__ = ["__version__", *_MEMBERS, *_SUBMODULES]


def __getattr__(name: str):
    if name in _MEMBERS:
        return getattr(importlib.import_module(_MEMBERS[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"spear.{name}")
    raise AttributeError(f"module 'spear' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *__all__})
