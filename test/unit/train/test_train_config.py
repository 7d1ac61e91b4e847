"""Settings of training: weights of strategies, names that do not exist, values that cannot be."""

from pathlib import Path

import pytest

from spear.config import from_dict, parse, to_dict
from spear.data import SourceConfig
from spear.errors import CheckpointError, ConfigError
from spear.models.config import SpearConfig
from spear.train.config import ALIASES, STRATEGIES, StreamConfig, TrainConfig
from spear.train.setup import check_resumable, flatten


def refusal(*argv) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, list(argv), ALIASES)
    return str(caught.value)


@pytest.mark.parametrize(
    "strategy, speech_on_audio, audio_on_speech, audio_on_audio",
    [("asymmetric", 1.0, 0.0, 0.1), ("disjoint", 0.0, 0.0, 0.25), ("joint", 1.0, 0.1, 0.1)],
)
def test_weights_follow_the_strategy(strategy, speech_on_audio, audio_on_speech, audio_on_audio):
    config = TrainConfig(strategy=strategy, streams={"speech": StreamConfig(), "audio": StreamConfig()})
    assert config.stream_weight("speech", "speech") == 1.0
    assert config.stream_weight("speech", "audio") == speech_on_audio
    assert config.stream_weight("audio", "speech") == audio_on_speech
    assert config.stream_weight("audio", "audio") == audio_on_audio


def test_a_stream_may_state_its_own_weights_and_an_unknown_one_must():
    own = StreamConfig(domain_weights={"speech": 0.3})
    config = TrainConfig(streams={"speech": own, "birds": StreamConfig()})
    assert config.stream_weight("speech", "speech") == 0.3
    for stream, domain in (("speech", "audio"), ("birds", "audio")):
        with pytest.raises(ConfigError, match=f"stream '{stream}' on domain '{domain}'"):
            config.stream_weight(stream, domain)


@pytest.mark.parametrize(
    "argument, near", [("--optimizer.base-lrr", "base"), ("--num-stepz", "num"), ("--stratgy", "s")]
)
def test_a_misspelt_setting_is_refused_with_the_nearest_one(argument, near):
    message = refusal(argument, "1")
    nearest = {"base": "base_lr", "num": "num_steps", "s": "strategy"}[near]
    assert nearest in message.replace("-", "_") and "to fix" in message


def test_a_misspelt_key_in_yaml_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("streams:\n  speech:\n    mix_token: true\n")
    message = refusal("--config", str(path))
    assert "mine.yaml" in message and "mix_token" in message and "mix_tokens" in message


@pytest.mark.parametrize(
    "values, word",
    [
        ({"strategy": "both"}, ", ".join(STRATEGIES)),
        ({"precision": "fp8"}, "auto, bf16, fp32"),
    ],
)
def test_values_that_cannot_be_are_refused_with_those_that_can(values, word):
    with pytest.raises(ConfigError, match=word):
        TrainConfig(**values)
    [(name, value)] = values.items()
    assert word in refusal(f"--{name}", value)


@pytest.mark.parametrize("values", [{"objective": "mvq"}, {"objective": "random_projection", "normalise": "none"}])
def test_streams_refuse_unknown_choices(values):
    stream = {"objective": values.pop("objective"), "settings": values}
    with pytest.raises(ConfigError, match="one of"):
        StreamConfig(**stream)


# What `streams` was in config.yaml and in checkpoints when all settings stood in one class.
FORMER = {"mix_tokens": False, "tokens": None, "num_codebooks": 8, "codebook_size": 256, "projection_dim": 16}
FORMER |= {"stacked_frames": 4, "smoothed_frames": 1, "normalise": "utterance", "domain_weights": None}


def test_settings_of_an_objective_stand_beside_its_name():
    flags = ["--streams.speech.mix-tokens", "true", "--streams.a", "{objective: random_projection, num_codebooks: 3}"]
    config = parse(TrainConfig, flags, ALIASES)
    assert config.streams["speech"].settings.mix_tokens and config.streams["a"].settings.num_codebooks == 3
    written = to_dict(config)["streams"]
    fields = {"domain_weights": None, "mix_tokens": True, "delay_frames": 0, "tokens": None}
    assert written["speech"] == {"objective": "tokens", **fields}
    assert written["a"]["num_codebooks"] == 3 and "mix_tokens" not in written["a"]
    assert from_dict(TrainConfig, to_dict(config)) == config


def test_a_setting_of_another_objective_is_refused_by_name():
    message = refusal("--streams.speech.num-codebooks", "3")
    assert "streams.speech.num_codebooks" in message and "a setting of the objective tokens" in message


def test_a_file_that_changes_the_objective_leaves_the_settings_of_the_former_behind(tmp_path):
    (tmp_path / "base.yaml").write_text("streams: {speech: {mix_tokens: true, domain_weights: {speech: 0.5}}}\n")
    (tmp_path / "other.yaml").write_text("streams: {speech: {objective: random_projection, codebook_size: 32}}\n")
    files = [word for name in ("base", "other") for word in ("--config", str(tmp_path / f"{name}.yaml"))]
    stream = parse(TrainConfig, files, ALIASES).streams["speech"]
    assert (stream.objective, stream.settings.codebook_size) == ("random_projection", 32)
    assert stream.domain_weights == {"speech": 0.5} and not hasattr(stream.settings, "mix_tokens")


