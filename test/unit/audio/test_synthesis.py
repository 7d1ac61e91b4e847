"""The synthetic corpus: deterministic, complete, labelled, and usable by the task file of the mini recipe."""

from pathlib import Path

import numpy as np
import pytest

from spear import fs
from spear.audio import load_audio
from spear.audio.synthesis import CorpusConfig, events, music, synthesise_corpus, text
from spear.audio.synthesis.channel import Conditions, through_channel, transform_size
from spear.audio.synthesis.espeak import phones_from_ipa, speak, speakers
from spear.bin import manifests, synthesize
from spear.errors import ConfigError, DataError
from spear.seeds import numpy_rng

SMALL = ["--speech-minutes", "2", "--audio-minutes", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "raw"
    assert synthesize.main(["--output", str(folder), "--num-jobs", "1", *SMALL]) == 0
    return folder


def rows(folder: Path) -> list[dict]:
    lines = (folder / "manifest.tsv").read_text().splitlines()
    found = [dict(zip(lines[0].split("\t"), line.split("\t"))) for line in lines[1:]]
    for row in found:
        row["label"] = dict(part.split("=", 1) for part in row["label"].split(";"))
    return found


def test_same_seed_same_bytes_whatever_the_number_of_jobs(corpus, tmp_path):
    synthesize.main(["--output", str(tmp_path / "again"), "--num-jobs", "2", *SMALL])
    for path in sorted(corpus.rglob("*.*")):
        if path.is_file() and ".done" not in path.parts:
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(corpus)).read_bytes(), path
    assert speakers(6, seed=1) != speakers(6, seed=2)


def test_manifest_is_complete_and_true(corpus):
    found = rows(corpus)
    parts = {row["label"]["set"] for row in found}
    assert parts == {"keyword", "command", "sentence", "noisy", "two_talker", "event", "note"}
    by_id = {row["id"]: row for row in found}
    for row in found:
        wave = load_audio(corpus / row["path"])
        assert abs(wave.size / 16000 - float(row["duration"])) < 1e-3
        assert 0.001 < np.abs(wave).max() < 1.0
        if row["kind"] == "speech":
            assert row["phones"] and set(row["text"]) <= set("abcdefghijklmnopqrstuvwxyz ")
        if row["label"]["set"] == "two_talker":
            sources = [by_id[item] for item in row["label"]["sources"].split("+")]
            assert {source["split"] for source in sources} == {"test"} == {row["split"]}
            assert row["speaker"] == "+".join(source["speaker"] for source in sources)
    keyword = [row for row in found if row["label"]["set"] == "keyword"]
    trained = {row["speaker"] for row in keyword if row["split"] == "train"}
    assert trained and trained.isdisjoint(row["speaker"] for row in keyword if row["split"] == "test")
    assert "synthetic" in (corpus / "README.md").read_text().lower()
    assert fs.read_json(corpus / "corpus.json")["synthetic"] is True


def test_every_mini_task_can_be_made(corpus, tmp_path):
    tasks = Path(__file__).resolve().parents[3] / "egs" / "mini" / "spear" / "conf" / "tasks_synthetic.yaml"
    manifests.main(["--raw", str(corpus), "--output", str(tmp_path / "m"), "--tasks", str(tasks), "--num-jobs", "1"])
    summary = fs.read_json(tmp_path / "m" / "summary.json")
    assert summary["coverage"]["bad"] == 0
    assert len(summary["tasks"]) == 12, summary["notes"]  # seven, two of ablations, three optional ones


def test_speakers_differ_and_phones_are_english():
    chosen = speakers(48, seed=42)
    assert len({who.voice for who in chosen}) == 48 and len({who.name for who in chosen}) == 48
    spoken = speak([(who, "she measured the church near a thin joyful orange thing") for who in chosen[:7]])
    for utterance in spoken:
        assert 1.5 < utterance.samples.size / 16000 < 5 and {"SH", "ZH", "CH", "TH", "JH"} <= set(utterance.phones)
    with pytest.raises(DataError, match="unknown phoneme"):
        phones_from_ipa(["x"])


def test_every_word_has_phones_in_every_accent():
    for who in speakers(7, seed=0):
        (spoken,) = speak([(who, " ".join(text.vocabulary()))])
        assert len(spoken.phones) > 1000


@pytest.mark.parametrize("name", events.CLASSES)
def test_events_sound_at_every_length(name):
    for seconds in (1.5, 3.5):
        wave = events.event(name, seconds, numpy_rng(0, name))
        assert wave.size == int(seconds * 16000) and np.isfinite(wave).all() and np.abs(wave).max() == pytest.approx(1)


@pytest.mark.parametrize("timbre", music.TIMBRES)
def test_notes_have_their_pitch(timbre):
    midi = 57
    wave = music.note(midi, timbre, 1.2, numpy_rng(1, timbre))
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(wave.size)))
    frequencies = np.fft.rfftfreq(wave.size, 1 / 16000)
    # The strongest partial lies at a multiple of half the fundamental (a bell's hum note is the half).
    strongest = frequencies[np.argmax(spectrum)] / (440 * 2 ** ((midi - 69) / 12))
    tolerance = 0.25 if timbre == "bell" else 0.02 * strongest
    assert abs(strongest - max(round(2 * strongest) / 2, 0.5)) <= tolerance
    assert music.note_name(60) == "C4" and music.note_name(40) == "E2"


def test_channel_keeps_length_and_varies():
    wave = np.sin(np.arange(16000) * 0.1)
    first, second = (through_channel(wave, numpy_rng(0, "c", n), Conditions()) for n in range(2))
    assert first.shape == second.shape == wave.shape and first.dtype == np.float32
    assert not np.allclose(first, second) and max(np.abs(first).max(), np.abs(second).max()) <= 0.98 + 1e-6
    assert all(n <= transform_size(n) < 1.5 * n + 16 for n in range(1, 5000))


def test_nothing_to_make_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="minutes"):
        synthesise_corpus(CorpusConfig(str(tmp_path), speech_minutes=0, audio_minutes=0))
    (tmp_path / "manifest.tsv").write_text("id\tpath\n")
    with pytest.raises(ConfigError, match="did not make"):
        synthesise_corpus(CorpusConfig(str(tmp_path)))
