"""Text, names and folders that others made: what is bad is listed by name, everything else goes on, nothing is split.

Reported for neighbouring tools as: a line separator inside a transcript makes ghost rows; one file name or byte in
another encoding ends everything; a quote in a title swallows the rest of a table; linked folders are called complete
without a look into them; "validated" is taken for held-out data and nothing is left to train on.
"""

import gzip
import os

import miniatures
import pytest

from spear import fs
from spear.bin import manifests
from spear.errors import ConfigError, DataError
from spear.manifest import read_items
from spear.manifest.corpora import scan_corpus
from spear.manifest.words import is_held_out, split_of


def stage_1(raw, output, *more):
    """Items to train on by id, held-out ids, reasons by path, and the summary."""
    words = ["--raw", str(raw), "--output", str(output), "--num-jobs", "1", "--max-bad-fraction", "1", *more]
    assert manifests.main(words) == 0
    train = {item.id: item for kind in ("speech", "audio") for item in read_items(output / f"cuts_{kind}_train.jsonl")}
    reasons = {row["path"]: row["reason"] for row in fs.read_jsonl(output / "quarantine.jsonl")}
    held = [item.id for item in read_items(output / "cuts_heldout.jsonl")]
    return train, held, reasons, fs.read_json(output / "summary.json")


def write_manifest(raw, rows, header="id\tpath\ttext"):
    raw.mkdir(exist_ok=True)
    lines = [line.encode() if isinstance(line, str) else line for line in (header, *rows)]
    (raw / "manifest.tsv").write_bytes(b"\n".join(lines) + b"\n")


def test_line_separators_belong_to_the_text(tmp_path):
    texts = ["one\u2028two", "three\u0085four", "five\x0bsix\u2029\x1cseven"]
    for number in range(3):
        miniatures.noise(tmp_path / f"raw/{number}.wav", 0.3)
    write_manifest(tmp_path / "raw", [f"u{n}\t{n}.wav\t{text}" for n, text in enumerate(texts)])
    train, _, reasons, summary = stage_1(tmp_path / "raw", tmp_path / "data/manifests")
    assert [train[f"u{n}"].text for n in range(3)] == texts
    assert not reasons and summary["coverage"]["listed"] == 3


def test_line_separators_in_transcripts_of_librispeech(tmp_path):
    raw = miniatures.librispeech(tmp_path / "raw", 2)
    (transcript,) = (raw / "LibriSpeech/train-clean-100").glob("*/*/*.trans.txt")
    lines = transcript.read_text().splitlines()
    text = "ONE\u2028TWO\u0085THREE"
    transcript.write_bytes((f"{lines[0].split()[0]} {text}\n").encode() + b"1-2-3 caf\xe9\n")
    found = scan_corpus("librispeech", raw)
    assert text in {entry.text for entry in found.entries}
    assert [row["reason"] for row in found.refused] == [
        "line 2: not UTF-8 (byte 0xe9 at character 10); iconv -f CP1252 may convert it"
    ]


def test_a_transcript_in_another_encoding_does_not_end_the_others(tmp_path):
    for speaker, data in (("1", b"1-2-0 GOOD\n"), ("2", "2-2-0 TEXT\n".encode("utf-16"))):
        (tmp_path / f"train-x/{speaker}/2").mkdir(parents=True)
        (tmp_path / f"train-x/{speaker}/2/{speaker}-2.trans.txt").write_bytes(data)
    found = scan_corpus("librispeech", tmp_path)
    assert [entry.path for entry in found.entries] == ["train-x/1/2/1-2-0.flac"]
    assert [row["id"] for row in found.refused] == ["2-2.trans.txt"] and "UTF-16" in found.refused[0]["reason"]


def test_a_byte_that_is_not_utf8_costs_one_row(tmp_path):
    for name in "abc":
        miniatures.noise(tmp_path / f"raw/{name}.wav", 0.3)
    write_manifest(tmp_path / "raw", ["a\ta.wav\tgood", b"b\tb.wav\tcaf\xe9", "c\tc.wav\tcafé"])
    train, _, reasons, _ = stage_1(tmp_path / "raw", tmp_path / "data/manifests")
    assert set(train) == {"a", "c"} and train["c"].text == "café"
    assert set(reasons) == {"b.wav"} and reasons["b.wav"].startswith("line 3: not UTF-8 (byte 0xe9")


