"""Reading and writing encoders: our checkpoints, released folders, icefall checkpoints.

All hold the same tensors under the same names, with different prefixes and companions. Heads, mask embeddings and
other companions of pre-training are left aside; everything else must fit exactly.
"""

from pathlib import Path

import safetensors.torch
import torch

from spear import compat, fs, records, seal, weights
from spear.errors import CheckpointError, ConfigError, DataError
from spear.models import encoders
from spear.models.encoders import EncoderConfig
from spear.models.inference import infer_config
from spear.models.spear import SpearModel

ENCODER_PREFIXES = ("encoder_embed.", "encoder.")
# Companions in research and released checkpoints that the encoder does without.
_COMPANIONS = ("mask_emb", "heads.", "codebook_loss", "audio_tagging_proj.")
# Of icefall's recognisers.
_COMPANIONS += ("ctc_output.1.", "decoder.embedding.", "decoder.conv.", "simple_am_proj.", "simple_lm_proj.")
_COMPANIONS += ("joiner.encoder_proj.", "joiner.decoder_proj.", "joiner.output_linear.")
_MODEL_TYPE = "spear"
_SEAL = "seal.json"  # of what `save_model` writes: the released folders' own files leave no place for digests
_WEIGHTS = ("model_avg.safetensors", "model.safetensors", "pytorch_model.bin")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> SpearModel:
    """Loads an encoder for inference.

    Args:
        path: one of
            - a checkpoint directory of `spear train`, or the experiment directory that holds `final/` (the averaged
              weights are preferred);
            - a folder with config.json and model.safetensors (or pytorch_model.bin): a released model, or what
              `save_model` wrote;
            - a .safetensors or .bin file (config.json beside it is used where it exists);
            - an icefall checkpoint .pt: the architecture is read off the shapes, or is that of a config.json of spear
              beside it (`spear export --format icefall`).
            Nothing in any of them is executed.
        device: where to put it.

    Returns:
        The model in eval mode, float32.

    Raises:
        CheckpointError: nothing there, a truncated or foreign file, a pointer to a file elsewhere, tensors that do not
            fit the configuration or are not finite.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"nothing at {path}", "a checkpoint file or directory", "correct the path")
    weights_file = weights.check_file(_find(path) if path.is_dir() else path)
    try:
        digests = _digests_beside(weights_file)
        with seal.while_reading(weights_file, digests.get(weights_file.name)):
            config = _config_beside(weights_file, digests)
            anchor = (config or EncoderConfig).anchor
            state = _encoder_tensors(weights.read_tensors(weights_file), weights_file, anchor)
            model = _build(config or infer_config(state, weights_file), state, weights_file)
    except CheckpointError:
        raise
    except DataError as error:
        fix = f"copy the checkpoint again; if you changed it on purpose, delete {_SEAL} (or checkpoint.json) beside it"
        raise CheckpointError(error.found, error.expected, fix) from error
    return model.eval().to(device)


def save_model(model: SpearModel, directory: str | Path) -> Path:
    """Writes config.json, model.safetensors (the encoder's tensors only) and their seal, which `load_model` reads.

    Each file appears whole or not at all. Returns the directory.
    """
    directory = Path(directory)
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.startswith(ENCODER_PREFIXES)
    }
    (directory / _SEAL).unlink(missing_ok=True)  # never an old seal beside new tensors
    with fs.atomic(directory / "model.safetensors") as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
    fs.write_json(directory / "config.json", {"model_type": _MODEL_TYPE, **encoders.to_dict(model.config)})
    seal.write_json(directory / _SEAL, {"files": seal.digests(directory, ("config.json", "model.safetensors"))})
    return directory


def _find(directory: Path) -> Path:
    """The weights file of a directory."""
    for place in (directory, directory / "final"):
        file = next((place / name for name in _WEIGHTS if (place / name).is_file()), None)
        if file is not None:
            return file
    raise CheckpointError(
        f"{directory} without model.safetensors or pytorch_model.bin (and without final/)",
        "a checkpoint directory, an experiment directory with final/, or a released model's folder",
        "name the directory that holds model.safetensors",
    )


def _digests_beside(weights_file: Path) -> dict[str, str]:
    """SHA-256 by name of the files in the weights' directory, where whoever wrote them left a list.

    Raises:
        DataError: the list is damaged.
    """
    for name in ("checkpoint.json", _SEAL):
        if (path := weights_file.with_name(name)).is_file():
            weights.read_settings(path)  # refuses what is huge, a pointer or no JSON
            return records.convert(seal.read_json(path).get("files", {}), dict[str, str], str(path))
    return {}


def _config_beside(weights_file: Path, digests: dict[str, str]) -> EncoderConfig | None:
    """The configuration in checkpoint.json or config.json beside the weights; None when there is neither."""
    ours, released = (weights_file.with_name(name) for name in ("checkpoint.json", "config.json"))
    try:
        if ours.is_file():
            return encoders.from_dict(weights.read_settings(ours).get("model_config"))
        if weights_file.suffix in (".safetensors", ".bin", ".pt") and released.is_file():
            settings = weights.read_settings(released)
            if weights_file.suffix == ".pt" and settings.get("model_type") != _MODEL_TYPE:
                return None
            if released.name in digests:
                seal.check_files(released.parent, {released.name: digests[released.name]})
            return encoders.from_dict(settings)
    except (weights.WeightsError, ConfigError) as error:
        raise CheckpointError(
            f"an unreadable configuration beside {weights_file} ({error.found})",
            f"checkpoint.json with the key model_config, or config.json: {error.expected}",
            "copy the checkpoint again",
        ) from error
    return None


def _encoder_tensors(tensors: dict[str, torch.Tensor], path: Path, anchor: str) -> dict[str, torch.Tensor]:
    """The encoder's tensors without the prefix under which the file keeps them (`model.model.`, `module.`...)."""
    anchors = [name for name in tensors if name.endswith(anchor)]
    if len(anchors) != 1:
        raise CheckpointError(
            f"{path} with {len(anchors)} tensors named ...{anchor} (among {len(tensors)})",
            "exactly one SPEAR encoder",
            "check that this is a SPEAR checkpoint",
        )
    prefix = anchors[0].removesuffix(anchor)
    state, foreign = {}, []
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix)
        if bare in state:
            raise CheckpointError(f"{path} with {bare} twice", "exactly one SPEAR encoder", "check the file's origin")
        if bare.startswith(ENCODER_PREFIXES):
            state[bare] = tensor
        elif not bare.startswith(_COMPANIONS) and not name.startswith(_COMPANIONS):
            foreign.append(name)
    if foreign:
        raise CheckpointError(
            f"{path} with unknown tensors: {weights.some(foreign)}",
            "encoder_embed.* and encoder.*",
            "check the file's origin",
        )
    return state


def _build(config: EncoderConfig, state: dict[str, torch.Tensor], path: Path) -> SpearModel:
    # The checkpoint's tensors become the parameters.
    with compat.parameters_only():
        model = SpearModel(config)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path} lacks {weights.some(missing)}; has in addition {weights.some(unknown)}",
            f"the {len(expected)} tensors of its configuration",
            "use the configuration it was trained with, or copy the checkpoint again",
        )
    for name, parameter in expected.items():
        if parameter.shape != state[name].shape or not state[name].is_floating_point():
            raise CheckpointError(
                f"{path} with {name} of shape {tuple(state[name].shape)}, {state[name].dtype}",
                f"floating-point numbers of shape {tuple(parameter.shape)}, from its configuration",
                "use the configuration it was trained with",
            )
    weights.check_finite(state, path)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model
