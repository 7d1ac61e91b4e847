"""Level and silence of excerpts: by hand, against sox, and through the protocols."""

import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import superb_corpus
from corpus import TinyEncoder

from spear import fs
from spear.audio import save_audio
from spear.evaluate.cache import FeatureCache, item_key, read_wave
from spear.evaluate.excerpt import Excerpt, sounding
from spear.evaluate.protocol import settings_of
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.upstream import SpearUpstream


def levels(*parts):
    """Square waves: (samples, amplitude) one after the other."""
    return np.concatenate([np.where(np.arange(n) % 2, a, -a) for n, a in parts]).astype(np.float32)


@pytest.mark.parametrize(
    "parts, kept",
    [
        ([(1600, 0.1)], [(0, 1600)]),
        ([(1599, 0.1)], []),
        ([(5000, 0.0)], []),
        ([(3000, 0.0), (1600, 0.1)], [(3000, 4600)]),
        # The window of 320 samples hears the sound for 319 more: silence begins there, and is noticed 1600 later.
        ([(2000, 0.1), (1918, 0.0), (2000, 0.1)], [(0, 5918)]),
        ([(2000, 0.1), (1919, 0.0), (2000, 0.1)], [(0, 2319), (3919, 5919)]),
        ([(2000, 0.1), (9000, 0.0)], [(0, 2319)]),
        ([(2000, 0.1), (1900, 0.0)], [(0, 3900)]),
        # 1200 samples are heard for 1519, no sound; half the threshold is silence; 0.0011 is heard after 265 samples.
        ([(2000, 0.1), (2000, 0.0), (1200, 0.1), (2000, 0.0)], [(0, 2319)]),
        ([(2000, 0.1), (4000, 0.0005)], [(0, 2319)]),
        ([(400, 0.0), (3000, 0.0011)], [(664, 3400)]),
    ],
)
def test_silence_by_hand(parts, kept):
    assert sounding(levels(*parts)) == kept


def test_the_window_is_emptied_where_silence_begins():
    # Silence is found after 2319 + 1600 samples. Of the noise that begins there, number 265 is the first loud one; with
    # the pause still in the window it would be number 153.
    wave = levels((2000, 0.1), (1919, 0.0009), (3000, 0.0011))
    assert sounding(wave) == [(0, 2319), (3919 + 264, len(wave))]


# What sox 14.4.2 kept of the waves below (its output equalled these stretches to within 1e-6).
KEPT_BY_SOX = [
    [(1, 3846), (7688, 11573), (13441, 15677), (27974, 42097), (55263, 59237)],
    [(23546, 33959)],
    [(6, 2232), (5717, 7891), (10050, 16858), (20379, 30611), (34141, 37994)],
    [(19, 21935), (29301, 44971)],
]


def test_silence_is_cut_as_sox_cuts_it(tmp_path):
    rng = np.random.default_rng(0)
    sizes, amplitudes = (500, 1600, 1919, 1920, 1921, 8000), (0, 0, 0.0008, 0.0015, 0.01, 0.1)
    for kept in KEPT_BY_SOX:
        parts = [rng.choice(amplitudes) * rng.standard_normal(rng.choice(sizes)) for _ in range(20)]
        soundfile.write(tmp_path / "in.wav", np.concatenate(parts), 16000)
        wave = soundfile.read(tmp_path / "in.wav", dtype="float32")[0] * np.float32(10 ** (-3 / 20))
        assert sounding(wave) == kept
        if shutil.which("sox"):
            effects = "gain -3.0 silence 1 0.1 0.1% -1 0.1 0.1%".split()
            words = ["-D", tmp_path / "in.wav", "-e", "floating-point", "-b", "32", tmp_path / "out.wav"]
            subprocess.run(["sox", *words, *effects], check=True)
            expected = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
            np.testing.assert_allclose(np.concatenate([wave[a:b] for a, b in kept]), expected, atol=1e-6)


def excerpt(path, **changes):
    return Excerpt("x", path, 0.0, 0.5, 8000, "speech", "speech", **changes)


def test_an_excerpt_is_read_with_its_level_and_without_its_silence(tmp_path):
    wave = levels((4000, 0.5), (4000, 0.25))
    path = tmp_path / "a.wav"
    save_audio(path, wave, 16000)
    np.testing.assert_allclose(read_wave(excerpt(path, gain_db=-3.0), 16000), 0.70795 * wave, atol=1e-5)
    found = read_wave(excerpt(path, kept=((10, 20), (5000, 5030)), gain_db=-20.0), 16000)
    np.testing.assert_allclose(found, 0.1 * np.concatenate([wave[10:20], wave[5000:5030]]), atol=1e-6)
    assert len(read_wave(excerpt(path, kept=((10, 20), (5000, 5030))), 8000)) == 20
    keys = {item_key(excerpt(path, **c)) for c in ({}, {"gain_db": -3.0}, {"kept": ((0, 9),)}, {"kept": ((0, 8),)})}
    assert len(keys) == 4


def test_the_published_protocol_lowers_the_level_of_ks_qbe_and_asv(tmp_path):
    assert {task for task in TASKS if settings_of("superb", task).gain_db} == {"KS", "QbE", "ASV"}
    assert not any(settings_of("mini", task).gain_db for task in TASKS)
    data = superb_corpus.make_superb_corpus(tmp_path / "data", (2, 2, 2))
    tables = [read_table(data, "KS", TASKS["KS"].refuse, gain_db=gain) for gain in (-3.0, 0.0)]
    low, high = (table.rows[0].item for table in tables)
    np.testing.assert_allclose(read_wave(low, 16000), 0.70795 * read_wave(high, 16000), rtol=1e-4)
    cache = FeatureCache(tmp_path / "cache", SpearUpstream(TinyEncoder(), "tiny", "checkpoint"))
    cache.ensure([low, high])  # one id, two sets of features
    assert not np.allclose(*(cache.means([table.rows[0].key]) for table in tables))


def test_unused_rows_are_listed_with_their_reason(tmp_path):
    path = tmp_path / "superb/ASV.jsonl"
    save_audio(tmp_path / "a.wav", levels((8000, 0.1)), 16000)
    row = {"path": "a.wav", "split": "train", "duration": 0.5, "target": "ann"}
    fs.write_jsonl(path, [{**row, "id": "a", "unused": "too short"}, {**row, "id": "b", "kept": [[0, 100]]}])
    table = read_table(tmp_path, "ASV", TASKS["ASV"].refuse)
    assert table.skipped == [{"id": "a", "split": "train", "reason": "too short"}]
    assert table.rows[0].item.kept == ((0, 100),) and len(read_wave(table.rows[0].item, 16000)) == 100