@pytest.mark.parametrize("encoding, words", [("utf-16", "UTF-16"), ("cp1252", "UTF-8")])
def test_another_encoding_is_named(tmp_path, encoding, words):
    (tmp_path / "manifest.tsv").write_bytes("id\tpath\té\na\ta.wav\té\n".encode(encoding))
    with pytest.raises(DataError, match=words):
        scan_corpus("folder", tmp_path)


def test_names_that_cannot_be_used_are_listed_and_the_rest_goes_on(tmp_path):
    raw = tmp_path / "raw"
    miniatures.noise(raw / "good/plain é 日本.wav", 0.3)
    wave = next(raw.rglob("*.wav")).read_bytes()
    long_name = "/".join(["a" * 90] * 3) + "/" + "b" * 30 + ".wav"
    (raw / long_name).parent.mkdir(parents=True)
    for name in (long_name, "line\u2028sep.wav", "new\nline.wav", "back\\slash.wav", os.fsdecode(b"caf\xe9.wav")):
        (raw / name).write_bytes(wave)
    train, _, reasons, _ = stage_1(raw, tmp_path / "data/manifests")
    assert list(train) == ["good/plain é 日本"]
    expected = {long_name: "bytes, more than 200", "line\u2028sep.wav": "line separator", "new\nline.wav": "control"}
    expected |= {"back\\slash.wav": "separator of paths", os.fsdecode(b"caf\xe9.wav"): "file name that is not UTF-8"}
    assert set(reasons) == set(expected) and all(words in reasons[name] for name, words in expected.items())
    # Every line of the list is JSON in UTF-8, whatever the names are.
    assert (tmp_path / "data/manifests/quarantine.jsonl").read_bytes().decode().count("\n") == 5


@pytest.mark.parametrize("item_id", ["../up", "a/../../b", "/etc/x", "C:\\x", "a\x00b", "a\tb\x1b[2J", "é" * 101])
def test_ids_that_lead_elsewhere_are_refused(tmp_path, item_id):
    miniatures.noise(tmp_path / "a.wav", 0.1)
    cut = {"id": item_id, "start": 0, "duration": 0.1, "channel": 0, "type": "MonoCut", "supervisions": []}
    source = {"type": "file", "channels": [0], "source": "a.wav"}
    recording = {"id": "r", "sampling_rate": 16000, "num_samples": 1600, "duration": 0.1, "sources": [source]}
    good = cut | {"id": "large/100/0", "recording": recording}
    miniatures.write_jsonl(tmp_path / "cuts.jsonl", [cut | {"recording": recording}, good])
    found = scan_corpus("lhotse", tmp_path)
    assert [entry.id for entry in found.entries] == ["large/100/0"]  # ids of corpora may be relative paths
    assert [row["id"] for row in found.refused] == [item_id] and "id" in found.refused[0]["reason"]


@pytest.mark.parametrize("place", ["{folder}/x/a.wav", "../{name}/x/a.wav", "./x//a.wav", "x/a.wav"])
def test_ids_of_nemo_are_paths_that_lead_nowhere(tmp_path, place):
    miniatures.noise(tmp_path / "x/a.wav", 0.3)
    row = {"audio_filepath": place.format(folder=tmp_path, name=tmp_path.name), "duration": 0.3}
    miniatures.write_jsonl(tmp_path / "train.jsonl", [row, {"audio_filepath": "/", "duration": 1.0}])
    (entry,) = [entry for entry in scan_corpus("nemo", tmp_path).entries if entry.id.endswith("x/a")]
    assert ".." not in entry.id and not entry.id.startswith("/")


