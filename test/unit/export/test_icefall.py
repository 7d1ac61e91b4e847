"""Checkpoints under icefall's names: there and back, and what has no name there."""

import dataclasses

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


@pytest.mark.parametrize(
    "changes", [{"num_mel_bins": 100}, {"pos_head_dim": "2"}, {"causal": True, "chunk_size": "16"}]
)
def test_sizes_that_tensors_do_not_tell_come_back_from_the_config_beside_them(sources, tmp_path, changes):
    config = dataclasses.replace(sources["zipformer"].config, **changes)
    write(Source(SpearModel(config).eval()), tmp_path / "out", "icefall")
    assert load_model(tmp_path / "out" / "pretrained.pt").config == config


def test_a_config_of_something_else_beside_an_icefall_checkpoint_is_not_read(sources, tmp_path):
    write(sources["zipformer"], tmp_path / "out", "icefall")
    (tmp_path / "out" / "config.json").write_text('{"model_type": "other", "num_mel_bins": 80}')
    assert load_model(tmp_path / "out" / "pretrained.pt").config.num_mel_bins == 128


def test_a_causal_checkpoint_with_a_stack_of_a_sixteenth_of_the_rate_hears_in_chunks_of_sixteen(sources, tmp_path):
    changes = {"downsampling_factor": "1,16,2", "causal": True, "chunk_size": "32"}
    config = dataclasses.replace(sources["zipformer"].config, **changes)
    write(Source(SpearModel(config).eval()), tmp_path / "out", "icefall")
    (tmp_path / "out" / "config.json").unlink()
    found = load_model(tmp_path / "out" / "pretrained.pt").config
    assert found.causal and found.chunk_size == "16"


@pytest.mark.parametrize("name", ["transformer", "ctc", "tagging"])
def test_what_icefall_has_no_name_for_is_refused(sources, tmp_path, name):
    with pytest.raises(ConfigError, match="last layer"):
        write(sources[name], tmp_path / "out", "icefall")
    assert not list(tmp_path.iterdir())
