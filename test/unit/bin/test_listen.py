"""`spear listen`: a recording, or what a microphone gives, to segments with their times."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny import SEVEN_STACKS

from spear import SpearConfig, SpearModel, save_model
from spear.bin import finetune, listen
from spear.errors import ConfigError, MissingPackageError


@pytest.fixture(scope="module")
def causal(labelled, words, tmp_path_factory):
    """A recogniser with a causal encoder, after two steps; it says something at once, since it knows nothing."""
    torch.manual_seed(0)
    encoder = save_model(
        SpearModel(SpearConfig(**SEVEN_STACKS, causal=True)), tmp_path_factory.mktemp("causal") / "tiny"
    )
    exp_dir = tmp_path_factory.mktemp("listen") / "exp"
    flags = ["--task", "ctc", "--exp-dir", str(exp_dir), *words, "--init-from", str(encoder)]
    assert finetune.main(flags) == 0
    return exp_dir


def test_a_recording_becomes_segments_with_times(causal, recordings, capsys):
    flags = [str(recordings / "low/long.wav"), "--checkpoint", str(causal), "--device", "cpu", "--chunk-ms", "320"]
    assert listen.main(flags) == 0
    first = capsys.readouterr().out
    assert listen.main([*flags, "--endpoint-seconds", "0"]) == 0
    whole = capsys.readouterr().out
    for line in (first + whole).splitlines():
        assert 0 <= float(line[:8]) <= 7 and line[10:]
    assert len(whole.splitlines()) <= 1


def test_a_microphone_is_heard_until_it_is_interrupted(causal, monkeypatch, capsys):
    read = []

    class InputStream:
        def __init__(self, **settings):
            assert settings == {"samplerate": 16000, "channels": 1, "dtype": "float32"}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            read.append("closed")

        def read(self, count):
            if len(read) == 20:
                raise KeyboardInterrupt
            read.append(count)
            return np.zeros((count, 1), np.float32), False

    monkeypatch.setitem(sys.modules, "sounddevice", ModuleType("sounddevice"))
    sys.modules["sounddevice"].InputStream = InputStream
    assert listen.main(["microphone", "--checkpoint", str(causal), "--device", "cpu"]) == 0
    assert read[:20] == [1600] * 20 and read[-1] == "closed"
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingPackageError, match="no microphone"):
        listen.main(["microphone", "--checkpoint", str(causal), "--device", "cpu"])


def test_lengths_that_are_no_frames_and_encoders_without_chunks_are_refused(causal, encoder, words, tmp_path):
    with pytest.raises(ConfigError, match="--chunk-ms 310"):
        listen.main(["a.wav", "--checkpoint", str(causal), "--chunk-ms", "310"])
    with pytest.raises(ConfigError, match="chunk_size"):
        listen.main(["a.wav", "--checkpoint", str(causal), "--chunk-ms", "340", "--device", "cpu"])