def test_a_path_that_no_file_can_have_is_listed(tmp_path):
    miniatures.noise(tmp_path / "raw/a.wav", 0.3)
    (tmp_path / "raw/folder.wav").mkdir()
    long_path = "x" * 300 + ".wav"
    write_manifest(tmp_path / "raw", ["a\ta.wav\t", f"b\t{long_path}\t", "c\ta.wav/inside\t", "d\tfolder.wav\t"])
    train, _, reasons, summary = stage_1(tmp_path / "raw", tmp_path / "data/manifests")
    assert set(train) == {"a"} and "too long" in reasons[long_path] and reasons["folder.wav"] == "not a file"
    assert summary["coverage"] == {"listed": 4, "usable": 1, "usable_fraction": 0.25, "missing": 1, "bad": 2}


def test_linked_folders_are_looked_into_once(tmp_path):
    raw, elsewhere = tmp_path / "raw", tmp_path / "elsewhere"
    for path in (raw / "own/y.wav", elsewhere / "x1.wav", elsewhere / "deep/x2.wav"):
        miniatures.noise(path, 0.3)
    for link, target in {"linked": elsewhere, "again": elsewhere, "loop": raw, "up": tmp_path, "own/back": raw}.items():
        (raw / link).symlink_to(target, target_is_directory=True)
    (elsewhere / "deep/there").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "to_raw").symlink_to(raw, target_is_directory=True)
    found = scan_corpus("folder", raw)
    assert [entry.path for entry in found.entries] == ["again/deep/x2.wav", "again/x1.wav", "own/y.wav"]
    train, _, reasons, summary = stage_1(raw, tmp_path / "data/manifests")
    assert len(train) == 3 == summary["coverage"]["listed"] and not reasons


def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    for path in ("open/a.wav", "closed/b.wav"):
        miniatures.noise(tmp_path / path, 0.1)
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = scan_corpus("folder", tmp_path)
    assert [entry.path for entry in found.entries] == ["open/a.wav"]
    assert found.refused == [
        {"id": "closed", "path": "closed", "reason": "folder that cannot be read: Permission denied"}
    ]


def test_quotes_in_tables_with_tabs_are_characters(tmp_path):
    header = "id\tartist\tsong\talbum_name"
    rows = ['a\t"Weird Al\tEat It\tX', 'b\tB\t12" mix\tY', "c\tC\tD\tZ", "d"]
    (tmp_path / "id_information.csv").write_text("\n".join([header, *rows]) + "\n")
    found = scan_corpus("music4all", tmp_path)
    speakers = {entry.id: entry.speaker for entry in found.entries}
    assert speakers == {"m4a-a": '"Weird Al', "m4a-b": "B", "m4a-c": "C", "m4a-d": None}
    header = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
    rows = ['t1\t"a1\tx\t14/1.mp3\t9\tg', "t2\ta2\tx\t15/2.mp3\t9\tg", "t3\ta3"]
    (tmp_path / "raw.tsv").write_text("\n".join([header, *rows]) + "\n")
    found = scan_corpus("mtg_jamendo", tmp_path)
    assert [entry.path for entry in found.entries] == ["14/1.mp3", "15/2.mp3"]
    assert [row["reason"] for row in found.refused] == ["line 4: 2 values, 4 expected"]


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path):
    rows = ['abcdefghijk,30,"people, talking",train', 'bbcdefghijk,1,"dog,train', b"cbcdefghijk,2,caf\xe9,train"]
    rows += ["dbcdefghijk,3,cat,Test", "../../../x,4,cat,train", "ebcdefghijk,²,cat,train", "# a comment"]
    rows += [f"fbcdefghijk,{'9' * 5000},cat,train"]
    lines = [row if isinstance(row, bytes) else row.encode() for row in rows]
    (tmp_path / "vggsound.csv").write_bytes(b"\n".join(lines) + b"\n")
    found = scan_corpus("vggsound", tmp_path)
    assert {entry.id: entry.heldout for entry in found.entries} == {
        "vgg-abcdefghijk_000030": False,
        "vgg-dbcdefghijk_000003": True,
    }
    reasons = [row["reason"] for row in found.refused]
    assert "line 2: not a row of a table (unexpected end of data)" in reasons and len(reasons) == 5
    assert any("0xe9" in reason for reason in reasons) and any("'..' as a part" in reason for reason in reasons)


