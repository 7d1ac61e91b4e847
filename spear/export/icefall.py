"""A checkpoint as icefall's zipformer recipes write and read them: `pretrained.pt` with the key `model`.

The encoder has the names of the released models, which are icefall's own. Heads of CTC and of transducers that read the
last layer get the names of the recipe for speech recognition, so that its decoding scripts load the whole model.
"""

from pathlib import Path

import torch
from torch import Tensor

from spear import fs
from spear.errors import ConfigError
from spear.export.card import model_card
from spear.export.source import Source, unused
from spear.models import encoders
from spear.models.loading import load_model

_NAMES = {
    "ctc": {"output.": "ctc_output.1."},
    "transducer": {
        "prediction.": "decoder.",
        "from_encoder.": "joiner.encoder_proj.",
        "from_prediction.": "joiner.decoder_proj.",
        "output.": "joiner.output_linear.",
        "simple_am.": "simple_am_proj.",
        "simple_lm.": "simple_lm_proj.",
    },
}
_FILE = "pretrained.pt"


def write_icefall(source: Source, directory: Path, licence: str = "") -> list[str]:
    """Writes pretrained.pt, config.json with the sizes, and a card; reads the encoder back.

    Args:
        source: a Zipformer, with a head of CTC or of a transducer or without.
        directory: an empty one.
        licence: of the weights, for the card.

    Returns:
        a line that says what was checked.

    Raises:
        ConfigError: icefall's recipes have no such encoder or head.
    """
    reads_all = source.head is not None and source.head.wants_layers
    if source.config.encoder != "zipformer" or source.kind not in ("", *_NAMES) or reads_all:
        what = f"a head of kind {source.kind}{' on all layers' if reads_all else ''}" if source.kind else "no head"
        raise ConfigError(
            f"an encoder of kind {source.config.encoder} with {what}",
            "a zipformer, alone or with a head of CTC or of a transducer that reads the last layer",
            "export its encoder alone with --encoder-only, or use --format hf",
        )
    tensors = {name: unused(tensor) for name, tensor in source.encoder_tensors().items()}
    tensors |= _head_tensors(source)
    torch.save({"model": tensors}, directory / _FILE)
    fs.write_json(directory / "config.json", {"model_type": "spear", **encoders.to_dict(source.config)})
    usage = f"`torch.load('{_FILE}')['model']` holds the tensors under the names of icefall's zipformer recipes; "
    usage += "config.json has the sizes, which are arguments of their scripts."
    fs.write_text(directory / "README.md", model_card(source, usage, licence))
    read, ours = load_model(directory / _FILE), source.encoder_tensors()
    found = read.state_dict()
    same = found.keys() == ours.keys() and all(torch.equal(found[name], ours[name].cpu()) for name in ours)
    if not same or read.config != source.config:
        raise AssertionError(f"{_FILE} and config.json do not hold the model that was written")
    return [f"{len(tensors)} tensors; the encoder was read back bit for bit"]


def _head_tensors(source: Source) -> dict[str, Tensor]:
    named = {}
    for name, tensor in source.head.state_dict().items() if source.head is not None else ():
        ours = next(prefix for prefix in _NAMES[source.kind] if name.startswith(prefix))
        named[_NAMES[source.kind][ours] + name.removeprefix(ours)] = unused(tensor)
    return named
