"""Numbers that cannot be: refused by name, with the range, before anything is done.

`num_steps: -1` wrote an untrained model with exit code 0, an interval of 0 ended in a ZeroDivisionError.
"""

import dataclasses
import typing

import pytest

from spear import ranges
from spear.audio.synthesis import CorpusConfig
from spear.bin.ablate import AblateConfig
from spear.bin.embed import EmbedConfig
from spear.bin.extract_tokens import ExtractTokensConfig
from spear.bin.main import main
from spear.bin.train_quantizer import TrainQuantizerConfig
from spear.config import parse
from spear.data import PlanLimits
from spear.data.mixing import MixingConfig
from spear.errors import ConfigError
from spear.evaluate.run import EvaluateConfig
from spear.manifest import ManifestsConfig
from spear.manifest.features import FeaturesConfig
from spear.quantize import QuantizerTrainConfig
from spear.train.config import TrainConfig

COUNT, FROM_0, ABOVE_0 = "a whole number from 1 on", "from 0 on", "a number above 0"
TRAIN = {
    "num_steps": ("-1", "a whole number from 0 on"),
    "accumulation": ("0", COUNT),
    "num_workers": ("-2", "a whole number from 0 to 1024"),
    "log_every_steps": ("0", COUNT),
    "valid_every_steps": ("0", COUNT),
    "checkpoint_every_steps": ("0", COUNT),
    "average_every_steps": ("0", COUNT),
    "average_last_steps": ("-5", FROM_0),
    "keep_checkpoints": ("-1", FROM_0),
    "valid_fraction": ("1.0", "a number from 0 and below 1"),
    "masked_weight": ("-1", FROM_0),
    "timeout_minutes": ("0", "a number above 0 to 1e+06"),
    "memory_limit_gb": ("-1", FROM_0),
    "optimizer.base_lr": ("-0.1", ABOVE_0),
    "optimizer.lr_scales.encoder": ("-1", FROM_0),
    "streams.speech.domain_weights.audio": ("-0.1", FROM_0),
    "mask.time_probability": ("1.5", "a number from 0 to 1"),
    "mask.time_span_frames": ("0", COUNT),
    "mixing.probability": ("-0.1", "a number from 0 to 1"),
    "mixing.overlap": ("[0.2, 1.5]", "a number from 0 to 1"),
    "plan.max_seconds": ("-3", ABOVE_0),
    "plan.max_cuts": ("0", COUNT),
}
FLAGS = [
    *((TrainConfig, name, value, words) for name, (value, words) in TRAIN.items()),
    (ManifestsConfig, "num_jobs", "-1", "from 0 to 100000"),
    (ManifestsConfig, "max_bad_fraction", "1.5", "from 0 to 1"),
    (ManifestsConfig, "max_seconds", "-1", ABOVE_0),
    (FeaturesConfig, "num_jobs", "-1", "from 0 to 100000"),
    (EmbedConfig, "max_frames", "0", COUNT),
    (EmbedConfig, "unit_seconds", "0", ABOVE_0),
    (ExtractTokensConfig, "num_workers", "0", "from 1 to 1024"),
    (ExtractTokensConfig, "beam", "0", COUNT),
    (TrainQuantizerConfig, "max_frames", "0", COUNT),
    (TrainQuantizerConfig, "train.codebook_size", "512", "from 2 to 256"),
    (TrainQuantizerConfig, "train.heldout_fraction", "1", "below 1"),
    (CorpusConfig, "speech_minutes", "-1", FROM_0),
    (AblateConfig, "num_jobs", "-1", "from 0 to 100000"),
]


@pytest.mark.parametrize(("config", "name", "value", "words"), FLAGS)
def test_a_flag_out_of_its_range_is_refused_by_name(config, name, value, words):
    required = {ManifestsConfig: "raw output", FeaturesConfig: "manifests output", CorpusConfig: "output"}
    required[AblateConfig] = "base exp_dir"
    argv = [word for key in required.get(config, "").split() for word in (f"--{key}", "x")]
    with pytest.raises(ConfigError) as caught:
        parse(config, [*argv, f"--{name}={value}"])
    assert name in caught.value.found and "the command line" in caught.value.found
    assert words in caught.value.expected and caught.value.fix


def test_the_settings_of_an_objective_have_ranges_too():
    objective = "--streams.speech.objective=random_projection"
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, [objective, "--streams.speech.num_codebooks=0"])
    assert caught.value.found == "streams.speech.num_codebooks: 0 (from the command line)"
    assert COUNT in caught.value.expected and caught.value.fix


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_no_setting_is_nan_or_infinite(tmp_path, value):
    file = tmp_path / "mine.yaml"
    for name, hint in typing.get_type_hints(TrainConfig).items():
        if hint is float:
            file.write_text(f"{name}: {value}\n")
            with pytest.raises(ConfigError, match=rf"{name}: -?(nan|inf) \(from .*mine.yaml\)"):
                parse(TrainConfig, ["--config", str(file)])
    for text in (f"optimizer: {{base_lr: {value}}}", f"mixing: {{noise_snr_db: [1, {value}]}}"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="mine.yaml"):
            parse(TrainConfig, ["--config", str(file)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainConfig(num_steps=-1),
        lambda: TrainConfig(num_steps=0),
        lambda: TrainConfig(mask=dataclasses.replace(TrainConfig().mask, time_probability=2.0)),
        lambda: PlanLimits(max_seconds=float("nan")),
        lambda: PlanLimits(max_seconds="much"),
        lambda: MixingConfig(noise_probability=1.01),
        lambda: QuantizerTrainConfig(beam=0),
        lambda: EvaluateConfig(num_jobs=-1),
        lambda: EvaluateConfig(learning_rates=(1e-3, float("nan"))),
        lambda: EvaluateConfig(max_items=0),
        lambda: EvaluateConfig(cache_gigabytes=-1.0),
    ],
)
def test_what_is_made_in_python_is_checked_as_well(make):
    with pytest.raises(ConfigError):
        make()


def test_all_defaults_are_in_range():
    for config in (TrainConfig, EmbedConfig, ExtractTokensConfig, TrainQuantizerConfig, EvaluateConfig):
        ranges.check(config())


def test_training_for_a_negative_number_of_steps_writes_no_model(tmp_path, capsys):
    """It ended with exit code 0 and an untrained `final`."""
    assert main(["train", "--exp-dir", str(tmp_path / "exp"), "--num-steps", "-1"]) == 1
    assert "num_steps: -1 (from the command line)" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()
