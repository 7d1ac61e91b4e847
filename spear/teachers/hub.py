"""Models of the package transformers, from a local folder or by their name on the hub, complete or not at all."""

import re
from pathlib import Path
from typing import Any

from spear.errors import ConfigError, DataError, require
from spear.fs import read_json

PACKAGE = "transformers>=4.46"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def transformers_for(teacher: str):
    """The package, imported where it is needed.

    Raises:
        MissingPackageError: it is not installed; holds the install command.
    """
    module = require("transformers", PACKAGE, f"teacher '{teacher}'")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def check_folder(path: str, model_types: tuple[str, ...], teacher: str) -> None:
    """Refuses a local folder that holds no model, or another one; names on the hub pass.

    Raises:
        DataError: nothing there, no config.json, or no weights. ConfigError: a model of another type.
    """
    folder = Path(path)
    wanted = f"a folder with config.json ({' or '.join(model_types)}) and weights, or a name on the hub"
    fix = f"give {teacher}:FOLDER@LAYER or {teacher}:OWNER/NAME@LAYER"
    if not folder.is_dir():
        if folder.exists() or not _HUB_NAME.fullmatch(path):
            raise DataError(f"{'a file' if folder.exists() else 'nothing'} at {path}", wanted, fix)
        return
    names = sorted(entry.name for entry in folder.iterdir())
    if "config.json" not in names:
        raise DataError(f"{path} with {', '.join(names[:6]) or 'nothing in it'}", wanted, fix)
    found = read_json(folder / "config.json").get("model_type", "")
    if found not in model_types:
        raise ConfigError(f"{path} with a model of type '{found}'", wanted, "name the teacher that fits, or correct it")
    if not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise DataError(f"{path} without weights ({', '.join(names[:6])})", wanted, "copy model.safetensors there too")


def load_pretrained(model_class, path: str, teacher: str, unused: tuple[str, ...] = (), **options) -> Any:
    """A model in evaluation mode, with every weight from the checkpoint.

    Args:
        model_class: with transformers' `from_pretrained`.
        path: folder or hub name.
        teacher: for messages.
        unused: parts of names of weights that inference does not need, which may be missing.
        options: for `from_pretrained`.

    Raises:
        DataError: it cannot be read, or weights are missing (a randomly initialised teacher would be worthless).
    """
    try:
        model, info = model_class.from_pretrained(path, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"teacher '{teacher}' cannot be loaded from {path} ({text[0][:200]})",
            "a folder that save_pretrained wrote, or a name on the hub and a network",
            f"download it where there is a network, copy the folder here, and give {teacher}:FOLDER@LAYER",
        ) from error
    missing = sorted(
        name for name in info["missing_keys"] if not any(part in name for part in ("masked_spec_embed", *unused))
    )
    if missing:
        raise DataError(
            f"{path} without {len(missing)} weights of teacher '{teacher}' ({', '.join(missing[:3])})",
            "all of them",
            "download the checkpoint again, or name the teacher that it belongs to",
        )
    return model.float().eval().requires_grad_(False)


def preprocessor(path: str, teacher: str) -> dict:
    """Content of preprocessor_config.json, of a folder or the hub; empty when there is none."""
    folder = Path(path)
    if folder.is_dir():
        file = folder / "preprocessor_config.json"
        return read_json(file) if file.exists() else {}
    module = transformers_for(teacher)
    try:
        return module.AutoFeatureExtractor.from_pretrained(path).to_dict()
    except (OSError, ValueError):
        return {}
