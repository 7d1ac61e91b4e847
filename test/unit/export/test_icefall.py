"""Checkpoints under icefall's names: there and back, and what has no name there."""

import pytest
import torch

from spear import SpearConfig, load_model
from spear.errors import ConfigError
from spear.export.source import Source, of_model
from spear.export.write import write
from spear.models.ctc_head import CtcHeadSpec
from spear.models.pretrain import SpearPretrainModel
from spear.models.spear import SpearModel

# The tensors of icefall's egs/librispeech/ASR/zipformer/model.py beside the encoder.
TRANSDUCER = {
    "decoder.embedding.weight",
    "decoder.conv.weight",
    *(
        f"joiner.{layer}.{kind}"
        for layer in ("encoder_proj", "decoder_proj", "output_linear")
        for kind in ("weight", "bias")
    ),
    *(f"simple_{side}_proj.{kind}" for side in ("am", "lm") for kind in ("weight", "bias")),
}


@pytest.mark.parametrize("name", ["zipformer", "transducer"])
def test_spear_to_icefall_to_spear_is_bit_equal(sources, tmp_path, name):
    source = sources[name]
    write(source, tmp_path / "out", "icefall")
    tensors = torch.load(tmp_path / "out" / "pretrained.pt", weights_only=True)["model"]
    ours, found = source.encoder_tensors(), load_model(tmp_path / "out" / "pretrained.pt").state_dict()
    assert found.keys() == ours.keys() and all(torch.equal(found[n], ours[n]) for n in ours)
    assert tensors.keys() - ours.keys() == (TRANSDUCER if name == "transducer" else set())


def test_the_sizes_of_a_base_model_are_read_off_its_tensors(tmp_path):
    config = SpearConfig.base(num_encoder_layers="1,1,1,1,1,1,1", feedforward_dim="64")
    write(Source(SpearModel(config).eval()), tmp_path / "out", "icefall")
    found = load_model(tmp_path / "out" / "pretrained.pt").config
    assert [found.per_stack(n) for n in ("encoder_dim", "num_heads", "cnn_module_kernel")] == [
        config.per_stack(n) for n in ("encoder_dim", "num_heads", "cnn_module_kernel")
    ]


def test_a_ctc_head_is_named_as_the_recipe_names_it(sources, tmp_path):
    encoder, vocabulary = sources["zipformer"].model, sources["ctc"].vocabulary
    model = SpearPretrainModel(encoder.config, {"ctc": CtcHeadSpec(vocabulary.size)}).eval()
    write(of_model(model, "ctc", "ctc", vocabulary), tmp_path / "out", "icefall")
    tensors = torch.load(tmp_path / "out" / "pretrained.pt", weights_only=True)["model"]
    assert torch.equal(tensors["ctc_output.1.weight"], model.heads["ctc"].output.weight)


@pytest.mark.parametrize("name", ["transformer", "ctc", "tagging"])
def test_what_icefall_has_no_name_for_is_refused(sources, tmp_path, name):
    with pytest.raises(ConfigError, match="last layer"):
        write(sources[name], tmp_path / "out", "icefall")
    assert not list(tmp_path.iterdir())
