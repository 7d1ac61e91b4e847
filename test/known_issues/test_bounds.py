"""Input that would take minutes, gigabytes or a lifetime is refused before work begins.

Reported as: a pattern of a user's with repetition inside repetition, ten lines of YAML that stand for a billion values,
60,000 keys, numbers of 5,000 digits and brackets in brackets hang the program or end it with a traceback.
"""

import time
from dataclasses import dataclass, field

import pytest

from spear import config
from spear.errors import ConfigError
from spear.manifest.scan import Entry
from spear.manifest.splits import resolve_task
from spear.manifest.tasks import read_task_specs, search

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi")
)
MERGES = "a: &a {k: 1}\n" + "\n".join(
    f"{name}: &{name} {{<<: [{','.join(['*' + before] * 10)}]}}" for before, name in zip("abcdefgh", "bcdefghi")
)


@dataclass
class Settings:
    """Settings of a test.

    Attributes:
        names: some names.
        seed: a number.
    """

    names: list[str] = field(default_factory=list)
    seed: int = 1


@pytest.fixture
def quick():
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "text, words",
    [
        (LAUGHS, "more than"),
        (MERGES, "more than"),
        ("a: &a " + "x" * 60_000 + "\nb: [" + ",".join(["*a"] * 3000) + "]", "more than"),
        ("\n".join(f"key{number}: 1" for number in range(60_000)), "more than"),
        ("a: &a [*a]", "stands for nothing"),
        ("a: " + "[" * 100_000, "nest|inside each other"),
        ("- " * 900 + "a", "nest|inside each other"),
        ("a: " + "9" * 5000, "digits"),
        ("a: !!int foo", "invalid literal"),
        ("a: !!bool foo", "not valid YAML"),
        ("a: !!timestamp foo", "type"),
        ("a: !!python/object/apply:os.system ['true']", "type"),
        ("? [a]\n: 1", "unhashable"),
        ("a: 1\nb: 2\na: 3", "'a' occurs twice"),
    ],
    ids=range(14),
)
def test_yaml_is_measured_before_it_is_built(tmp_path, quick, text, words):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        config.load_yaml(tmp_path / "x.yaml")
    assert len(str(caught.value)) < 2000 and "x.yaml" in str(caught.value)


def test_yaml_that_is_innocent(tmp_path):
    (tmp_path / "x.yaml").write_text("base: &base {a: 1}\nother: {<<: *base, b: 2}\nday: 2020-13-45\nname: é\n")
    read = config.load_yaml(tmp_path / "x.yaml")
    assert read == {"base": {"a": 1}, "other": {"a": 1, "b": 2}, "day": "2020-13-45", "name": "é"}


@pytest.mark.parametrize("encoding, words", [("utf-16", "UTF-16"), ("cp1252", "line 2 .* is not UTF-8")])
def test_the_encoding_of_yaml_is_named_with_its_line(tmp_path, encoding, words):
    (tmp_path / "x.yaml").write_bytes("a: 1\nb: é\n".encode(encoding))
    with pytest.raises(ConfigError, match=words):
        config.load_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "values",
    [
        {"names": ["x"] * 20_000},
        {"seed": "9" * 20_000},
        {"seed": ["x"] * 2000},
        {"k" * 100_000: 1},
        {f"key{number}": 1 for number in range(50_000)},
    ],
    ids=range(5),
)
def test_settings_of_any_size_are_refused_shortly(quick, values):
    with pytest.raises(ConfigError) as caught:
        config.from_dict(Settings, values)
    assert len(str(caught.value)) < 2000


def test_a_list_of_a_few_hundred_is_checked_in_no_time(quick):
    assert len(config.from_dict(Settings, {"names": [str(n) for n in range(800)]}).names) == 800


TASK = "tasks:\n  - {{name: t, head: classify, target: speaker, metric: accuracy, {}}}\n"


@pytest.mark.parametrize("part", ["select: {id_regex: '(a+)+$'}", "split: {by: id_regex, pattern: '(?:(a+)+)$'}"])
def test_patterns_that_never_end(tmp_path, quick, part):
    (tmp_path / "tasks.yaml").write_text(TASK.format(part))
    (spec,) = read_task_specs(tmp_path / "tasks.yaml")
    entries = [Entry("a" * 40 + "b", "x.wav", "speech", speaker="s")]
    with pytest.raises(ConfigError, match="takes more than 1 s"):
        resolve_task(spec, entries)
    assert search("b", "abc").start() == 1  # and the next one is not disturbed


@pytest.mark.parametrize("part", ["select: {id_regex: '(a'}", "split: {by: id_regex, pattern: '[a'}"])
def test_patterns_that_are_none(tmp_path, part):
    (tmp_path / "tasks.yaml").write_text(TASK.format(part))
    with pytest.raises(ConfigError, match="a regular expression"):
        read_task_specs(tmp_path / "tasks.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "1: 2\na: 3",
        "tasks: [5, [a]]",
        "tasks:\n  - {name: t, head: classify, target: speaker, metric: accuracy, select: [a]}",
        "tasks:\n  - {name: t, head: classify, target: speaker, metric: accuracy, select: {kind: [[a]]}}",
        "tasks:\n" + "  - {name: t, head: classify, target: speaker, metric: accuracy}\n" * 3000,
    ],
    ids=range(5),
)
def test_task_files_of_another_form(tmp_path, quick, text):
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_task_specs(tmp_path / "tasks.yaml")
    assert len(str(caught.value)) < 2000
