"""Sounds in which libsndfile cannot seek (GSM 6.10, G.721, G.723, NMS ADPCM) are read whole, in parts, in windows."""

import numpy as np
import pytest
import soundfile

from spear.audio import load_audio
from spear.bin import manifests
from spear.manifest import read_items

RATE = 8000
KINDS = [("WAV", "GSM610", "wav"), ("W64", "GSM610", "w64"), ("AIFF", "GSM610", "aiff"), ("AU", "G723_40", "au")]
KINDS += [("AU", "G721_32", "au"), ("WAV", "NMS_ADPCM_32", "wav")]


def tone(path, kind, subtype):
    samples = 0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(4 * RATE))
    soundfile.write(path, samples, RATE, format=kind, subtype=subtype)
    return samples


@pytest.mark.parametrize("kind, subtype, suffix", KINDS)
def test_they_are_read_whole_and_in_parts(tmp_path, kind, subtype, suffix):
    samples = tone(tmp_path / f"a.{suffix}", kind, subtype)
    found = load_audio(tmp_path / f"a.{suffix}", RATE)
    assert abs(len(found) - len(samples)) < 400
    assert np.corrcoef(found[: len(samples)], samples)[0, 1] > 0.98
    part = load_audio(tmp_path / f"a.{suffix}", RATE, 1.5, 1.0)
    np.testing.assert_allclose(part, found[12000:20000], atol=1e-6)


def test_stage_1_takes_them_in_windows_and_lists_halves(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, (kind, subtype, suffix) in enumerate(KINDS):
        path = raw / f"{subtype}{number}.{suffix}"
        tone(path, kind, subtype)
        if kind != "AU":
            data = path.read_bytes()
            (raw / f"half{number}.{suffix}").write_bytes(data[: len(data) // 2])
    words = ["--raw", str(raw), "--output", str(tmp_path / "m"), "--num-jobs", "1", "--max-bad-fraction", "1"]
    assert manifests.main([*words, "--max-seconds", "1.5"]) == 0
    items = read_items(tmp_path / "m" / "cuts_speech_train.jsonl")
    assert len(items) == 3 * len(KINDS) and not any("half" in item.id for item in items)
