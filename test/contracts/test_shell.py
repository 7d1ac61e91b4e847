"""The shared Bash: options, stages, environment."""

import json
import os
import subprocess

import pytest
import repository

from spear import locks

OPTIONS = """#!/usr/bin/env bash
# Head of the script.
#
# More of it.
set -euo pipefail
stage=0
stop_stage=5
audio_dir=
dry_run=false
file=()
here=x
. "{shared}/parse_options.sh"
later=1
echo "$stage|$stop_stage|$audio_dir|$dry_run|$*${{file[*]+|${{file[*]}}}}"
"""

STAGES = """#!/usr/bin/env bash
set -euo pipefail
stage=0
stop_stage=9
stage_dir="{folder}/stages"
word=${{WORD:-one}}
. "{shared}/parse_options.sh"
. "{shared}/stages.sh"
first() {{ renew "{folder}/out"; mkdir -p "{folder}/out"; echo "$word" >> "{folder}/out/first"; echo printed; }}
second() {{ set_aside "{folder}/model"; renew; echo x >> "{folder}/model"; test -z "${{FAIL:-}}"; echo not reached; }}
run_stage 1 "the first" "writes out" first "$word"
run_stage 2 "the second" "writes model" second "{folder}/settings"
echo end
"""


def bash(script, *arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(script), *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )


@pytest.fixture
def options(tmp_path):
    path = tmp_path / "options.sh"
    path.write_text(OPTIONS.format(shared=repository.ROOT / "shared"))
    return path


@pytest.mark.parametrize(
    "arguments, printed",
    [
        ([], "0|5||false|"),
        (["--stop-stage", "2", "--stage=1"], "1|2||false|"),
        (["--stop_stage", "-1"], "0|-1||false|"),
        (["--dry-run", "--audio-dir", "a b"], "0|5|a b|true|"),
        (["--dry-run", "false", "--audio_dir="], "0|5||false|"),
        (["x", "--stage", "3"], "0|5||false|x --stage 3"),
        (["--file", "a", "--stage", "1", "--file=b"], "1|5||false||a b"),
    ],
)
def test_options_are_read_as_in_kaldi(options, arguments, printed):
    done = bash(options, *arguments)
    assert (done.returncode, done.stdout.strip()) == (0, printed), done.stderr


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--later", "1"], "--audio-dir --dry-run --file --stage --stop-stage"),
        (["--here", "1"], "--here"),
        (["--stage", "three"], "whole number"),
        (["--dry-run=perhaps"], "true or false"),
        (["--audio-dir"], "--audio-dir VALUE"),
        (["--config", "nowhere.sh"], "nowhere.sh"),
    ],
)
def test_wrong_options_are_refused_in_three_parts(options, arguments, word):
    done = bash(options, *arguments)
    assert done.returncode == 1 and not done.stdout
    assert word in done.stderr and "expected:" in done.stderr and "to fix:" in done.stderr


def test_a_config_file_gives_way_to_options(options, tmp_path):
    (tmp_path / "c.sh").write_text("stage=4\naudio_dir=conf\n")
    assert bash(options, "--stage", "1", "--config", str(tmp_path / "c.sh")).stdout.strip() == "1|5|conf|false|"


def test_help_is_the_head_of_the_script(options):
    text = bash(options, "--help").stdout
    assert text.startswith("Head of the script.\n\nMore of it.\n") and "--stop-stage 5" in text


@pytest.fixture
def stages(tmp_path):
    path = tmp_path / "stages.sh"
    path.write_text(STAGES.format(shared=repository.ROOT / "shared", folder=tmp_path))
    (tmp_path / "settings").write_text("a")
    return path


def test_a_rerun_skips_what_is_done(stages, tmp_path):
    assert bash(stages).returncode == 0
    done = bash(stages)
    assert done.stdout.count("done before") == 2 and "end" in done.stdout
    assert (tmp_path / "out/first").read_text() == "one\n"
    assert "printed" in (tmp_path / "stages/stage-1.log").read_text()


def test_a_change_redoes_the_stage_and_all_that_follow(stages, tmp_path):
    bash(stages)
    done = bash(stages, WORD="two")
    assert "done before" not in done.stdout and done.returncode == 0
    assert (tmp_path / "out/first").read_text() == "two\n"  # renewed
    assert (tmp_path / "model.1").exists() and (tmp_path / "model").read_text() == "x\n"  # set aside
    (tmp_path / "settings").write_text("b")
    assert bash(stages, WORD="two").stdout.count("done before") == 1
    assert (tmp_path / "model.2").exists()


def test_what_a_living_command_writes_is_neither_moved_nor_deleted(stages, tmp_path):
    bash(stages)
    (tmp_path / "model").unlink()
    for place, stage, word in ((tmp_path / "model", "2", "one"), (tmp_path / "out" / "part", "1", "two")):
        (tmp_path / "settings").write_text(stage)
        with locks.hold(place, "spear train"):
            refused = bash(stages, "--stage", stage, WORD=word)
            assert refused.returncode == 1 and f"{place} is being written by spear train" in refused.stdout
            assert (place / locks.NAME).exists() and not (tmp_path / "model.1").exists()
        place.mkdir(parents=True, exist_ok=True)
        (place / locks.NAME).write_text(json.dumps(locks._process(os.getpid()) | {"started": "never"}))
    done = bash(stages, WORD="two")
    assert "being written" not in done.stdout + done.stderr
    assert not (tmp_path / "out" / "part").exists() and (tmp_path / "model.1" / locks.NAME).exists()


def test_a_failed_stage_stops_the_script_and_is_continued(stages, tmp_path):
    done = bash(stages, FAIL="yes")
    assert done.returncode == 1 and "stage 2 failed" in done.stderr and "--stage 2" in done.stderr
    assert "not reached" not in done.stdout and "end" not in done.stdout
    done = bash(stages, "--stage", "2")
    assert done.returncode == 0 and not (tmp_path / "model.1").exists()
    assert (tmp_path / "model").read_text() == "x\nx\n"  # the same settings: it went on where it was


def test_a_dry_run_does_nothing(stages, tmp_path):
    done = bash(stages, WORD="one", dry_run="true")
    assert "dry run" in done.stdout and "mkdir" in done.stdout and not (tmp_path / "stages").exists()
    assert bash(stages, "--stop-stage", "1").stdout.count("==") == 2


def test_environment_of_another_checkout_is_not_taken_over(tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / "spear").mkdir(parents=True)
    (checkout / "spear" / "__init__.py").write_text('__version__ = "other"\n')
    for name in ("setup.py", "requirements.txt"):
        (checkout / name).write_text((repository.ROOT / name).read_text())
    (checkout / "shared").symlink_to(repository.ROOT / "shared")
    script = tmp_path / "script.sh"
    script.write_text(
        f". {checkout}/shared/setup_environment.sh\n_environment_root={checkout}\nsetup_environment\n"
        "cd / && python -c 'import spear; print(spear.__version__)'\n"
    )
    if not (os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")):
        pytest.skip("needs an active environment")
    done = bash(script)
    assert done.returncode == 0 and done.stdout.strip().endswith("other"), done.stdout + done.stderr