@pytest.mark.parametrize(
    "corpus, name", [("fsd50k", "FSD50K.ground_truth/dev.csv"), ("music4all", "id_information.csv")]
)
@pytest.mark.parametrize("text", ["", "something else\n1,2\n"])
def test_tables_without_their_columns_are_named(tmp_path, corpus, name, text):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="without the column (fname|id)"):
        scan_corpus(corpus, tmp_path)


def test_names_that_are_absolute_paths(tmp_path):
    (tmp_path / "FSD50K.ground_truth").mkdir()
    (tmp_path / "FSD50K.ground_truth/dev.csv").write_text("fname,labels,mids,split\n/1,A,m,train\n../../2,A,m,train\n")
    found = scan_corpus("fsd50k", tmp_path)
    assert [entry.path for entry in found.entries] == ["FSD50K.dev_audio//1.wav"] and len(found.refused) == 1
    (tmp_path / "train-x/1/2").mkdir(parents=True)
    (tmp_path / "train-x/1/2/1-2.trans.txt").write_text("/etc/x TEXT\n../../../../x TEXT\n1-2-0 TEXT\n")
    found = scan_corpus("librispeech", tmp_path)
    assert [entry.id for entry in found.entries] == ["1-2-0"] and len(found.refused) == 2


def test_segments_of_gigaspeech_are_refused_one_by_one(tmp_path):
    segments = [{"sid": "a", "begin_time": 0.0, "end_time": 1.0}, {"sid": "b", "begin_time": "x"}, 5]
    segments += [{"sid": "c", "begin_time": -1.0, "end_time": 1.0}]
    audios = [{"aid": "P", "path": "p.wav", "segments": segments}, {"aid": "Q"}, None]
    fs.write_json(tmp_path / "GigaSpeech.json", {"audios": audios})
    found = scan_corpus("gigaspeech", tmp_path)
    assert [entry.id for entry in found.entries] == ["a"] and len(found.refused) == 5
    assert any("begin_time" in row["reason"] and row["id"] == "c" for row in found.refused)


def test_damaged_and_false_gzip(tmp_path):
    for name in ("whole", "cut", "plain"):
        (tmp_path / name).mkdir()
        miniatures.noise(tmp_path / name / "a.wav", 0.3)
    recording = {"id": "r", "sampling_rate": 16000, "num_samples": 4800, "duration": 0.3}
    recording["sources"] = [{"type": "file", "channels": [0], "source": "a.wav"}]
    cut = {"id": "x", "start": 0, "duration": 0.3, "channel": 0, "type": "MonoCut", "recording": recording}
    miniatures.write_jsonl(tmp_path / "cuts.jsonl", [cut | {"supervisions": []}])
    text = (tmp_path / "cuts.jsonl").read_bytes()
    (tmp_path / "whole/cuts.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "plain/cuts.jsonl.gz").write_bytes(text)
    (tmp_path / "cut/cuts.jsonl.gz").write_bytes(gzip.compress(text)[:-20])
    for name in ("whole", "plain"):
        assert [entry.id for entry in scan_corpus("lhotse", tmp_path / name).entries] == ["x"]
    with pytest.raises(DataError, match="damaged gzip"):
        scan_corpus("lhotse", tmp_path / "cut")


# Which split is it? --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, held",
    [
        ("cv-xx_cuts_validated.jsonl.gz", False),
        ("latest_cuts.jsonl", False),
        ("cuts_device1.jsonl", False),
        ("contest.jsonl", False),
        ("cuts_train_valuable.jsonl", False),
        ("cuts_dev-clean.jsonl.gz", True),
        ("libriheavy_cuts_test2.jsonl", True),
        ("cuts_valid.jsonl", True),
        ("cutsDev.jsonl", True),
        ("EVAL.jsonl", True),
    ],
)
def test_only_whole_words_hold_out(name, held):
    assert is_held_out(name) is held