def test_configurations_from_when_streams_had_all_settings_are_read():
    streams = {"speech": {**FORMER, "objective": "tokens", "mix_tokens": True}}
    streams["a"] = {**FORMER, "objective": "random_projection", "num_codebooks": 4}
    config = from_dict(TrainConfig, {"streams": streams})
    assert config.streams["speech"].settings.mix_tokens and config.streams["a"].settings.num_codebooks == 4


def test_checkpoints_from_when_streams_had_all_settings_are_resumed():
    config = TrainConfig(streams={"speech": StreamConfig(), "a": StreamConfig("random_projection")})
    meta = {"config": to_dict(config), "cards": {}, "world_size": 1}
    for name, objective in (("speech", "tokens"), ("a", "random_projection")):
        meta["config"]["streams"][name] = {**FORMER, "objective": objective}
    check_resumable(config, meta, 1, {})
    meta["config"]["streams"]["a"]["num_codebooks"] = 4
    with pytest.raises(CheckpointError, match=r"streams.a.num_codebooks = 8, .*4"):
        check_resumable(config, meta, 1, {})


def test_names_of_icefall_are_understood():
    config = parse(TrainConfig, ["--max-duration", "55", "--base-lr", "0.01", "--lr-hours", "9"], ALIASES)
    assert (config.plan.max_seconds, config.optimizer.base_lr, config.optimizer.lr_hours) == (55, 0.01, 9)


def test_resuming_allows_what_does_not_change_the_training_and_refuses_the_rest():
    meta = {"config": to_dict(TrainConfig()), "cards": {}, "world_size": 1}
    check_resumable(TrainConfig(num_workers=3, num_steps=7, exp_dir="x", log_every_steps=1), meta, 1, {})
    with pytest.raises(CheckpointError, match=r"seed = 1, .*42"):
        check_resumable(TrainConfig(seed=1), meta, 1, {})


def test_a_checkpoint_from_before_a_setting_existed_is_resumed_with_its_default_only():
    meta = {"config": to_dict(TrainConfig()), "cards": {}, "world_size": 1}
    del meta["config"]["head_initial_scale"]
    check_resumable(TrainConfig(), meta, 1, {})
    with pytest.raises(CheckpointError, match=r"head_initial_scale = 0.5, .*1.0"):
        check_resumable(TrainConfig(head_initial_scale=0.5), meta, 1, {})


def test_so_is_one_from_before_a_setting_of_sources_existed():
    config = TrainConfig(sources=[SourceConfig("a", "a.jsonl", weight=2.0)])
    meta = {"config": to_dict(config), "cards": {}, "world_size": 1}
    del meta["config"]["sources"][0]["held_out"], meta["config"]["spec_augment"], meta["config"]["sampling"]
    check_resumable(config, meta, 1, {})
    other = TrainConfig(sources=[SourceConfig("a", "a.jsonl", weight=2.0, held_out=True)])
    with pytest.raises(CheckpointError, match=r"sources.0.held_out = True, .*False"):
        check_resumable(other, meta, 1, {})


def test_a_default_that_has_changed_is_said_when_an_older_checkpoint_is_resumed(caplog):
    meta = {"config": to_dict(TrainConfig()), "cards": {}, "world_size": 1}
    check_resumable(TrainConfig(), meta, 1, {})
    assert not caplog.records
    del meta["config"]["model"]["constant_attention"], meta["config"]["model"]["regularisers"]
    check_resumable(TrainConfig(), meta, 1, {})
    assert "model.constant_attention was True" in caplog.text and "is False now" in caplog.text
    caplog.clear()
    check_resumable(TrainConfig(model=SpearConfig(constant_attention=True)), meta, 1, {})
    assert not caplog.records


def test_flatten_names_every_leaf():
    assert flatten({"a": {"b": [1, {"c": 2}]}, "d": None}) == {"a.b.0": 1, "a.b.1.c": 2, "d": None}


@pytest.mark.parametrize("name, kinds", [("random_projection", 1), ("kmeans", 2), ("usad", 2)])
def test_the_mini_recipe_has_a_variant_of_its_student_for_other_objectives(name, kinds):
    conf = Path(__file__).resolve().parents[3] / "egs" / "mini" / "spear" / "conf"
    files = [conf / "student.yaml", conf / "objectives" / f"{name}.yaml"]
    config = parse(TrainConfig, [word for file in files for word in ("--config", str(file))], ALIASES)
    assert len(config.streams) == kinds and "tokens" not in {stream.objective for stream in config.streams.values()}
    for source in config.sources:
        assert any(config.stream_weight(stream, source.domain) > 0 for stream in config.streams)
