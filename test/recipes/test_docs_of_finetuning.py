"""Every command of docs/finetuning.md works as it stands there, on recordings of its own."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SEVEN_STACKS

from spear import SpearConfig, SpearModel, save_model
from spear.audio import save_audio
from spear.bin.main import main

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--num-steps", "2", "--batch-seconds", "4", "--max-seconds", "2", "--num-jobs", "1", "--num-workers", "0"]
SHORT += ["--rehearsal-batches", "0"]
SMALL = {"verification": ["--streams.verification.channels", "8"]}
METRICS = {"ctc": "wer", "transducer": "wer", "tagging": "map", "verification": "eer", "": ""}
COMMANDS = re.findall(r"^    (spear .*)$", (ROOT / "docs" / "finetuning.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all that the page speaks of: tables, recordings and an encoder."""
    folder = tmp_path_factory.mktemp("docs")
    torch.manual_seed(0)
    save_model(SpearModel(SpearConfig(**SEVEN_STACKS)), folder / "exp" / "student")
    rng, utterances, clips = np.random.default_rng(0), ["path\ttext\tspeaker"], ["path,tags"]
    (folder / "recordings").mkdir()
    for number in range(20):
        save_audio(folder / f"clips/{number}.wav", 0.1 * rng.standard_normal(8000 + 400 * number), 16000)
        utterances.append(f"clips/{number}.wav\t{('the birch', 'glue')[number % 2]}\ts{number % 5}")
        clips.append(f"clips/{number}.wav,{('rain', 'rain;traffic', 'speech')[number % 3]}")
    shutil.copy(folder / "clips/0.wav", folder / "recordings/new.wav")
    shutil.copy(folder / "clips/1.wav", folder / "recordings/old.wav")
    (folder / "utterances.tsv").write_text("\n".join(utterances) + "\n")
    (folder / "clips.csv").write_text("\n".join(clips) + "\n")
    return folder


def test_the_page_has_the_commands_that_it_promises():
    assert {command.split()[1] for command in COMMANDS} == {"finetune", "transcribe", "tag", "embed-files", "similar"}
    assert all(len(re.findall(rf"--task {task}", " ".join(COMMANDS))) >= 1 for task in ("ctc", "tagging"))


def test_every_command_of_the_page_works_in_its_order(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        task = words[words.index("--task") + 1] if "--task" in words else ""
        if task:
            words += [*SHORT, *SMALL.get(task, [])]
        if words[:2] != ["finetune", "report"]:
            words += ["--device", "cpu"]
        assert main(words) == 0, f"{command}\n{capsys.readouterr().err[-3000:]}"
        said = capsys.readouterr().out
        assert METRICS[task] in said and ("report:" in said or not task), command
