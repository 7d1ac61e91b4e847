"""Small models with every kind of head, and a few recordings: real ones where they are beside the checkout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spear import SpearConfig
from spear.audio import load_audio
from spear.export.source import Source, of_model
from spear.manifest.vocabulary import Vocabulary
from spear.models.ctc_head import CtcHeadSpec
from spear.models.encoders.transformer import TransformerConfig
from spear.models.pretrain import SpearPretrainModel
from spear.models.transducer_head import TransducerHeadSpec
from spear.models.utterance_heads import ClassificationHead, TaggingHead, UtteranceHeadSpec
from spear.seeds import numpy_rng

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real-mini"
SIZES = {
    "num_encoder_layers": "1,1,1",
    "downsampling_factor": "1,4,2",
    "encoder_dim": "16,32,24",
    "encoder_unmasked_dim": "12",
    "feedforward_dim": "32",
    "cnn_module_kernel": "15",
    "num_heads": "2",
    "query_head_dim": "8",
    "value_head_dim": "8",
    "subsampling_channels": "4,8,16",
    "exact_padding": True,
}
CHARACTERS = Vocabulary.of_characters(["THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG'S ÄÖ"])
LABELS = Vocabulary.of_classes(["dog", "car, truck", "rain", "speech"])


def _moved(model: torch.nn.Module) -> torch.nn.Module:
    """First weights hide padding and positions: others in their places show them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "convnext" in name or name.endswith(
                ("downsample.bias", "linear_pos.weight", "chunkwise_conv_scale", "logits_L")
            ):
                parameter.normal_(std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def sources() -> dict[str, Source]:
    """By name, an encoder of each kind and one model with a head of each kind."""
    torch.manual_seed(0)
    half = SpearConfig(**SIZES, output_downsampling_factor=2)
    heads = {
        "ctc": CtcHeadSpec(CHARACTERS.size, layers="weighted"),
        "transducer": TransducerHeadSpec(CHARACTERS.size, prediction_dim=16, joiner_dim=16),
        "tagging": UtteranceHeadSpec(lambda encoder: TaggingHead(encoder, LABELS.size)),
        "classification": UtteranceHeadSpec(
            lambda encoder: ClassificationHead(encoder, LABELS.size, pooling="attentive")
        ),
    }
    tuned = _moved(SpearPretrainModel(half, heads))
    sizes = {"dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 48, "subsampling_channels": "4,8,16"}
    chunks = {"causal": True, "chunk_size": "8,16", "left_context_frames": "16,32"}
    made = {
        "zipformer": Source(_moved(SpearPretrainModel(SpearConfig(**SIZES), {}))),
        "released": Source(_moved(SpearPretrainModel(SpearConfig(**{**SIZES, "exact_padding": False}), {}))),
        "transformer": Source(_moved(SpearPretrainModel(TransformerConfig(**sizes), {}))),
        "causal": Source(_moved(SpearPretrainModel(SpearConfig(**SIZES, **chunks), {}))),
    }
    for kind in heads:
        made[kind] = of_model(tuned, kind, kind, CHARACTERS if kind in ("ctc", "transducer") else LABELS)
    return made


@pytest.fixture(scope="session")
def waves() -> list[np.ndarray]:
    """Five recordings of at most 3 s, the shortest of 0.3 s."""
    paths = sorted(REAL.rglob("*.flac"))[:5] if REAL.is_dir() else []
    lengths = (24000, 4800, 48000, 16001, 31999)
    if len(paths) == 5:
        return [load_audio(path)[:length] for path, length in zip(paths, lengths)]
    rng = numpy_rng(0, "export")
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


@pytest.fixture(scope="session")
def padded(waves) -> tuple[torch.Tensor, torch.Tensor]:
    """The recordings as a batch, and their lengths."""
    tensors = [torch.from_numpy(wave) for wave in waves]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), torch.tensor([len(wave) for wave in waves])
