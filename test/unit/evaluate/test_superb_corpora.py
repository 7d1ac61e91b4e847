"""Each corpus from a miniature copy of its real layout, whole and with parts missing."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from spear import fs
from spear.audio import save_audio
from spear.errors import ConfigError, DataError
from spear.evaluate.cache import FeatureCache
from spear.evaluate.corpora import prepare_corpus
from spear.evaluate.corpora.speech_commands import WORDS, split_of
from spear.evaluate.corpora.synthetic import slots_of_command
from spear.evaluate.protocol import settings_of
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.suites import SuperbTasks
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.upstream import FbankUpstream

REAL_MINI = Path(__file__).resolve().parents[4] / "shared/data/real-mini"


def noise(path: Path, seconds: float = 0.5) -> Path:
    rng = np.random.default_rng(int(hashlib.sha1(path.name.encode()).hexdigest()[:8], 16))
    save_audio(path, (0.1 * rng.standard_normal(int(16000 * seconds))).astype(np.float32), 16000)
    return path


def rows(data_dir, task):
    return {row["id"]: row for row in fs.read_jsonl(data_dir / "superb" / f"{task}.jsonl")}


def cached(table, folder):
    """Features of all rows of a table."""
    cache = FeatureCache(folder / "cache", FbankUpstream())
    cache.ensure([row.item for row in table.rows], {row.key for row in table.rows})
    return cache


@pytest.fixture
def librispeech(tmp_path):
    root = tmp_path / "LibriSpeech"
    for split, speaker in (("train-clean-100", 19), ("dev-clean", 84), ("test-clean", 61)):
        folder = root / split / str(speaker) / "198"
        lines = []
        for number, text in enumerate(("A CAT SAT", "NO CAT", "SAT A QUOKKA")):
            name = f"{speaker}-198-{number:04d}"
            noise(folder / f"{name}.flac", 1.0)
            lines.append(f"{name} {text}")
        (folder / f"{speaker}-198.trans.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "librispeech-lexicon.txt").write_text(
        "A AH0\nA EY1\nCAT K AE1 T\nNO  N OW1\nSAT S AE1 T\n"  # the second A is not the first pronunciation
    )
    return tmp_path


def test_librispeech(librispeech, tmp_path, caplog):
    counts = prepare_corpus("librispeech", librispeech, tmp_path / "data")
    assert counts == {task: {"dev": 3, "test": 3, "train": 3} for task in ("ASR", "PR")}
    assert rows(tmp_path / "data", "PR")["19-198-0000"]["target"] == "AH0 K AE1 T S AE1 T".split()
    assert rows(tmp_path / "data", "PR")["61-198-0002"]["target"][-1] == "SPN" and "QUOKKA" in caplog.text
    assert rows(tmp_path / "data", "ASR")["84-198-0001"]["target"] == "NO CAT"
    config = EvaluateConfig(num_jobs=1, max_steps=2, learning_rates=(1e-2,))
    (run,) = evaluate(SuperbTasks(tmp_path / "data"), ["PR"], ["fbank"], tmp_path / "exp", config)
    assert run["num_items"] == {"train": 3, "dev": 3, "test": 3} and run["settings"]["hidden_dim"] == 256


def test_names_in_lists_of_corpora_lead_nowhere_else(librispeech, voxceleb, tmp_path, caplog):
    """They become ids and paths; one that cannot is left out by name, and the others go on."""
    noise(tmp_path / "outside.flac", 1.0)
    with open(librispeech / "LibriSpeech/dev-clean/84/198/84-198.trans.txt", "a") as handle:
        handle.write(f"../../../../outside HELLO\n{tmp_path}/outside HELLO\n19-\x85198 HELLO\n")
    counts = prepare_corpus("librispeech", librispeech, tmp_path / "data")
    assert counts["ASR"] == {"dev": 3, "test": 3, "train": 3}
    assert "left out '../../../../outside'" in caplog.text and "line 6 of " in caplog.text
    with open(voxceleb / "iden_split.txt", "a") as handle:
        handle.write(f"1 ../../outside.flac\n2 {tmp_path}/outside.flac\n3 id1\x00/v/00001.wav\n")
    counts = prepare_corpus("voxceleb", voxceleb, tmp_path / "data")
    assert counts["SID"] == {"dev": 10, "test": 10, "train": 20 + 30}
    assert "line 51 of iden_split.txt: left out '../../outside.flac'" in caplog.text


def test_scores_with_a_lexicon_are_made_again_when_its_words_change(librispeech, tmp_path):
    prepare_corpus("librispeech", librispeech, tmp_path / "data")
    pytest.importorskip("flashlight.lib.text.decoder")
    lexicon = tmp_path / "lexicon.txt"
    hashes = []
    for text in ("CAT C A T\n", "CAT C A T\n", "CAT K A T\n"):
        lexicon.write_text(text)
        config = EvaluateConfig(num_jobs=1, max_steps=1, learning_rates=(1e-3,), lexicon=str(lexicon))
        (run,) = evaluate(SuperbTasks(tmp_path / "data", "mini"), ["ASR"], ["fbank"], tmp_path / "exp", config)
        hashes.append(run["inputs_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_librispeech_with_parts_missing(librispeech, tmp_path, caplog):
    (librispeech / "LibriSpeech/test-clean/61/198/61-198-0001.flac").unlink()
    prepare_corpus("librispeech", librispeech / "LibriSpeech", tmp_path / "data")
    assert "61-198-0001" in caplog.text
    table = read_table(tmp_path / "data", "ASR", TASKS["ASR"].refuse)
    assert [row["id"] for row in table.skipped] == ["61-198-0001"] and "no file" in table.skipped[0]["reason"]
    (librispeech / "librispeech-lexicon.txt").unlink()
    with pytest.raises(DataError, match="no lexicon"):
        prepare_corpus("librispeech", librispeech, tmp_path / "data")
    (librispeech / "LibriSpeech/dev-clean").rename(librispeech / "LibriSpeech/dev-other")
    with pytest.raises(DataError, match="lacks dev-clean(.|\n)*openslr.org"):
        prepare_corpus("librispeech", librispeech, tmp_path / "data")


@pytest.fixture
def speech_commands(tmp_path):
    raw = tmp_path / "raw"
    speakers = [hashlib.sha1(str(n).encode()).hexdigest()[:8] for n in range(12)]
    for word in (*WORDS, "bed", "tree"):
        for speaker in speakers:
            noise(raw / "speech_commands_v0.01" / word / f"{speaker}_nohash_0.wav")
    noise(raw / "speech_commands_v0.01/_background_noise_/white_noise.wav", 4.0)
    for word in (*WORDS, "_unknown_", "_silence_"):
        noise(raw / "speech_commands_test_set_v0.01" / word / "0a1b2c3d_nohash_0.wav")
    return raw


def test_speech_commands(speech_commands, tmp_path):
    counts = prepare_corpus("speech-commands", speech_commands, tmp_path / "data")["KS"]
    found = rows(tmp_path / "data", "KS")
    assert {row["target"] for row in found.values()} == {*WORDS, "unknown", "silence"}
    assert counts["test"] == 12 and sum(row["target"] == "silence" for row in found.values()) == 40 + 10 + 1
    silence = [row for row in found.values() if row["target"] == "silence" and row["split"] == "train"]
    assert len({row["start"] for row in silence}) == 40 and {row["duration"] for row in silence} == {1.0}
    speakers = {split: {r["speaker"] for r in found.values() if r["split"] == split} for split in ("train", "dev")}
    assert not {s for s in speakers["train"] if len(s) == 8} & {s for s in speakers["dev"] if len(s) == 8}


def test_the_split_of_a_speaker_is_that_of_the_corpus():
    """As the README of the corpus computes it; the number after _nohash_ plays no part."""
    for speaker in ("00176480", "bbd0bbd0", "004ae714", "0132a06d", "c50f55b8"):
        digits = int(hashlib.sha1(speaker.encode()).hexdigest(), 16)
        percent = (digits % 2**27) * 100.0 / (2**27 - 1)
        expected = "dev" if percent < 10 else None if percent < 20 else "train"
        assert split_of(f"{speaker}_nohash_0.wav") == split_of(f"{speaker}_nohash_7.wav") == expected


def test_speech_commands_with_parts_missing(speech_commands, tmp_path):
    for path in (speech_commands / "speech_commands_test_set_v0.01/_silence_").iterdir():
        path.unlink()
    path.parent.rmdir()
    with pytest.raises(DataError, match="lacks _silence_"):
        prepare_corpus("speech_commands", speech_commands, tmp_path / "data")
    (speech_commands / "speech_commands_test_set_v0.01").rename(speech_commands / "test")
    with pytest.raises(DataError, match="lacks speech_commands_test_set_v0.01(.|\n)*tensorflow"):
        prepare_corpus("speech_commands", speech_commands, tmp_path / "data")


@pytest.fixture
def voxceleb(tmp_path):
    raw = tmp_path / "raw"
    splits, trials = [], []
    for speaker in range(10001, 10011):
        for number in range(5):
            name = f"id{speaker}/video{number}/00001.wav"
            noise(raw / "wav" / name, (9.0, 0.5, 2.1, 2.1, 2.1)[number])
            splits.append(f"{(1, 1, 1, 2, 3)[number]} {name}")
    for first in range(5):
        trials.append(f"1 id10001/video{first}/00001.wav id10001/video{(first + 1) % 5}/00001.wav")
        trials.append(f"0 id10001/video{first}/00001.wav id10002/video{first}/00001.wav")
    (raw / "iden_split.txt").write_text("\n".join(splits) + "\n")
    (raw / "veri_test2.txt").write_text("\n".join(trials) + "\n")
    return raw


def test_voxceleb(voxceleb, tmp_path):
    counts = prepare_corpus("voxceleb", voxceleb, tmp_path / "data")
    assert counts["SID"] == {"dev": 10, "test": 10, "train": 20 + 30}
    crops = [row for row in rows(tmp_path / "data", "SID").values() if row.get("crop_of")]
    assert len(crops) == 30 and all(row["start"] + row["duration"] <= 9.0 for row in crops)
    assert counts["ASV"]["test trials"] == 10 and counts["ASV"]["dev trials"] > 10
    found = rows(tmp_path / "data", "ASV").values()
    speakers = {split: {row["target"] for row in found if row["split"] == split} for split in ("train", "dev", "test")}
    assert speakers["test"] == {"id10001", "id10002"} and len(speakers["dev"]) == 2 and len(speakers["train"]) == 6
    assert not speakers["train"] & (speakers["dev"] | speakers["test"])
    short = [row for row in found if "unused" in row]
    assert len(short) == counts["ASV"]["train"] / 5 and all(row["duration"] == 0.5 for row in short)
    table = read_table(tmp_path / "data", "ASV", TASKS["ASV"].refuse, gain_db=-3.0)
    assert {row["reason"] for row in table.skipped} == {"less than 2 s without silence"}
    (problem,) = TASKS["ASV"].problems(table, cached(table, tmp_path), settings_of("superb", "ASV")).values()
    assert problem.details["items_with_silence_cut"] == len(table.rows) == len(found) - len(short)
    config = EvaluateConfig(num_jobs=1, max_steps=2, learning_rates=(1e-2,))
    (run,) = evaluate(SuperbTasks(tmp_path / "data"), ["SID"], ["fbank"], tmp_path / "exp", config)
    assert run["num_items"]["test"] == 10 and run["settings"]["accumulate"] == 4


def test_asv_leaves_silence_out(voxceleb, tmp_path):
    sound = np.where(np.arange(3 * 16000) % 2, 0.1, -0.1)
    save_audio(voxceleb / "wav/id10001/video0/00001.wav", np.concatenate([sound, np.zeros(16000), sound]), 16000)
    save_audio(voxceleb / "wav/id10001/video1/00001.wav", np.zeros(16000, np.float32), 16000)
    prepare_corpus("voxceleb", voxceleb, tmp_path / "data", num_jobs=1)
    found = rows(tmp_path / "data", "ASV")
    (first, second) = found["id10001/video0/00001.wav"]["kept"]
    assert first == [0, 48319] and second == [64000, 112000]
    assert found["id10001/video0/00001.wav"]["duration"] == round((48319 + 48000) / 16000, 4)
    table = read_table(tmp_path / "data", "ASV", TASKS["ASV"].refuse)
    reasons = {row["reason"] for row in table.skipped}
    assert {"silence alone", "trial without id10001/video1/00001.wav"} < reasons


def test_crops_are_drawn_anew_and_only_one_of_a_recording(voxceleb, tmp_path):
    prepare_corpus("voxceleb", voxceleb, tmp_path / "data", num_jobs=1)
    table = read_table(tmp_path / "data", "SID", TASKS["SID"].refuse)
    (problem,) = TASKS["SID"].problems(table, cached(table, tmp_path), settings_of("superb", "SID")).values()
    train = table.of("train")
    passes = [[train[i].id for batch in problem.train_batches(epoch) for i in batch] for epoch in range(6)]
    names = [{name.partition("#")[0] for name in ids} for ids in passes]
    assert all(len(ids) == 30 and found == names[0] for ids, found in zip(passes, names))
    drawn = [tuple(name for name in sorted(ids) if "#" in name) for ids in passes]
    assert len(set(drawn)) == 6  # another choice at every pass, not the same turn for all
    for one, two in zip(drawn, drawn[1:]):
        moves = {(int(b[-1]) - int(a[-1])) % 3 for a, b in zip(one, two)}
        assert len(moves) > 1


def test_voxceleb_with_parts_missing(voxceleb, tmp_path, caplog):
    (voxceleb / "wav/id10002/video1/00001.wav").unlink()
    prepare_corpus("voxceleb", voxceleb, tmp_path / "data")
    table = read_table(tmp_path / "data", "ASV", TASKS["ASV"].refuse)
    reasons = [row["reason"] for row in table.skipped]
    assert "no file 00001.wav" in reasons and any(r.startswith("trial without id10002") for r in reasons)
    (voxceleb / "veri_test2.txt").write_text("1 id99999/v/00001.wav id10001/video0/00001.wav\n")
    with pytest.raises(DataError, match="id99999"):
        prepare_corpus("voxceleb", voxceleb, tmp_path / "data")
    (voxceleb / "veri_test2.txt").unlink()
    with pytest.raises(DataError, match="lacks veri_test2.txt(.|\n)*form"):
        prepare_corpus("voxceleb", voxceleb, tmp_path / "data")


def test_unknown_corpora_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="timit"):
        prepare_corpus("timit", tmp_path, tmp_path)


def test_an_option_of_another_corpus_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--lexicon for the corpus voxceleb"):
        prepare_corpus("voxceleb", tmp_path, tmp_path, lexicon=[tmp_path])


@pytest.mark.parametrize(
    "text, slots",
    [
        ("turn on the lights in the kitchen", [["object", "lights"], ["location", "kitchen"]]),
        ("make it louder", []),
        ("lights off in the bedroom", [["object", "lights"], ["location", "bedroom"]]),
    ],
)
def test_slots_of_synthetic_commands(text, slots):
    parts = slots_of_command(text)
    assert " ".join(words for _, words in parts) == text
    assert [part for part in parts if part[0]] == slots


@pytest.mark.slow
def test_the_synthetic_corpus_gives_all_ten_tasks(tmp_path):
    from spear.audio.synthesis import CorpusConfig, synthesise_corpus

    synthesise_corpus(CorpusConfig(str(tmp_path / "raw"), speech_minutes=2, audio_minutes=0, num_jobs=1))
    counts = prepare_corpus("synthetic", tmp_path / "raw", tmp_path / "data", num_jobs=1)
    assert set(counts) == {
        name for name, task in TASKS.items() if task.board
    }  # SS as well; there are no sounds for SED
    first = (tmp_path / "data/superb/SD.jsonl").read_bytes()
    prepare_corpus("synthetic", tmp_path / "raw", tmp_path / "data", num_jobs=1)
    assert (tmp_path / "data/superb/SD.jsonl").read_bytes() == first
    for name in counts:
        assert not read_table(tmp_path / "data", name, TASKS[name].refuse).skipped
    dialogue = next(iter(rows(tmp_path / "data", "SD").values()))
    assert len({name for name, _, _ in dialogue["target"]}) == 2
    assert all(0 <= start < end <= dialogue["duration"] + 1e-3 for _, start, end in dialogue["target"])


@pytest.mark.skipif(not REAL_MINI.exists(), reason="no real-mini beside the checkout")
def test_real_mini_gives_all_ten_tasks(tmp_path):
    counts = prepare_corpus("real_mini", REAL_MINI, tmp_path / "data")
    assert set(counts) == {name for name, task in TASKS.items() if task.board == "all"}
    assert counts["IC"] == {"dev": 2, "test": 4, "train": 6} and counts["ER"] == {"all": 70}
    for name in counts:
        table = read_table(tmp_path / "data", name, TASKS[name].refuse)
        assert not table.skipped and all(table.of(split) for split in ("dev", "test"))
    speakers = {}
    for row in rows(tmp_path / "data", "ASR").values():
        speakers.setdefault(row["speaker"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in speakers.values())
