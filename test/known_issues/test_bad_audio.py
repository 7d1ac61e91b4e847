"""One bad recording must not stop a preparation: each is listed with its reason, or handled.

Reported for neighbouring tools as: one corrupt file aborts and nothing is saved; one cut of an hour is one batch;
missing AudioSet clips stop a recipe; nobody knows which part of a corpus a result is for.
"""

import numpy as np
import pytest
import soundfile

from spear import fs
from spear.audio import load_audio
from spear.bin import fbank, manifests
from spear.errors import DataError
from spear.manifest import read_items

RATE = 16000


def noise(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "raw"
    (folder / "sub").mkdir(parents=True)
    for number in range(4):
        soundfile.write(folder / "sub" / f"good{number}.flac", noise(1.5, seed=number), RATE)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no audio\n" * 50)
    soundfile.write(folder / "one_sample.wav", noise(1 / RATE), RATE)
    soundfile.write(folder / "no_samples.wav", np.zeros(0), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    wave = noise(1.0)
    wave[500] = np.nan
    soundfile.write(folder / "nan.wav", wave, RATE, subtype="FLOAT")
    for suffix in ("wav", "flac"):
        whole = folder / f"truncated.{suffix}"
        soundfile.write(whole, noise(2.0), RATE)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    soundfile.write(folder / "stereo8k.wav", noise(2.0, 8000, 2), 8000)
    hour = np.tile(noise(10.0, 8000)[:, 0], 360)
    hour[: 25 * 8000] = 0.0  # the first window of 20 s and no more is silent
    soundfile.write(folder / "hour.flac", hour, 8000)
    (folder / "song.m4a").write_bytes(b"\0" * 100)
    (folder / "notes.txt").write_text("not counted")
    return folder


@pytest.fixture(scope="module")
def prepared(bad_folder):
    output = bad_folder.parent / "data" / "manifests"
    assert manifests.main(["--raw", str(bad_folder), "--output", str(output), "--max-bad-fraction", "0.7"]) == 0
    return output


def test_every_bad_recording_is_listed_with_its_reason(prepared):
    reasons = {item["path"]: item["reason"] for item in fs.read_jsonl(prepared / "quarantine.jsonl")}
    expected = {
        "empty.wav": "empty",
        "text.wav": "cannot be read as audio",
        "one_sample.wav": "too short",
        "no_samples.wav": "no samples",
        "silent.wav": "silent",
        "nan.wav": "not finite",
        "truncated.wav": "truncated",
        "truncated.flac": "truncated",
        "song.m4a": "convert",
    }
    assert set(reasons) == set(expected)
    for path, words in expected.items():
        assert words in reasons[path], (path, reasons[path])


def test_the_summary_counts_kinds_of_reasons_in_whole_phrases(prepared, tmp_path):
    assert fs.read_json(prepared / "summary.json")["quarantine"] == {
        "the file is truncated": 2,
        "empty file": 1,
        "format .m4a is not read": 1,
        "the file cannot be read as audio": 1,
        "the file holds N samples that are not finite": 1,
        "the file holds no samples": 1,
        "silent": 1,
        "too short": 1,
    }
    raw = tmp_path / "raw"
    raw.mkdir()
    soundfile.write(raw / "a.wav", noise(0.5), RATE)
    lines = ["id\tpath\tduration\tkind\tspeaker", "a\ta.wav\t0.5\tspeech\tx", "b\ta.wav\t0.5"]
    for number in range(100):
        lines += [f"a\ta{number}.wav\t0.5\tspeech\tx", f"c{number}\ta.wav\t0.5\ta: ({number}) it's\tx"]
    (raw / "manifest.tsv").write_text("\n".join(lines) + "\n")
    manifests.main(["--raw", str(raw), "--output", str(tmp_path / "m"), "--max-bad-fraction", "1"])
    assert fs.read_json(tmp_path / "m" / "summary.json")["quarantine"] == {
        "duplicate id": 100,
        "kind is none of speech, event, music": 100,
        "N values for N columns": 1,
    }


def test_long_and_stereo_recordings_are_handled(prepared):
    items = read_items(prepared / "cuts_speech_train.jsonl")
    by_recording = {}
    for item in items:
        by_recording.setdefault(item.path.name, []).append(item)
        assert item.duration_seconds <= 20.0
        assert abs(len(load_audio(item.path, RATE, item.start_seconds, item.duration_seconds)) - item.num_samples) <= 1
    assert len(by_recording["hour.flac"]) == 179
    assert len({item.id for item in items}) == len(items) == 4 + 1 + 179
    assert by_recording["stereo8k.wav"][0].num_samples == 2 * RATE
    summary = fs.read_json(prepared / "summary.json")
    assert summary["silent_windows"] == 1 and summary["windowed_recordings"] == 1 and summary["ignored_files"] == 1
    assert summary["coverage"]["bad"] == 9


def test_the_next_stage_runs_on_what_is_left(prepared, capsys):
    output = prepared.parent / "fbank"
    arguments = ["--manifests", str(prepared), "--output", str(output), "--on-the-fly", "true"]
    assert fbank.main(arguments) == 0
    assert "not stored" in capsys.readouterr().out
    assert fs.read_json(prepared.parent / "stats.json")["items"] == 184 and not output.exists()


def test_too_many_bad_recordings_stop_with_a_summary(bad_folder, tmp_path):
    arguments = ["--raw", str(bad_folder), "--output", str(tmp_path / "m"), "--max-bad-fraction", "0.05"]
    with pytest.raises(DataError, match="9 of 15 recordings .*are bad.*truncated.*(?s:.)*--max-bad-fraction"):
        manifests.main(arguments)
    assert len(fs.read_jsonl(tmp_path / "m" / "quarantine.jsonl")) == 9


def test_partial_data_is_reported_and_changes_the_hash(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = ["id\tpath\tduration\tkind\tspeaker\ttext\tlabel"]
    for number in range(10):
        soundfile.write(raw / f"{number}.wav", noise(0.5, seed=number), RATE)
        lines.append(f"item{number}\t{number}.wav\t0.5\tevent\t\t\tclass=a")
    (raw / "manifest.tsv").write_text("\n".join(lines) + "\n")
    summaries = []
    for name in ("whole", "part"):
        manifests.main(["--raw", str(raw), "--output", str(tmp_path / name)])
        summaries.append(fs.read_json(tmp_path / name / "summary.json"))
        for number in range(3):
            (raw / f"{number}.wav").unlink(missing_ok=True)
    whole, part = summaries
    assert whole["coverage"]["usable_fraction"] == 1.0
    assert part["coverage"] == {"listed": 10, "usable": 7, "usable_fraction": 0.7, "missing": 3, "bad": 0}
    assert whole["ids_sha256"] != part["ids_sha256"]


def test_manifest_lines_that_cannot_be_trusted_are_refused(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a", "b"):
        soundfile.write(raw / f"{name}.wav", noise(0.5), RATE)
    soundfile.write(tmp_path / "outside.wav", noise(0.5), RATE)
    lines = [
        "id\tpath\tduration\tkind",
        "a\ta.wav\t0.5\tspeech",
        "a\tb.wav\t0.5\tspeech",
        "c\t../outside.wav\t0.5\tspeech",
    ]
    lines += [
        f"d\t{tmp_path / 'outside.wav'}\t0.5\tspeech",
        "e\tb.wav\t0.5\tpodcast",
        "f\tb.wav",
        "g\tb.wav\t9.0\tspeech",
    ]
    (raw / "manifest.tsv").write_text("\n".join(lines) + "\n")
    manifests.main(["--raw", str(raw), "--output", str(tmp_path / "m"), "--max-bad-fraction", "1"])
    reasons = {item["id"]: item["reason"] for item in fs.read_jsonl(tmp_path / "m" / "quarantine.jsonl")}
    words = {
        "a": "duplicate",
        "c": "leaves the folder",
        "d": "leaves",
        "e": "podcast",
        "f": "2 values",
        "g": "truncated",
    }
    assert set(reasons) == set(words) and all(word in reasons[item] for item, word in words.items())
    assert [item.id for item in read_items(tmp_path / "m" / "cuts_speech_train.jsonl")] == ["a"]
