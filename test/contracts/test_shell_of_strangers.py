"""The shared Bash with names and values that somebody else has chosen: they are text, and never run."""

import os
import re
import subprocess

import pytest
import repository

HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    '"; touch pwned; "',
    "'; touch pwned; '",
    "a[$(touch pwned)]",
    "| touch pwned",
    "a\ntouch pwned\n",
    "* ? [a-z] ~",
    "-n %s \\c",
)
SCRIPT = """#!/usr/bin/env bash
# A script.
set -euo pipefail
stage=0
name=
{options}
. "{shared}/parse_options.sh"
. "{shared}/stages.sh"
stage_dir=stages
work() {{ split_words words "$name"; printf '%s\\n' "$name" "$(safe_name "/x/$name")" "${{#words[@]}}"; }}
run_stage 1 "title $name" "promise $name" work "$name"
"""


def bash(script, *arguments, cwd, **environment):
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=60,
    )


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.sh"
    path.write_text(SCRIPT.format(shared=repository.ROOT / "shared", options=""))
    return path


@pytest.mark.parametrize("value", HOSTILE)
def test_values_of_options_are_text(script, tmp_path, value):
    here = tmp_path / "here"
    here.mkdir()
    (here / "b").touch()
    done = bash(script, f"--name={value}", cwd=here)
    assert done.returncode == 0 and value in done.stdout, done.stderr
    assert done.stdout.splitlines()[-2] == str(len(value.split()))  # words, and no file's name among them
    assert bash(script, "--stage", value, cwd=here).returncode == 1
    assert sorted(path.name for path in here.iterdir()) == ["b", "stages"]


@pytest.mark.parametrize("value", HOSTILE)
def test_names_of_options_are_text(script, tmp_path, value):
    # Of a name of several lines, one known line was enough, and Bash evaluates the index of an array.
    for flag in (f"--{value}", f"--{value}=1", f"--a[0\nname\n{value}]", "--a[$(touch pwned)\nname\n]=1"):
        done = bash(script, flag, "1", cwd=tmp_path)
        assert done.returncode == 1 and "the option" in done.stderr
        assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("value", ["08", "1e3", "99999999999999999999", "0x10", "+1"])
def test_numbers_that_bash_reads_otherwise_are_refused(script, tmp_path, value):
    done = bash(script, "--stage", value, cwd=tmp_path)
    assert done.returncode == 1 and "whole number" in done.stderr


def test_safe_names_of_other_scripts_differ(tmp_path):
    names = ["данные", "музыка", "日本語", "中文字", "données", "a b=c", "plain-1.0"]
    script = tmp_path / "script.sh"
    stages = repository.ROOT / "shared" / "stages.sh"
    script.write_text(f'. "{stages}"\nfor name in "$@"; do safe_name "/data/$name/"; echo; done\n')
    safe = bash(script, *names, cwd=tmp_path).stdout.split()
    assert len(set(safe)) == len(names) and safe[-2:] == ["a_b_c", "plain-1.0"]
    assert all(re.fullmatch("[A-Za-z0-9._-]+", name) for name in safe)


def test_cdpath_and_modules_of_the_current_folder_have_no_say(tmp_path):
    """A folder of somebody's recordings may hold a re.py, and CDPATH another folder of the recipe's name."""
    recipe, other = tmp_path / "my recipe", tmp_path / "other" / "my recipe"
    for folder in (recipe, other):
        (folder / "shared").mkdir(parents=True)
        for path in (repository.ROOT / "shared").glob("*.sh"):
            (folder / "shared" / path.name).write_text(path.read_text())
        text = (repository.ROOT / "egs/audioset/spear/prepare.sh").read_text()
        (folder / "prepare.sh").write_text(text.replace('prepare "audioset"', 'echo "$here"; prepare "audioset"'))
    for name in ("re.py", "sys.py", "spear.py", "importlib.py"):
        (tmp_path / name).write_text("open('pwned', 'w')\n")
    words = ("--dry-run", "--audioset-dir", str(tmp_path))
    done = bash("my recipe/prepare.sh", *words, cwd=tmp_path, CDPATH=str(tmp_path / "other"))
    assert done.returncode == 0 and done.stdout.splitlines()[0] == str(recipe), done.stderr
    assert not list(tmp_path.rglob("pwned"))


def test_a_setup_file_in_a_recipe_is_not_run(tmp_path):
    """A recipe elsewhere has shared/ in it, but is no checkout, whatever files somebody has put beside."""
    (tmp_path / "shared").mkdir()
    for path in (repository.ROOT / "shared").glob("*.sh"):
        (tmp_path / "shared" / path.name).write_text(path.read_text())
    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n")
    (tmp_path / "requirements.txt").write_text("a-package-that-does-not-exist-at-all\n")
    script = tmp_path / "script.sh"
    script.write_text('. "$(dirname "$0")/shared/setup_environment.sh"\nsetup_environment\necho ready\n')
    done = bash(script, cwd="/", PIP_NO_INDEX="1")
    assert done.stdout.strip() == "ready", done.stdout + done.stderr
    assert not (tmp_path / "pwned").exists()
