"""Checkpoints of other projects: the authors' file, or a folder with the same tensors and settings."""

from pathlib import Path

from torch import Tensor

from spear import weights
from spear.errors import ConfigError, DataError


def read_checkpoint(path: str, teacher: str, entries: tuple[str, str], expected: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors, floating-point ones as float32 and all of them finite, and settings.

    Args:
        path: a file of torch.save or of safetensors, or a folder with model.safetensors and config.json.
        teacher: name of the adapter, for messages.
        entries: of the file, which hold the tensors and the settings; without the first the file is the tensors.
        expected: what the adapter takes, for messages.

    Raises:
        DataError: nothing there, not readable, or weights that are not finite.
    """
    place, config = Path(path), {}
    if not path or not place.exists():
        raise DataError(f"nothing at '{path}'", expected, f"give {teacher}:FILE@LAYER")
    if place.is_dir():
        folder, place = place, place / "model.safetensors"
        if not place.exists():
            names = weights.some(sorted(entry.name for entry in folder.iterdir()))
            raise DataError(f"{folder} with {names}", expected, "name the file itself")
        config = weights.read_settings(folder / "config.json") if (folder / "config.json").exists() else {}
    if place.suffix == ".safetensors":
        tensors = weights.read_tensors(place)
    else:
        content = weights.read_torch(place, entries)
        if isinstance(content, dict) and isinstance(content.get(entries[0]), dict):
            content, config = content[entries[0]], content.get(entries[1]) or config
        if not isinstance(content, dict):
            raise DataError(f"{place} holds a {type(content).__name__}", expected, "correct the path")
        tensors = weights.tensors_of(content)
    weights.check_finite(tensors, place)
    found = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return found, config if isinstance(config, dict) else {}


def number_of(config: dict, key: str, default: int, least: int, most: int, path: str) -> int:
    """A whole number of the settings.

    Raises:
        ConfigError: it is none, or out of its range.
    """
    value = config.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{path} with {key} = {weights.shown(repr(value))}", f"{least} to {most}", "check the file")
    return value
