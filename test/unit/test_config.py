"""Configuration: what is merged, what is converted, and what is refused with which words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from spear.config import dump_yaml, from_dict, load_yaml, parse, to_dict
from spear.errors import ConfigError


@dataclass
class Source:
    path: Path
    weight: float = 1.0


@dataclass
class Stream:
    tokens: str = ""
    scale: float | None = None


@dataclass
class Plan:
    """Limits.

    Attributes:
        max_seconds: padded seconds in a batch,
            over all cuts.
    """

    max_seconds: float = 100
    mode: Literal["exact", "fast"] = "exact"
    shuffle: bool = False


@dataclass
class Experiment:
    """An experiment for the tests."""

    plan: Plan = field(default_factory=lambda: Plan(max_seconds=50.0))
    sources: list[Source] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=lambda: {"speech": Stream(tokens="a", scale=0.5)})
    widths: tuple[int, ...] = (1, 2)
    channels: tuple[int, ...] | str = "8,32"
    betas: tuple[float, float] = (0.9, 0.98)
    name: str = "x"
    extra: Stream | None = None
    num_epochs: int = 3
    exp_dir: Path | None = None
    free: dict = field(default_factory=dict)


@dataclass
class Needy:
    output: Path
    count: int = 1

    def __post_init__(self):
        if self.count < 0:
            raise ConfigError(f"count {self.count}", "a count >= 0", "give a larger count")


def refusal(argv, config_class=Experiment, **keywords) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(config_class, argv, **keywords)
    assert caught.value.found and caught.value.expected and caught.value.fix
    return str(caught.value)


def test_defaults_come_from_the_class():
    config = parse(Experiment, [])
    assert config == Experiment()
    assert config.plan.max_seconds == 50.0 and isinstance(config.widths, tuple)


def test_files_state_their_difference_and_the_later_one_wins(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "plan: {max_seconds: 1e-3, shuffle: true}\nname: base\nstreams: {audio: {scale: 2}}"
    )
    (tmp_path / "variant.yaml").write_text(
        "plan: {max_seconds: 7}\nstreams: {audio: {tokens: t}}\nsources: [{path: d}]"
    )
    config = parse(
        Experiment,
        ["--config", str(tmp_path / "base.yaml"), "--name", "cli", f"--config={tmp_path / 'variant.yaml'}"],
    )
    assert config.plan == Plan(max_seconds=7.0, shuffle=True)
    assert config.name == "cli"
    assert config.streams == {"speech": Stream("a", 0.5), "audio": Stream("t", 2.0)}
    assert config.sources == [Source(Path("d"))]


def test_null_takes_an_entry_of_a_mapping_away():
    assert parse(Experiment, ["--streams.speech", "null"]).streams == {}


@pytest.mark.parametrize(
    "argv, dotted, value",
    [
        (["--plan.max_seconds", "5"], "plan.max_seconds", 5.0),
        (["--plan.max-seconds=-1e-4"], "plan.max_seconds", -1e-4),
        (["--plan.shuffle"], "plan.shuffle", True),
        (["--plan.shuffle", "false"], "plan.shuffle", False),
        (["--widths", "3,4,5"], "widths", (3, 4, 5)),
        (["--widths", "[3]"], "widths", (3,)),
        (["--channels", "8,16"], "channels", "8,16"),
        (["--betas", "0.5,0.6"], "betas", (0.5, 0.6)),
        (["--name", "1e-3"], "name", "1e-3"),
        (["--name", "null"], "name", "null"),
        (["--extra.scale", "3"], "extra", Stream("", 3.0)),
        (["--extra.scale", "3", "--extra", "null"], "extra", None),
        (["--streams.speech.scale", "null"], "streams", {"speech": Stream("a", None)}),
        (["--streams.my-own.tokens", "t"], "streams", {"speech": Stream("a", 0.5), "my-own": Stream("t")}),
        (["--sources", "[{path: a, weight: 2}, {path: b}]"], "sources", [Source(Path("a"), 2.0), Source(Path("b"))]),
        (["--exp-dir", "e"], "exp_dir", Path("e")),
        (["--free", "{a: [1, {b: 2}]}"], "free", {"a": [1, {"b": 2}]}),
    ],
)
def test_flags(argv, dotted, value):
    config = parse(Experiment, argv)
    for name in dotted.split("."):
        config = getattr(config, name)
    assert config == value


def test_aliases_keep_the_names_of_icefall():
    aliases = {"max-duration": "plan.max_seconds", "--epochs": "num_epochs"}
    config = parse(Experiment, ["--max-duration", "9", "--epochs", "2"], aliases)
    assert (config.plan.max_seconds, config.num_epochs) == (9.0, 2)
    assert parse(Experiment, ["--max_duration=8"], aliases).plan.max_seconds == 8.0


def test_unknown_keys_name_the_place_and_the_nearest_match(tmp_path):
    path = tmp_path / "typo.yaml"
    path.write_text("plan:\n  max_secnds: 3\n")
    message = refusal(["--config", str(path)])
    assert str(path) in message and "plan.max_secnds" in message and "did you mean plan.max_seconds?" in message
    assert "--plan.max-seconds" in refusal(["--plan.max-secnds", "3"])
    assert "--plan.max-seconds" in refusal(["--max-seconds", "3"])
    assert "--max-duration" in refusal(["--max-durtion", "3"], aliases={"max-duration": "plan.max_seconds"})
    assert "--streams.audio.scale" in refusal(["--streams.audio.scal", "3"])
    path.write_text("sources: [{path: a, wight: 3}]")
    assert "sources.0.wight" in refusal(["--config", str(path)])
    assert "weight" in refusal(["--config", str(path)])


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--plan.max_seconds", "abc"], ["plan.max_seconds", "abc", "float", "command line"]),
        (["--plan.mode", "slow"], ["plan.mode", "slow", "exact", "fast"]),
        (["--num-epochs", "1.5"], ["num_epochs", "1.5", "int"]),
        (["--plan.shuffle", "perhaps"], ["plan.shuffle", "perhaps", "bool"]),
        (["--streams.speech.scale", "big"], ["streams", "scale", "big", "float"]),
        (["--widths", "1,b"], ["widths", "b", "int"]),
        (["--sources", "[{weight: 2}]"], ["sources", "path", "no value"]),
        (["--sources", "[{weight: 2"], ["weight", "YAML"]),
        (["stray"], ["stray"]),
        (["--config"], ["--config FILE.yaml"]),
        (["--config", "/nowhere/base.yaml"], ["/nowhere/base.yaml"]),
    ],
)
def test_wrong_values_are_explained(argv, words):
    message = refusal(argv)
    for word in words:
        assert word in message
    assert "class '" not in message and "Traceback" not in message


def test_wrong_types_in_a_file_name_the_file(tmp_path):
    path = tmp_path / "bad.yaml"
    for text, key in [("plan: {max_seconds: abc}", "max_seconds"), ("plan: 3", "plan"), ("num_epochs:", "num_epochs")]:
        path.write_text(text)
        message = refusal(["--config", str(path)])
        assert str(path) in message and key in message
    path.write_text("plan: {mode: fast}\nplan: {mode: exact}\n")
    assert "twice" in refusal(["--config", str(path)])
    path.write_text("[1, 2]")
    assert "list" in refusal(["--config", str(path)])
    path.write_text("a: [1")
    assert "not valid YAML" in refusal(["--config", str(path)])
    path.rename(tmp_path / "base.yaml")
    assert "did you mean" in refusal(["--config", str(tmp_path / "bas.yaml")])


def test_a_required_value_and_a_check_of_the_class():
    assert "--output" in refusal([], Needy)
    assert parse(Needy, ["--output", "o"]) == Needy(Path("o"))
    assert "a count >= 0" in refusal(["--output", "o", "--count", "-1"], Needy)


def test_round_trip(tmp_path):
    config = parse(Experiment, ["--sources", "[{path: a}]", "--exp-dir", "e", "--extra.scale", "1", "--widths", "7"])
    assert from_dict(Experiment, to_dict(config)) == config
    dump_yaml(config, tmp_path / "all.yaml")
    assert parse(Experiment, ["--config", str(tmp_path / "all.yaml")]) == config
    assert load_yaml(tmp_path / "all.yaml")["exp_dir"] == "e"
    with pytest.raises(ConfigError, match="old.json"):
        from_dict(Experiment, {"nmae": 1}, "old.json")


def test_print_config_and_help_end_the_program(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        parse(Experiment, ["--print-config", "--name", "shown"])
    assert ended.value.code == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert parse(Experiment, ["--config", str(tmp_path / "printed.yaml")]).name == "shown"
    with pytest.raises(SystemExit) as ended:
        parse(Needy, ["--help"])
    assert ended.value.code == 0 and "(required)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse(Experiment, ["--help"], {"max-duration": "plan.max_seconds"})
    text = capsys.readouterr().out
    assert "--plan.max-seconds float = 100" in text and "--max-duration" in text
    assert "padded seconds in a batch, over all cuts." in text and "--streams.<name>.scale" in text
