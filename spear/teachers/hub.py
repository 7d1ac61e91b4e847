"""Models of the package transformers, from a local folder or by their name on the hub, complete or not at all.

Folders come from others. Of config.json only values that the model's own configuration knows are taken, within bounds;
weights are read by `spear.weights`, which runs nothing that is in them, and are compared with the configuration before
a model is built. transformers then only gets numbers.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spear import weights
from spear.errors import ConfigError, DataError, SpearError, require

PACKAGE = "transformers>=4.46"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Choices of kernels, quantisers and files belong to whoever runs the model; precision is ours.
_NEVER_TAKEN = ("quantization_config", "transformers_weights", "dtype", "torch_dtype", "fusion_config", "architectures")
_MOST_LAYERS, _LARGEST_NUMBER, _MOST_VALUES = 256, 10_000_000, 4096


def transformers_for(teacher: str):
    """The package, imported where it is needed.

    Raises:
        MissingPackageError: it is not installed; holds the install command.
    """
    module = require("transformers", PACKAGE, f"teacher '{teacher}'")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def read_config(path: str, model_types: tuple[str, ...], teacher: str) -> dict[str, Any]:
    """Content of config.json of a local folder that holds a model of these types, or of a name on the hub.

    Raises:
        DataError: nothing there, or no config.json. ConfigError: a model of another type.
    """
    folder = Path(path)
    wanted = f"a folder with config.json ({' or '.join(model_types)}) and weights, or a name on the hub"
    fix = f"give {teacher}:FOLDER@LAYER or {teacher}:OWNER/NAME@LAYER"
    if not folder.is_dir():
        if folder.exists() or not _HUB_NAME.fullmatch(path):
            raise DataError(f"{'a file' if folder.exists() else 'nothing'} at {path}", wanted, fix)
        try:
            file = transformers_for(teacher).utils.cached_file(path, "config.json")
        except Exception as error:  # its errors have many bases
            raise _not_loaded(teacher, path, error) from error
        return weights.read_settings(file)
    names = sorted(entry.name for entry in folder.iterdir())
    if "config.json" not in names:
        raise DataError(f"{path} with {weights.some(names) if names else 'nothing in it'}", wanted, fix)
    values = weights.read_settings(folder / "config.json")
    found = values.get("model_type", "")
    if found not in model_types:
        raise ConfigError(
            f"{path} with a model of type '{weights.shown(str(found), 60)}'",
            wanted,
            "name the teacher that fits, or correct it",
        )
    return values


def load_pretrained(
    model_class, path: str, values: Mapping[str, Any], teacher: str, unused: tuple[str, ...] = ()
) -> Any:
    """A model in evaluation mode, with every weight from the checkpoint, and all of them finite.

    Args:
        model_class: of transformers.
        path: folder or hub name.
        values: content of its config.json.
        teacher: for messages.
        unused: parts of names of weights that inference does not need, which may be missing.

    Raises:
        DataError: it cannot be read, or weights are missing (a randomly initialised teacher would be worthless).
        ConfigError: values that no model has.
    """
    try:
        config = _config(model_class.config_class, values, path)
        if Path(path).is_dir():
            state = read_weights(Path(path))
            _check_size(model_class, config, state, path)
            source: dict[str, Any] = {"pretrained_model_name_or_path": None, "state_dict": state}
        else:
            source = {"pretrained_model_name_or_path": path}
        model, info = model_class.from_pretrained(**source, config=config, output_loading_info=True)
    except SpearError:
        raise
    except Exception as error:  # for values that do not go together it raises whatever the model's parts do
        raise _not_loaded(teacher, path, error) from error
    return checked(model, info, path, teacher, unused)


def load_with_code(model_class, path: str, teacher: str) -> Any:
    """As `load_pretrained`, for models whose own code the user has decided to run."""
    try:
        model, info = model_class.from_pretrained(path, output_loading_info=True, trust_remote_code=True)
    except Exception as error:  # the code may raise anything
        raise _not_loaded(teacher, path, error) from error
    return checked(model, info, path, teacher, ())


def checked(model: Any, info: Mapping[str, Any], path: str, teacher: str, unused: tuple[str, ...]) -> Any:
    """The model in evaluation mode, once nothing is missing and all is finite."""
    missing = sorted(
        name for name in info["missing_keys"] if not any(part in name for part in ("masked_spec_embed", *unused))
    )
    if missing:
        raise DataError(
            f"{path} without {len(missing)} weights of teacher '{teacher}' ({weights.some(missing)})",
            "all of them",
            "download the checkpoint again, or name the teacher that it belongs to",
        )
    state = {name: value for name, value in model.state_dict().items() if not any(part in name for part in unused)}
    weights.check_finite(state, path)
    return model.float().eval().requires_grad_(False)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, of one file or of those that an index names; floating-point ones as float32.

    Raises:
        DataError: none of the usual files, or an index that names files elsewhere.
    """
    for name in _WEIGHTS:
        if (folder / name).exists():
            files = [folder / name]
            break
        if (folder / f"{name}.index.json").exists():
            files = _shards(folder / f"{name}.index.json")
            break
    else:
        names = weights.some(sorted(entry.name for entry in folder.iterdir()))
        raise DataError(
            f"{folder} without weights ({names})", " or ".join(_WEIGHTS), "copy model.safetensors there too"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(weights.read_tensors(file))
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of them in its folder."""
    places = weights.read_settings(index).get("weight_map")
    names = {str(name) for name in places.values()} if isinstance(places, dict) else set()
    if not names or any(Path(name).name != name or not name.endswith((".safetensors", ".bin")) for name in names):
        raise DataError(
            f"{index} that names {weights.some(sorted(names))}",
            "weight_map with the names of files beside it",
            "download the folder again",
        )
    return [index.parent / name for name in sorted(names)]


def _config(config_class, values: Mapping[str, Any], path: str) -> Any:
    """A configuration with the values that its class knows."""
    known = config_class().to_dict().keys() - _NEVER_TAKEN
    taken = {key: value for key, value in values.items() if key in known and not key.startswith("_")}
    for key, value in taken.items():
        if not _is_possible(key, value):
            raise ConfigError(
                f"{Path(path) / 'config.json'} with {key} = {weights.shown(repr(value), 60)}",
                f"at most {_MOST_LAYERS} layers, {_MOST_VALUES} values in a list, finite numbers",
                "download the file again",
            )
    return config_class(**{key: value for key, value in taken.items() if key != "model_type"})


def _is_possible(key: str, value: Any, depth: int = 0) -> bool:
    if isinstance(value, bool | None):
        return True
    if isinstance(value, int):
        return abs(value) <= (_MOST_LAYERS if "layers" in key else _LARGEST_NUMBER)
    if isinstance(value, float):
        return abs(value) <= _LARGEST_NUMBER  # NaN is not
    if isinstance(value, str):
        return len(value) <= _MOST_VALUES
    items = list(value.values() if isinstance(value, dict) else value)
    return depth < 3 and len(items) <= _MOST_VALUES and all(_is_possible(key, item, depth + 1) for item in items)


def _check_size(model_class, config: Any, state: Mapping[str, Tensor], path: str) -> None:
    """Refuses a configuration of a model far larger than the weights: building it could fill the memory."""
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in model_class(config).parameters())
    # Some weights may be missing: the decoder of an encoder's file.
    most = 8 * sum(tensor.numel() for tensor in state.values()) + 1_000_000
    if wanted > most:
        raise ConfigError(
            f"{Path(path) / 'config.json'} of a model with {wanted:,} parameters",
            f"about as many as its weights have ({most // 8:,})",
            "download the folder again",
        )


def _not_loaded(teacher: str, path: str, error: Exception) -> DataError:
    return DataError(
        f"teacher '{teacher}' cannot be loaded from {path} ({weights.shown(str(error) or type(error).__name__)})",
        "a folder that save_pretrained wrote, or a name on the hub and a network",
        f"download it where there is a network, copy the folder here, and give {teacher}:FOLDER@LAYER",
    )


def preprocessor(path: str, teacher: str) -> dict:
    """Content of preprocessor_config.json, of a folder or the hub; empty when there is none."""
    folder = Path(path)
    if folder.is_dir():
        file = folder / "preprocessor_config.json"
        return weights.read_settings(file) if file.exists() else {}
    module = transformers_for(teacher)
    try:
        return module.AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False).to_dict()
    except (OSError, ValueError):
        return {}
