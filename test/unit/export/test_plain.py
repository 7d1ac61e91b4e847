"""What becomes a graph computes what the models compute, in plain operations."""

import pytest
import torch
from tiny import TWO_WIDTHS

from spear import SpearConfig, SpearModel
from spear.errors import ConfigError
from spear.export.graph import Decoder, Graph, Joiner, PlainFbank
from spear.export.plain import PlainEncoder
from spear.nn.transducer import BLANK


def valid_difference(a: torch.Tensor, b: torch.Tensor, lens_B: torch.Tensor) -> float:
    """The largest difference over valid frames."""
    assert a.shape == b.shape
    return max((x[:n] - y[:n]).abs().max().item() for x, y, n in zip(a, b, lens_B.tolist()))


@pytest.mark.parametrize("name", ["zipformer", "released", "transformer"])
def test_an_encoder(sources, padded, name):
    source = sources[name]
    features_BTF, lens_B = source.model.fbank(*padded)
    graph = Graph(source, hidden_states=True)
    with torch.no_grad():
        out_BTD, out_lens_B, *layers = graph(features_BTF, lens_B)
        ours = source.model.encode(features_BTF, lens_B)
    assert out_lens_B.tolist() == ours.encoder_out_lens.tolist()
    assert valid_difference(out_BTD, ours.encoder_out, out_lens_B) < 1e-4
    assert len(layers) == len(ours.hidden_states) == len(graph.outputs) - 2
    assert max(valid_difference(a, b, ours.hidden_lens) for a, b in zip(layers, ours.hidden_states)) < 1e-4


@pytest.fixture(scope="module")
def encoded(sources, padded):
    model = sources["ctc"].model
    with torch.no_grad():
        return model.encode_masked(*model.fbank(*padded))


@pytest.mark.parametrize("kind", ["ctc", "transducer", "tagging", "classification"])
def test_a_head(sources, padded, encoded, kind):
    source = sources[kind]
    graph, head = Graph(source), source.head
    with torch.no_grad():
        found, *lens = graph(*source.model.fbank(*padded))
    if kind in ("tagging", "classification"):
        assert torch.allclose(found, head.logits(encoded), atol=1e-4)
        return
    ours = head.log_probs(head.read(encoded)) if kind == "ctc" else head.from_encoder(head.read(encoded))
    assert lens[0].tolist() == encoded.lens_B.tolist()
    assert valid_difference(found, ours, encoded.lens_B) < 1e-4


def test_the_parts_of_a_transducer(sources):
    head = sources["transducer"].head
    units_BC = torch.tensor([[-1, 0], [3, 4]])
    states_BD = head.from_prediction(head.prediction(units_BC.clamp(min=BLANK)))[:, 0]
    assert torch.allclose(Decoder(head)(units_BC), states_BD, atol=1e-6)
    frames_BD = torch.randn(2, 16)
    assert torch.allclose(Joiner(head)(frames_BD, states_BD), head.joined(frames_BD, states_BD), atol=1e-6)


def test_features_of_audio(sources, padded):
    fbank = sources["zipformer"].model.fbank
    ours, lens = fbank(*padded)
    found, found_lens = PlainFbank(fbank)(*padded)
    assert found_lens.tolist() == lens.tolist() and found.shape == ours.shape
    assert (found - ours).abs().max() < 2e-3 and (found - ours).abs().mean() < 1e-5


def test_an_encoder_that_hears_in_chunks_is_refused_as_a_graph():
    torch.manual_seed(0)
    model = SpearModel(SpearConfig(**TWO_WIDTHS, causal=True)).eval()
    with pytest.raises(ConfigError, match="causal"):
        PlainEncoder(model, exact_padding=True)