def test_validated_is_training_data(tmp_path):
    raw = tmp_path / "raw"
    for name in ("validated", "latest", "device1", "dev"):
        miniatures.noise(raw / f"{name}.wav", 0.3)
        recording = {"id": name, "sampling_rate": 16000, "num_samples": 4800, "duration": 0.3}
        recording["sources"] = [{"type": "file", "channels": [0], "source": f"{name}.wav"}]
        cut = {"id": name, "start": 0, "duration": 0.3, "channel": 0, "type": "MonoCut", "recording": recording}
        miniatures.write_jsonl(raw / f"cuts_{name}.jsonl", [cut | {"supervisions": []}])
    train, held, _, summary = stage_1(raw, tmp_path / "data/manifests", "--corpus", "lhotse")
    assert set(train) == {"validated", "latest", "device1"} and held == ["dev"] and not summary["notes"]
    for name in ("validated", "latest", "device1"):
        (raw / f"cuts_{name}.jsonl").unlink()
    train, held, _, summary = stage_1(raw, tmp_path / "other/manifests", "--corpus", "lhotse")
    assert not train and held == ["dev"] and "nothing is left to train on" in summary["notes"][0]


TASKS = """
tasks:
  - {name: sounds, head: classify, target: 'label:class', metric: accuracy, min_train: 1, min_test: 1}
"""


def classified(raw, splits):
    rows = []
    for number, split in enumerate(splits):
        miniatures.noise(raw / f"{number}.wav", 0.2)
        rows.append(f"i{number:02d}\t{number}.wav\tevent\tclass={'ab'[number % 2]}\t{split}")
    write_manifest(raw, rows, "id\tpath\tkind\tlabel\tsplit")
    (raw / "tasks.yaml").write_text(TASKS)
    return ["--tasks", str(raw / "tasks.yaml")]


def test_splits_in_other_spellings_are_understood(tmp_path):
    splits = ["Train", "TRAINING", "train ", "Train", "Validation", "val", "Test", "testing"]
    more = classified(tmp_path / "raw", splits)
    train, held, reasons, summary = stage_1(tmp_path / "raw", tmp_path / "data/manifests", *more)
    assert summary["tasks"] == {"sounds": {"train": 4, "dev": 2, "test": 2}} and not reasons
    assert set(train) == {"i00", "i01", "i02", "i03"} and len(held) == 4
    assert [split_of(word) for word in ("eval", "Evaluation", "devel", "fold1")] == ["test", "test", "dev", ""]


def test_a_split_that_nobody_knows_is_listed_and_never_trained_on(tmp_path):
    splits = ["train", "train", "dev", "dev", "test", "test", "prüfung", "fold3"]
    more = classified(tmp_path / "raw", splits)
    train, held, reasons, summary = stage_1(tmp_path / "raw", tmp_path / "data/manifests", *more)
    assert set(train) == {"i00", "i01"} and len(held) == 4 and set(reasons) == {"6.wav", "7.wav"}
    assert reasons["6.wav"].startswith("split 'prüfung' of task sounds is none of train")
    assert summary["tasks"] == {"sounds": {"train": 2, "dev": 2, "test": 2}} and summary["coverage"]["bad"] == 2


def test_eval_beside_test_is_dev(tmp_path):
    more = classified(tmp_path / "raw", ["train", "train", "eval", "eval", "test", "test"])
    assert stage_1(tmp_path / "raw", tmp_path / "data/manifests", *more)[3]["tasks"]["sounds"]["dev"] == 2
    more = classified(tmp_path / "raw", ["train", "train", "dev", "dev", "eval", "eval"])
    assert stage_1(tmp_path / "raw", tmp_path / "data/manifests", *more)[3]["tasks"]["sounds"]["test"] == 2


def test_folders_that_manifests_cannot_name_are_refused_at_once(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match="name in UTF-8"):
        manifests.main(["--raw", str(folder), "--output", str(tmp_path / "m")])
    with pytest.raises(ConfigError, match="name '../x'"):
        manifests.main(["--raw", str(tmp_path), "--output", str(tmp_path / "m"), "--name", "../x"])
    assert not list(tmp_path.iterdir())
