"""A Hugging Face folder: config.json, model.safetensors, a card, and code that needs torch and transformers alone.

Keys and fields are those of the released SPEAR folders. The code is made from spear's own modules by
`spear.export.bundle`; nothing of it runs here.
"""

import dataclasses
import functools
import json
from importlib import resources
from pathlib import Path

import safetensors.torch
import torch

from spear import fs
from spear.errors import ConfigError
from spear.export.bundle import bundle
from spear.export.card import model_card
from spear.export.source import Source, unused
from spear.manifest.vocabulary import PIECE_SPACE, SPACE
from spear.models import encoders
from spear.models.config import SpearConfig
from spear.models.encoders.transformer import TransformerConfig
from spear.models.loading import load_model

_CLASSES = {
    "": ("SpearEncoderModel", "AutoModel"),
    "ctc": ("SpearForCTC", "AutoModelForCTC"),
    "tagging": ("SpearForAudioClassification", "AutoModelForAudioClassification"),
    "classification": ("SpearForAudioClassification", "AutoModelForAudioClassification"),
}
_ROOTS = (
    ("spear.models.spear", "SpearModel"),
    ("spear.nn.zipformer", "Zipformer"),
    ("spear.nn.zipformer", "StackSizes"),
    ("spear.nn.chunks", "ChunkSize"),
    ("spear.nn.layer", "ZipformerLayer"),
    ("spear.nn.schedule", "ScheduledFloat"),
    ("spear.nn.subsampling", "Subsampling"),
    ("spear.nn.subsampling", "MIN_FRAMES"),
    ("spear.nn.subsampling", "output_frames"),
    ("spear.nn.transformer", "Transformer"),
    ("spear.nn.transformer", "TransformerLayer"),
    ("spear.nn.transformer", "ConvolutionalPositions"),
    ("spear.models.encoders.base", "switch_regularisers"),
    ("spear.models.heads", "Encoded"),
    ("spear.models.ctc_head", "CtcHeadSpec"),
    ("spear.models.utterance_heads", "TaggingHead"),
    ("spear.models.utterance_heads", "ClassificationHead"),
)
_HEADER = """# The modules of spear that a model needs, in one file, written by `spear export`. Licence: Apache-2.0.
# ruff: noqa
"""
_FEATURES = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16000,
    "padding_value": 0.0,
    "padding_side": "right",
    "do_normalize": False,
    "return_attention_mask": True,
}


def write_hugging_face(source: Source, directory: Path, licence: str = "") -> list[str]:
    """Writes the folder and reads it back.

    Args:
        source: an encoder, or a model with a head of CTC, tags or classes.
        directory: an empty one.
        licence: of the weights, for the card.

    Returns:
        a line that says what was checked.

    Raises:
        ConfigError: transformers has no class for such a head, or the encoder is not one of spear's own.
    """
    if source.kind not in _CLASSES:
        raise ConfigError(
            f"a head of kind {source.kind}",
            "one that transformers has a class for: " + ", ".join(filter(None, _CLASSES)),
            "export it with --format onnx, or its encoder alone with --encoder-only",
        )
    if source.config.encoder not in ("zipformer", "transformer"):
        raise ConfigError(
            f"an encoder of kind {source.config.encoder}, whose code is another package's",
            "zipformer or transformer",
            "export it with the means of that package",
        )
    tensors = {f"model.model.{name}": unused(tensor) for name, tensor in source.encoder_tensors().items()}
    if source.head is not None:
        tensors |= {f"heads.head.{name}": unused(tensor) for name, tensor in source.head.state_dict().items()}
    safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    fs.write_json(directory / "config.json", _config(source))
    fs.write_json(directory / "preprocessor_config.json", _FEATURES)
    for name, text in code().items():
        if source.kind == "ctc" or not name.startswith("tokenization"):
            fs.write_text(directory / name, text)
    if source.kind == "ctc":
        _write_tokenizer(source, directory)
    fs.write_text(directory / "README.md", model_card(source, _usage(source), licence))
    _check(source, directory)
    return ["read back bit for bit"]


@functools.cache
def code() -> dict[str, str]:
    """The Python files of a folder, by name."""
    fields = {
        "zipformer": dataclasses.asdict(SpearConfig()),
        "transformer": dataclasses.asdict(TransformerConfig()),
    }
    written = {}
    for each in resources.files("spear.export").joinpath("remote").iterdir():
        if each.name.endswith(".py.txt"):
            text = each.read_text(encoding="utf-8")
            # Defaults of missing fields, so that the released models' shorter files mean the same.
            head, mark, rest = text.partition("FIELDS = {}")
            written[each.name.removesuffix(".txt")] = head + f"FIELDS = {fields!r}" + rest if mark else text
    return {**written, "spear_modules.py": bundle(_ROOTS, _HEADER)}


def _config(source: Source) -> dict:
    made, auto = _CLASSES[source.kind]
    auto_map = {
        "AutoConfig": "configuration_spear.SpearConfig",
        "AutoModel": "modeling_spear.SpearEncoderModel",
        auto: f"modeling_spear.{made}",
    }
    values = {
        "model_type": "spear",
        "architectures": [made],
        "auto_map": auto_map,
        "dtype": "float32",
        **encoders.to_dict(source.config),
    }
    if source.kind:
        values["head"] = source.head_settings
    if source.kind == "ctc":
        values |= {"vocab_size": source.vocabulary.size, "pad_token_id": 0}
    elif source.kind:
        values["id2label"] = {str(number): name for number, name in enumerate(source.labels())}
        values["label2id"] = {name: number for number, name in enumerate(source.labels())}
        single = source.kind == "classification"
        values["problem_type"] = "single_label_classification" if single else "multi_label_classification"
    return values


def _write_tokenizer(source: Source, directory: Path) -> None:
    units = [PIECE_SPACE if unit == SPACE else unit for unit in source.labels()]
    fs.write_text(directory / "vocab.json", json.dumps(units, ensure_ascii=False))
    settings = {
        "tokenizer_class": "SpearCTCTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_spear.SpearCTCTokenizer", None]},
        "pad_token": units[0],
        "clean_up_tokenization_spaces": False,
    }
    fs.write_json(directory / "tokenizer_config.json", settings)


def _usage(source: Source) -> str:
    made = _CLASSES[source.kind][1]
    lines = [
        "```python",
        f"from transformers import AutoFeatureExtractor, {made}",
        "",
        f'model = {made}.from_pretrained("FOLDER", trust_remote_code=True).eval()',
        'features = AutoFeatureExtractor.from_pretrained("FOLDER")',
        'inputs = features([wave], sampling_rate=16000, padding=True, return_tensors="pt")',
        "outputs = model(**inputs)",
        "```",
    ]
    if source.kind == "ctc":
        task = "automatic-speech-recognition"
    elif source.kind:
        task = "audio-classification"
    else:
        return "\n".join(
            [*lines, "", "`outputs` has last_hidden_state, hidden_states (of every layer, at 50 Hz) and lengths."]
        )
    call = f'`transformers.pipeline("{task}", model="FOLDER", trust_remote_code=True)` does all of it.'
    return "\n".join([*lines, "", call])


def _check(source: Source, directory: Path) -> None:
    """Reads the encoder back as anybody's folder, and compares it bit for bit."""
    found, made = load_model(directory), source.encoder_tensors()
    if found.config != source.config or not all(torch.equal(made[n].cpu(), t) for n, t in found.state_dict().items()):
        raise AssertionError(f"{directory} does not hold the model that was written")
