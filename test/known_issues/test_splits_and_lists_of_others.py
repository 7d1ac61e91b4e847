"""Which part of a corpus is held out, by names of files and folders; and lists that cannot be read beside good ones."""

import gzip
import json

import miniatures
import pytest

from spear import fs
from spear.bin import manifests
from spear.errors import DataError
from spear.manifest import read_items
from spear.manifest.corpora import scan_corpus
from spear.manifest.words import is_held_out


def cut(item, source):
    recording = {"id": item, "sampling_rate": 16000, "num_samples": 4800, "duration": 0.3}
    recording["sources"] = [{"type": "file", "channels": [0], "source": source}]
    return {"id": item, "start": 0, "duration": 0.3, "channel": 0, "type": "MonoCut", "recording": recording}


def stage_1(raw, output, corpus):
    words = ["--raw", str(raw), "--output", str(output), "--num-jobs", "1", "--max-bad-fraction", "1"]
    assert manifests.main([*words, "--corpus", corpus]) == 0
    train = sorted(item.id for item in read_items(output / "cuts_speech_train.jsonl"))
    held = sorted(item.id for item in read_items(output / "cuts_heldout.jsonl"))
    return train, held, {row["path"]: row["reason"] for row in fs.read_jsonl(output / "quarantine.jsonl")}


@pytest.mark.parametrize(
    "name, held",
    [
        ("testset.jsonl", True),
        ("cuts_devset", True),
        ("tst-COMMON", True),
        ("held-out", True),
        ("cuts_heldout.jsonl.gz", True),
        ("Holdout", True),
        ("мова_test", True),
        ("prétest", False),
        ("pre\u0301test", False),
        ("unheld/outside", False),
        ("cuts_attested", False),
        ("invalidated", False),
    ],
)
def test_other_words_that_hold_out(name, held):
    assert is_held_out(name) is held


def test_folders_hold_out_too(tmp_path):
    for folder in ("Train", "Dev", "Test", "validated"):
        miniatures.noise(tmp_path / "plain" / folder / "mic test.wav", 0.3)
        miniatures.noise(tmp_path / "lhotse" / folder / "a.wav", 0.3)
        miniatures.write_jsonl(tmp_path / "lhotse" / folder / "cuts.jsonl", [cut(folder, f"{folder}/a.wav")])
        miniatures.noise(tmp_path / "nemo" / folder / "a.wav", 0.3)
        line = {"audio_filepath": f"{folder}/a.wav", "duration": 0.3, "id": folder}
        miniatures.write_jsonl(tmp_path / "nemo" / folder / "manifest.json", [line])
    for corpus, suffix in (("lhotse", ""), ("nemo", ""), ("folder", "/mic test")):
        raw = tmp_path / ("plain" if corpus == "folder" else corpus)
        train, held, _ = stage_1(raw, tmp_path / "data" / corpus, corpus)
        assert train == [f"Train{suffix}", f"validated{suffix}"] and held == [f"Dev{suffix}", f"Test{suffix}"]


def test_parts_of_librispeech_in_other_spellings(tmp_path):
    for number, part in enumerate(("Train-Clean-100", "Dev-Clean", "test_other", "training-notes")):
        place = tmp_path / part / "1" / "2"
        miniatures.noise(place / f"1-2-000{number}.wav", 0.3)
        (place / "1-2.trans.txt").write_text(f"1-2-000{number} HELLO\n")
    found = scan_corpus("librispeech", tmp_path).entries
    assert [(entry.id, entry.heldout) for entry in found] == [
        ("1-2-0000", False),
        ("1-2-0001", True),
        ("1-2-0002", True),
    ]


def test_a_damaged_list_does_not_end_the_others(tmp_path):
    raw = tmp_path / "lhotse"
    for number in range(3):
        miniatures.noise(raw / f"{number}.wav", 0.3)
    miniatures.write_jsonl(raw / "cuts_good.jsonl", [cut("good", "0.wav")])
    text = "".join(json.dumps(cut(f"bad{number}", "1.wav")) + "\n" for number in range(300)).encode()
    damaged = bytearray(gzip.compress(text))
    damaged[len(damaged) // 2] ^= 0xFF  # in the middle: some lines can be read, but nobody knows which are right
    (raw / "cuts_bad.jsonl.gz").write_bytes(damaged)
    (raw / "cuts_wide.jsonl").write_bytes(json.dumps(cut("wide", "2.wav")).encode("utf-16"))
    train, held, reasons = stage_1(raw, tmp_path / "m", "lhotse")
    assert (train, held) == (["good"], []) and set(reasons) == {"cuts_bad.jsonl.gz", "cuts_wide.jsonl"}
    assert "damaged gzip" in reasons["cuts_bad.jsonl.gz"] and "UTF-16" in reasons["cuts_wide.jsonl"]
    (raw / "cuts_good.jsonl").unlink()
    with pytest.raises(DataError, match="damaged gzip"):
        scan_corpus("lhotse", raw)


def test_other_json_files_beside_manifests_of_nemo(tmp_path):
    miniatures.noise(tmp_path / "raw/a.wav", 0.3)
    miniatures.write_jsonl(tmp_path / "raw/m.json", [{"audio_filepath": "a.wav", "duration": 0.3}])
    (tmp_path / "raw/dataset_info.json").write_text('{\n "name": "mine"\n}\n')
    train, _, reasons = stage_1(tmp_path / "raw", tmp_path / "m", "nemo")
    assert train == ["a"] and "without a line that can be used" in reasons["dataset_info.json"]


def test_tables_in_other_encodings_are_named_and_the_others_read(tmp_path):
    rows = "abcdefghijk, 0.000, 10.000, x\n"
    (tmp_path / "balanced_train_segments.csv").write_text(rows)
    (tmp_path / "eval_segments.csv").write_bytes(rows.replace("k", "l").encode("utf-16"))
    (tmp_path / "unbalanced_train_segments.csv").write_bytes(rows.replace("k", "m").encode("utf-16-le"))  # no mark
    found = scan_corpus("audioset", tmp_path)
    assert [entry.id for entry in found.entries] == ["as-abcdefghijk"]
    assert ["UTF-16LE" in row["reason"] for row in found.refused] == [False, True]
    for encoding in ("utf-16-be", "utf-16-le"):
        (tmp_path / "manifest.tsv").write_bytes("id\tpath\na\ta.wav\n".encode(encoding))
        with pytest.raises(DataError, match="UTF-16[BL]E"):
            scan_corpus("folder", tmp_path)
    (tmp_path / "manifest.tsv").write_bytes(b"id\tpath\ra\ta.wav\r")
    with pytest.raises(DataError, match="carriage return"):
        scan_corpus("folder", tmp_path)


def test_recordings_are_found_packed_or_not(tmp_path):
    miniatures.noise(tmp_path / "a.wav", 0.3)
    recording = gzip.compress(json.dumps(cut("r", "a.wav")["recording"]).encode() + b"\n")
    (tmp_path / "recordings_train.jsonl.gz").write_bytes(recording)
    segment = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 0.3, "channel": 0}
    miniatures.write_jsonl(tmp_path / "supervisions_train.jsonl", [segment])
    assert [entry.id for entry in scan_corpus("lhotse", tmp_path).entries] == ["s"]
