"""The encoder's configuration."""

import pytest
import torch

import spear
from spear.errors import ConfigError
from spear.models.config import SpearConfig


@pytest.mark.parametrize("name, count", [("base", 93_289_361), ("large", 326_951_344), ("xlarge", 596_973_234)])
def test_parameter_counts_are_the_released_ones(name, count):
    with torch.device("meta"):
        model = spear.SpearModel(getattr(SpearConfig, name)())
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_output_downsampling_adds_two_parameters():
    with torch.device("meta"):
        model = spear.SpearModel(SpearConfig.base(output_downsampling_factor=2))
    assert sum(parameter.numel() for parameter in model.parameters()) == 93_289_363
    assert model.frame_rate_hz == 25


def test_layer_counts():
    assert [getattr(SpearConfig, name)().num_layers for name in ("base", "large", "xlarge")] == [12, 11, 13]


def test_strings_tuples_and_single_numbers_are_the_same():
    text = SpearConfig(encoder_dim="512,512,512,512,512,512,512")
    assert SpearConfig(encoder_dim=(512,) * 7) == text
    assert SpearConfig(encoder_dim=[512] * 7) == text
    assert SpearConfig(encoder_dim="512").per_stack("encoder_dim") == text.per_stack("encoder_dim")


def test_dictionary_round_trip_ignores_keys_of_other_tools():
    config = SpearConfig.base(subsampling_channels="4,8,16")
    assert SpearConfig.from_dict({**config.to_dict(), "model_type": "spear", "torch_dtype": "float32"}) == config


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_dim": "512,512"},
        {"encoder_dim": "a,b"},
        {"chunk_size": "12", "causal": True},
        {"cnn_module_kernel": "30"},
        {"output_downsampling_factor": 3},
        {"subsampling_channels": "8,32"},
        {"num_heads": "0"},
        {"encoder_dim": "130"},
    ],
)
def test_sizes_that_cannot_work_are_refused_by_name(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        SpearConfig(**change)


def test_the_typed_parser_accepts_it():
    from spear.config import parse

    config = parse(SpearConfig, ["--encoder-dim", "64", "--num-encoder-layers", "1,1,1,1,1,1,1"])
    assert config.per_stack("encoder_dim") == (64,) * 7
