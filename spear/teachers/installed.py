"""Folders of converted weights: where `spear teachers install` puts them, and how adapters read them."""

import os
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from spear import weights
from spear.errors import ConfigError, DataError

FOLDER_VARIABLE = "SPEAR_TEACHERS"
WEIGHTS, CARD = "model.safetensors", "card.json"
Model = TypeVar("Model", bound=nn.Module)


def default_folder(name: str) -> Path:
    """Where a teacher is installed when nothing else is said: below $SPEAR_TEACHERS, or the user's cache."""
    root = os.environ.get(FOLDER_VARIABLE)
    return (Path(root) if root else Path.home() / ".cache" / "spear" / "teachers") / name


def is_installed(name: str) -> bool:
    """Whether a teacher is in its default folder."""
    return (default_folder(name) / CARD).is_file()


def read_installed(path: str | Path, name: str) -> tuple[Path, dict[str, Tensor]]:
    """The folder and the tensors of a teacher.

    Args:
        path: of the folder; the default one when empty.
        name: under which it is installed.

    Raises:
        DataError: nothing there, or weights that are damaged or not finite.
    """
    folder = Path(path) if str(path) else default_folder(name)
    if not (folder / WEIGHTS).exists():
        raise DataError(
            f"no {WEIGHTS} in {folder}",
            f"a folder that 'spear teachers install {name}' wrote",
            f"run spear teachers install {name}{f' --output {folder}' if str(path) else ''}",
        )
    tensors = weights.read_tensors(folder / WEIGHTS)
    weights.check_finite(tensors, folder / WEIGHTS)
    return folder, {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def fill(model: Model, tensors: dict[str, Tensor], place: str | Path) -> Model:
    """A model that was made on the device "meta", with these weights, in evaluation mode.

    Raises:
        ConfigError: tensors are missing, too many, or of other shapes.
    """
    expected = model.state_dict()
    counters = [name for name in expected if name.endswith("num_batches_tracked")]  # nobody reads them
    tensors = {**dict.fromkeys(counters, torch.tensor(0)), **tensors}
    wrong = [
        name
        for name in sorted({*expected, *tensors})
        if (expected[name].shape if name in expected else None) != (tensors[name].shape if name in tensors else None)
    ]
    if wrong:
        raise ConfigError(
            f"{place} with {len(wrong)} tensors that do not fit, such as {weights.some(wrong)}",
            f"the {len(expected)} of this model",
            "name the teacher that the folder belongs to, or install it again",
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def on_meta(make, *arguments, **settings) -> nn.Module:
    """A module without memory for its weights, to be filled."""
    with torch.device("meta"):
        return make(*arguments, **settings)
