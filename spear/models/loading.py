"""Reading and writing encoders: our checkpoints, released folders, icefall checkpoints.

All hold the same tensors under the same names, with different prefixes and companions. Heads, mask embeddings and
other companions of pre-training are left aside; everything else must fit exactly.
"""

import pickle
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from spear import compat, fs
from spear.errors import CheckpointError, DataError
from spear.models.config import SpearConfig
from spear.models.inference import infer_config
from spear.models.spear import SpearModel

ENCODER_PREFIXES = ("encoder_embed.", "encoder.")
# Companions in research and released checkpoints that the encoder does without.
_COMPANIONS = ("mask_emb", "heads.", "codebook_loss", "audio_tagging_proj.")
_ANCHOR = "encoder_embed.out.weight"
_WEIGHTS = ("model_avg.safetensors", "model.safetensors")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> SpearModel:
    """Loads an encoder for inference.

    Args:
        path: one of
            - a checkpoint directory of `spear train`, or the experiment directory that holds `final/` (the averaged
              weights are preferred);
            - a folder with config.json and model.safetensors: a released model, or what `save_model` wrote;
            - a .safetensors file (config.json beside it is used where it exists);
            - an icefall checkpoint .pt: the architecture is read off the shapes.
        device: where to put it.

    Returns:
        The model in eval mode, float32.

    Raises:
        CheckpointError: nothing there, a truncated or foreign file, or tensors that do not fit the configuration.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"nothing at {path}", "a checkpoint file or directory", "correct the path")
    weights_file, config = _find(path) if path.is_dir() else (path, _config_beside(path))
    state = _encoder_tensors(_read_tensors(weights_file), weights_file)
    if config is None:
        config = infer_config(state, weights_file)
    model = _build(config, state, weights_file)
    return model.eval().to(device)


def save_model(model: SpearModel, directory: str | Path) -> Path:
    """Writes config.json and model.safetensors (the encoder's tensors only), which `load_model` reads.

    Each file appears whole or not at all. Returns the directory.
    """
    directory = Path(directory)
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.startswith(ENCODER_PREFIXES)
    }
    with fs.atomic(directory / "model.safetensors") as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
    fs.write_json(directory / "config.json", {"model_type": "spear", **model.config.to_dict()})
    return directory


def _find(directory: Path) -> tuple[Path, SpearConfig | None]:
    """The weights file of a directory and the configuration that goes with it."""
    for place in (directory, directory / "final"):
        weights = next((place / name for name in _WEIGHTS if (place / name).is_file()), None)
        if weights is not None:
            return weights, _config_beside(weights)
    raise CheckpointError(
        f"{directory} without model.safetensors (and without final/)",
        "a checkpoint directory, an experiment directory with final/, or a released model's folder",
        "name the directory that holds model.safetensors",
    )


def _config_beside(weights: Path) -> SpearConfig | None:
    """The configuration in checkpoint.json or config.json beside the weights; None when there is neither."""
    try:
        if (weights.parent / "checkpoint.json").is_file():
            return SpearConfig.from_dict(fs.read_json(weights.parent / "checkpoint.json")["model_config"])
        if weights.suffix == ".safetensors" and (weights.parent / "config.json").is_file():
            return SpearConfig.from_dict(fs.read_json(weights.parent / "config.json"))
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"an unreadable configuration beside {weights} ({error})",
            "checkpoint.json with the key model_config, or config.json",
            "copy the checkpoint again",
        ) from error
    return None


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors or torch file."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = compat.load_pickle(path)
    except (safetensors.SafetensorError, OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error})", "a complete checkpoint", "copy or download it again: it may be cut off"
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of tensors ({str(error).splitlines()[0]})",
            "a torch file of tensors and plain values; other objects are refused because they can run code",
            "save torch.load(...)['model'] alone with torch.save, on a machine that trusts the file",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}", "a dictionary of tensors, or {'model': ...}", "check the path"
        )
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _encoder_tensors(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The encoder's tensors without the prefix under which the file keeps them (`model.model.`, `module.`...)."""
    anchors = [name for name in tensors if name.endswith(_ANCHOR)]
    if len(anchors) != 1:
        raise CheckpointError(
            f"{path} with {len(anchors)} tensors named ...{_ANCHOR} (among {len(tensors)})",
            "exactly one SPEAR encoder",
            "check that this is a SPEAR checkpoint",
        )
    prefix = anchors[0].removesuffix(_ANCHOR)
    state, foreign = {}, []
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix)
        if bare.startswith(ENCODER_PREFIXES):
            state[bare] = tensor.float()
        elif not bare.startswith(_COMPANIONS) and not name.startswith(_COMPANIONS):
            foreign.append(name)
    if foreign:
        raise CheckpointError(
            f"{path} with unknown tensors: {_some(foreign)}", "encoder_embed.* and encoder.*", "check the file's origin"
        )
    return state


def _build(config: SpearConfig, state: dict[str, torch.Tensor], path: Path) -> SpearModel:
    # On the meta device nothing is initialised in vain; the checkpoint's tensors become the parameters.
    with torch.device("meta"):
        model = SpearModel(config)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path} lacks {_some(missing)}; has in addition {_some(unknown)}",
            f"the {len(expected)} tensors of its configuration",
            "use the configuration it was trained with, or copy the checkpoint again",
        )
    for name, parameter in expected.items():
        if parameter.shape != state[name].shape:
            raise CheckpointError(
                f"{path} with {name} of shape {tuple(state[name].shape)}",
                f"shape {tuple(parameter.shape)}, from its configuration",
                "use the configuration it was trained with",
            )
    model.load_state_dict(state, assign=True)
    return model


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
