"""How loud is it? Integers stored as floating-point numbers, amplitudes that no recording has, channels that cancel in
their mean, and files that are only an offset: each is counted, handled by a choice, or refused with what was found.
"""

import numpy as np
import pytest
import soundfile

from spear import fs
from spear.audio import load_audio
from spear.bin import manifests
from spear.data.cuts import CutTable
from spear.data.index import read_columns
from spear.errors import DataError
from spear.manifest import read_items

RATE = 16000


def sound(seconds: float = 1.0, peak: float = 0.25) -> np.ndarray:
    wave = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return peak * wave / np.abs(wave).max()


def stage1(folder, waves: dict, *options: str, subtype: str = "DOUBLE"):
    """Items by name, reasons by name, and the summary."""
    for name, wave in waves.items():
        (folder / "raw").mkdir(exist_ok=True)
        soundfile.write(folder / "raw" / f"{name}.wav", wave, RATE, subtype=subtype)
    output = folder / "data" / "manifests"
    arguments = ["--raw", str(folder / "raw"), "--output", str(output), "--max-bad-fraction", "1", "--num-jobs", "1"]
    assert manifests.main([*arguments, *options]) == 0
    items = {item.id: item for item in read_items(output / "cuts_speech_train.jsonl")}
    reasons = {row["id"]: row["reason"] for row in fs.read_jsonl(output / "quarantine.jsonl")}
    return items, reasons, fs.read_json(output / "summary.json")["full_scale"]


def heard(item) -> np.ndarray:
    segment = item.start_seconds, item.duration_seconds, item.speed, item.channel, item.gain
    return load_audio(item.path, RATE, *segment)


LOUD = {
    "plain": sound(),
    "int16": sound() * 2**15,
    "int16_over": sound(peak=33000.0),
    "int24": sound() * 2**23,
    "int32": sound() * 2**31,
    "over": sound(peak=1.5),
    "absurd": sound(peak=1e20),
}


def test_integers_stored_as_numbers_are_brought_to_full_scale(tmp_path, capsys):
    items, reasons, counts = stage1(tmp_path, LOUD)
    assert set(reasons) == {"absurd"} and "1e+20" in reasons["absurd"]
    for name in ("plain", "int16", "int24", "int32"):
        np.testing.assert_allclose(heard(items[name]), LOUD["plain"], atol=1e-5)
    assert np.abs(heard(items["int16_over"])).max() == pytest.approx(33000 / 32768)
    assert np.abs(heard(items["over"])).max() == pytest.approx(1.0)
    assert counts["beyond"] == 6 and counts["rescaled"] == 5 and counts["excluded"] == 1
    assert "beyond full scale: 6 recordings" in capsys.readouterr().out


def test_everyone_hears_the_same(tmp_path):
    """Tables of training, and lhotse, have the gain; copies at another speed as well."""
    items, _, _ = stage1(tmp_path, {"int16": LOUD["int16"]}, "--speed-perturb", "[0.9]")
    path = tmp_path / "data/manifests/cuts_speech_train.jsonl"
    table = CutTable(read_columns(path))
    assert {table[row].gain for row in range(2)} == {item.gain for item in items.values()} == {2.0**-15}
    from lhotse import CutSet

    cuts = {cut.id: cut for cut in CutSet.from_file(path)}
    assert set(cuts) == {"int16", "int16_sp0.9"}
    source = cuts["int16"].recording.sources[0]
    source.source = str(tmp_path / "data" / source.source)
    np.testing.assert_allclose(cuts["int16"].load_audio()[0], LOUD["plain"], atol=1e-5)


def test_the_other_choices(tmp_path):
    items, reasons, counts = stage1(tmp_path, LOUD, "--full-scale", "exclude")
    assert set(items) == {"plain"} and set(reasons) == set(LOUD) - {"plain"} and counts["excluded"] == 6
    assert "3.3e+04, in the range of integers" in reasons["int16_over"] and "1.5" in reasons["over"]
    items, reasons, counts = stage1(tmp_path, LOUD, "--full-scale", "clip")
    np.testing.assert_allclose(heard(items["over"]), np.clip(LOUD["over"], -1, 1), atol=1e-6)
    np.testing.assert_allclose(heard(items["int16"]), LOUD["plain"], atol=1e-5)
    assert set(reasons) == {"absurd"} and counts["clipped"] == 1


def test_the_overshoot_of_a_lossy_decoder_is_counted_and_left(tmp_path):
    (tmp_path / "raw").mkdir()
    square = 0.999 * np.sign(np.sin(np.arange(RATE) * 0.05))
    soundfile.write(tmp_path / "raw" / "loud.mp3", square, RATE)
    for choice, gain, kept in (("rescale", 1.0, 1), ("exclude", 1.0, 1), ("clip", 0.0, 0)):
        items, reasons, counts = stage1(tmp_path, {}, "--full-scale", choice)
        assert items["loud"].gain == gain and not reasons
        assert counts["beyond"] == 1 and counts["as_they_are"] == kept


def test_channels_that_cancel_in_their_mean(tmp_path):
    left, right = sound(), sound(peak=0.1)[::-1]
    waves = {
        "cancel": np.stack([0.8 * left, -left], axis=1),
        "exactly": np.stack([left, -left], axis=1),
        "stereo": np.stack([left, right], axis=1),
        "eight": np.random.default_rng(1).normal(0, 0.1, (RATE, 8)),
        "one_dead": np.stack([left, 0 * left], axis=1),
    }
    items, reasons, counts = stage1(tmp_path, waves)
    assert not reasons and counts["cancelling"] == 2
    assert {name: item.channel for name, item in items.items()} == dict.fromkeys(waves) | {"cancel": 1, "exactly": 0}
    np.testing.assert_allclose(heard(items["cancel"]), -left, atol=1e-6)


def test_files_that_are_only_an_offset(tmp_path):
    steps = np.random.default_rng(0).integers(-1, 2, RATE) / 32768
    waves = {
        "constant": np.full(RATE, 0.1),
        "two": np.stack([np.full(RATE, 0.1), np.full(RATE, -0.3)], axis=1),
        "converter": 0.1 + steps,
        "zero": np.zeros(RATE),
        "faint": sound(peak=1e-5),
        "speech_on_offset": 0.1 + sound(peak=0.01),
    }
    items, reasons, _ = stage1(tmp_path, waves, subtype="FLOAT")
    assert set(items) == {"speech_on_offset"}
    assert all("only an offset" in reasons[name] for name in ("constant", "two", "converter"))
    assert "0.1" in reasons["constant"] and "silent" in reasons["zero"] and "1e-05" in reasons["faint"]


def test_an_amplitude_that_nothing_has_is_refused_by_name_wherever_it_is_read(tmp_path):
    soundfile.write(tmp_path / "absurd.wav", sound(peak=1e20), RATE, subtype="DOUBLE")
    with pytest.raises(DataError, match="absurd.wav has a peak of 1e.20"):
        load_audio(tmp_path / "absurd.wav")


def test_numbers_that_are_none_are_counted(tmp_path):
    wave = sound()
    wave[[5, 10000]] = np.nan, np.inf
    _, reasons, _ = stage1(tmp_path, {"good": sound(), "bad": wave}, subtype="FLOAT")
    assert "2 samples that are not finite" in reasons["bad"]
