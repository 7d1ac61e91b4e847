"""`spear recipe new` for folders and teachers of any name: the recipe runs, and no name is run."""

import re
from pathlib import Path

import miniatures
import numpy as np
import pytest
import soundfile
from test_mini_recipe import call, succeed

from spear.errors import ConfigError
from spear.manifest.item import DOMAIN_OF_KIND
from spear.recipe import NewRecipe, new_recipe, templates, verify_recipe

SHARED = Path(__file__).resolve().parents[2] / "shared"
HOSTILE = {
    "$(touch pwned)": "touch_pwned",
    "`touch pwned`": "touch_pwned",
    "a; touch pwned #": "a_touch_pwned",
    "'; touch pwned; '": "touch_pwned",
    '"; touch pwned; "': "touch_pwned",
    "-rf": "rf",
    "--stage": "corpus_stage",
    "a\ntouch pwned\n. b": "a_touch_pwned_b",
    "{name} %s * ? ~ \\": "name_s",
    "x=1,y=$HOME && touch pwned": "x_1_y_home_touch_pwned",
}
INNOCENT = {
    "données": "donnees",
    "donne\u0301es": "donnees",
    "Straße №1": "strasse_no1",
    "данные": "corpus",
    "日本語の音声 2": "corpus_2",
    "data": "corpus_data",
    "stage": "corpus_stage",
    "exp": "corpus_exp",
    "null": "null",
    "16 kHz": "corpus_16_khz",
    "l" * 250: "l" * 40,
    "12" + "3" * 60: "corpus_12" + "3" * 31,
}
TEACHERS = (
    "wavlm:$(touch pwned)@21",
    "wavlm:`touch pwned`@21",
    "wavlm:a b/c'; touch pwned; '@21",
    'wavlm:"; touch pwned; "@21',
    "wavlm:a=b,c=d/данные # x@21,dtype=bfloat16",
)


def recordings(folder):
    folder.mkdir(parents=True)
    for number in range(2):
        noise = 0.1 * np.random.default_rng(number).standard_normal(16000)
        soundfile.write(folder / f"u{number}.wav", noise, 16000)
    return folder


def dry_run(place, cwd):
    """Every stage as a real process that only says what it would do."""
    return succeed("bash", place / "prepare.sh", "--dry-run", cwd=cwd)


@pytest.mark.parametrize("folder", [*HOSTILE, *INNOCENT], ids=ascii)
def test_folders_of_any_name(folder, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    place = new_recipe(NewRecipe(str(tmp_path / "recipe"), str(recordings(tmp_path / folder)), size="mini"))
    name = (HOSTILE | INNOCENT)[folder]
    assert [path.name for path in (place / "data" / "raw").iterdir()] == [name]
    before = miniatures.snapshot(tmp_path)
    text = dry_run(place, here)
    assert f"links {name} below" in text and text.count("dry run") == 3
    assert miniatures.snapshot(tmp_path) == before and not list(here.iterdir())
    assert [finding.what for finding in verify_recipe(place) if finding.kind != "note"] == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["$(touch pwned)", "data", "stage", "données", "日本語の音声 2"], ids=ascii)
def test_stages_run_for_folders_of_any_name(folder, tmp_path):
    """Through the commands, in a recipe whose own path has such a name, with commas and equals signs."""
    audio = recordings(tmp_path / folder)
    place = tmp_path / f"{folder}, a=b" / "my recipe"
    printed = succeed("spear", "recipe", "new", place, "--audio", audio, "--size", "mini", cwd=tmp_path)
    command = printed.splitlines()[1].strip()  # as a user would paste it
    done = call("bash", "-c", f"{command} --stop-stage 1 --num-jobs 1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    name = (HOSTILE | INNOCENT)[folder]
    assert len((place / f"data/manifests/cuts_{name}_train.jsonl").read_text().splitlines()) == 2
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("teacher", TEACHERS)
def test_teachers_of_any_name(teacher, tmp_path):
    place = new_recipe(NewRecipe(str(tmp_path / "recipe"), str(recordings(tmp_path / "raw")), teacher=teacher))
    text = succeed("bash", place / "prepare.sh", "--help", cwd=tmp_path)
    assert f"--speech-teacher {teacher}" in text
    assert "dry run" in dry_run(place, tmp_path)
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    "teacher", ["wavlm:a\nb@1", "wavlm:\u2028stage=1@1", "wavlm:\x85x@1", "--wavlm", "wavlm:\udcff"]
)
def test_teachers_that_break_lines_are_refused(teacher, tmp_path):
    with pytest.raises(ConfigError, match="printable text"):
        new_recipe(NewRecipe(str(tmp_path / "recipe"), str(recordings(tmp_path / "raw")), teacher=teacher))
    assert not (tmp_path / "recipe").exists()


def test_no_name_of_a_corpus_is_a_variable_of_the_scripts():
    used = set()
    for script in ("corpora_options.sh", "parse_options.sh", "corpora.sh", "stages.sh", "setup_environment.sh"):
        code = [line for line in (SHARED / script).read_text().splitlines() if not line.startswith("#")]
        used |= set(re.findall(r"\b([a-z][a-z0-9_]*)_(?:dir|layout|kind|domain)\b(?!\()", "\n".join(code)))
    assert {"data", "stage"} <= used
    assert {name for name in used if templates.corpus_name(name) == name} == {"absolute"}  # a function
    for name in [*HOSTILE.values(), *INNOCENT.values()]:
        assert templates.corpus_name(name) == name


def test_a_recipe_is_made_whole_or_not_at_all(tmp_path):
    audio = recordings(tmp_path / "raw")
    for kind in DOMAIN_OF_KIND:
        assert call("bash", "-n", new_recipe(NewRecipe(str(tmp_path / kind), str(audio), kind)) / "prepare.sh", cwd="/")
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="cannot be written"):
        new_recipe(NewRecipe(str(tmp_path / "file" / "recipe"), str(audio)))
    assert not list(tmp_path.glob(".recipe-*"))
    (tmp_path / "empty").mkdir()
    assert (new_recipe(NewRecipe(str(tmp_path / "empty"), str(audio))) / "prepare.sh").exists()
