"""Tables of others as manifests: groups, splits, cuts of lhotse, transcripts; and scores from what models say."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spear import fs
from spear.audio import save_audio
from spear.bin import finetune
from spear.errors import ConfigError, DataError
from spear.finetuning import score
from spear.finetuning.tables import Row, TableSettings, divide, prepare
from spear.finetuning.tasks import TASKS
from spear.manifest.item import read_items


def rows(count: int, groups: int, split: str = "") -> list[Row]:
    return [Row(f"r{n}", f"class{n % 3}", f"g{n % groups}", split) for n in range(count)]


def test_what_has_one_group_is_never_divided():
    found = rows(60, 12)
    divide(found, TableSettings([], "classification", "class", group="g"))
    splits = {row.group: {other.split for other in found if other.group == row.group} for row in found}
    assert all(len(each) == 1 for each in splits.values())
    assert {split for each in splits.values() for split in each} == {"train", "dev", "test"}


def test_every_class_is_in_training_and_in_test_where_recordings_allow():
    found = rows(60, 60)
    divide(found, TableSettings([], "classification", "class"))
    for split in ("train", "test"):
        assert {row.target for row in found if row.split == split} == {"class0", "class1", "class2"}
    assert sum(row.split == "test" for row in found) == 12


@pytest.mark.parametrize(("speakers", "dev"), [(20, 2), (10, 2), (9, 0), (6, 0)])
def test_speakers_of_the_validation_are_strangers_where_there_are_enough(speakers, dev):
    found = [Row(f"r{n}", f"s{n % speakers}", f"s{n % speakers}", "") for n in range(4 * speakers)]
    divide(found, TableSettings([], "verification", "speaker"))
    by_split = {split: {row.group for row in found if row.split == split} for split in ("train", "dev", "test")}
    assert by_split["dev"] and not by_split["test"] & (by_split["train"] | by_split["dev"])
    assert len(by_split["dev"] - by_split["train"]) == dev and (len(by_split["dev"]) == dev or not dev)


def test_a_column_of_splits_is_kept_and_what_lacks_is_taken_from_training():
    found = [*rows(40, 40, "train"), *[Row(f"t{n}", "class0", f"t{n}", "test") for n in range(5)]]
    divide(found, TableSettings([], "classification", "class"))
    assert sum(row.split == "test" for row in found) == 5 and all(row.split == "test" for row in found[40:])
    assert sum(row.split == "dev" for row in found) == 4


def test_labels_that_training_lacks_are_listed_and_not_scored(tmp_path):
    for name in ("a", "b", "c", "d"):
        save_audio(tmp_path / f"{name}.wav", 0.1 * np.ones(8000) * np.linspace(-1, 1, 8000), 16000)
    lines = ["path\tclass\tsplit", "a.wav\tx\ttrain", "b.wav\ty\ttrain", "c.wav\tz\ttest", "d.wav\tx\ttest"]
    (tmp_path / "t.tsv").write_text("\n".join([*lines, "d.wav\tx\tsometimes"]) + "\n")
    counts = prepare(TableSettings([tmp_path / "t.tsv"], "classification", "class", num_jobs=1), tmp_path / "data")
    assert counts["test"]["recordings"] == 1 and counts["left_out"] == 2
    reasons = [row["reason"] for row in fs.read_jsonl(tmp_path / "data/manifests/left_out.jsonl")]
    assert any("no training recording has" in each for each in reasons) and any("sometimes" in r for r in reasons)


def test_a_recording_that_changes_after_an_interrupted_call_is_decoded_again(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000)
    for name, count in (("a", 8000), ("b", 8000), ("c", 8000)):
        save_audio(tmp_path / f"{name}.wav", noise[:count], 16000)
    (tmp_path / "t.csv").write_text("path,class,split\na.wav,x,train\nb.wav,x,test\nc.wav,x,train\nno.wav,x,train\n")
    settings = TableSettings([tmp_path / "t.csv"], "classification", "class", num_jobs=1)
    assert prepare(settings, tmp_path / "data")["train"]["hours"] == pytest.approx(1 / 3600, abs=1e-5)
    (tmp_path / "data" / "prepared.json").unlink()  # as after a call that was killed before it had written this
    save_audio(tmp_path / "a.wav", noise, 16000)
    assert prepare(settings, tmp_path / "data")["train"]["hours"] == pytest.approx(2.5 / 3600, abs=1e-5)
    cuts = {cut["id"]: cut for cut in fs.read_jsonl(tmp_path / "data/manifests/train.jsonl")}
    assert cuts["a.wav"]["duration"] == 2.0


def test_long_recordings_become_windows_of_labels_but_have_one_transcript(tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds in (("long", 3.0), ("a", 0.5), ("b", 0.6)):
        save_audio(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(round(16000 * seconds)), 16000)
    lines = [
        {"path": f"{name}.wav", "text": "said", "class": "x", "split": s}
        for name, s in (("long", "train"), ("a", "train"), ("b", "test"))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for task, target, expected in (("classification", "class", 4), ("ctc", "text", 1)):
        settings = TableSettings([tmp_path / "t.jsonl"], task, target, max_seconds=1.0, num_jobs=1)
        counts = prepare(settings, tmp_path / task)
        assert len(read_items(tmp_path / task / "manifests" / "train.jsonl")) == expected
        assert counts["left_out"] == (task == "ctc")
    assert "3.0 s with one transcript" in (tmp_path / "ctc/manifests/left_out.jsonl").read_text()
    found = fs.read_jsonl(tmp_path / "classification/manifests/train.jsonl")
    assert [cut["custom"]["row"] for cut in found] == ["long.wav"] * 3 + ["a.wav"]


def test_cuts_of_lhotse_and_the_splits_of_a_task_are_read(tmp_path):
    (tmp_path / "manifests").mkdir()
    rng, cuts = np.random.default_rng(0), []
    for number, split in enumerate(("train", "train", "dev", "test", None)):
        save_audio(tmp_path / f"u{number}.wav", 0.1 * rng.standard_normal(8000), 16000)
        source = {"type": "file", "channels": [0], "source": f"u{number}.wav"}
        recording = {"id": f"u{number}", "sources": [source], "sampling_rate": 16000, "num_samples": 8000}
        said = {"id": f"u{number}", "recording_id": f"u{number}", "start": 0, "duration": 0.5, "text": "yes"}
        said |= {"speaker": "s", "custom": {"labels": {"word": "yes"}}}
        cut = {"id": f"u{number}", "start": 0, "duration": 0.5, "channel": 0, "type": "MonoCut"}
        custom = {"task_splits": {"words": split} if split else {}}
        cuts.append({**cut, "supervisions": [said], "recording": {**recording, "duration": 0.5}, "custom": custom})
    path = tmp_path / "manifests" / "cuts.jsonl"
    path.write_text("\n".join(map(json.dumps, cuts)) + "\n")
    settings = TableSettings([path], "classification", "word", split="words")
    counts = prepare(settings, tmp_path / "elsewhere" / "data")
    assert [counts[split]["recordings"] for split in ("train", "dev", "test")] == [2, 1, 1]
    (item,) = read_items(tmp_path / "elsewhere/data/manifests/test.jsonl")
    assert item.path == tmp_path / "u3.wav" and item.labels == {"word": "yes"} and item.text == "yes"


@pytest.mark.parametrize(("text", "found"), [("path,other\na.wav,x\n", "class"), ("", "class")])
def test_tables_without_the_column_are_refused(tmp_path, text, found):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=found):
        prepare(TableSettings([tmp_path / "t.csv"], "classification", "class", num_jobs=1), tmp_path / "data")


def table_of(folder, *records) -> TableSettings:
    """Settings for tags of rows, whose recordings are made where they have names."""
    for record in records:
        if "\0" not in record["path"]:
            save_audio(folder / record["path"], 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return TableSettings([folder / "t.jsonl"], "tagging", "tags", num_jobs=1)


def test_the_label_0_is_a_label_and_nan_is_none(tmp_path):
    rows = [{"path": f"{n}.wav", "tags": (0, 1, False, float("nan"))[n % 4], "take": n // 4} for n in range(16)]
    settings = table_of(tmp_path, *rows)
    settings.group = "take"
    counts = prepare(settings, tmp_path / "data")
    assert sum(counts[split]["recordings"] for split in ("train", "dev", "test")) == 12 and counts["left_out"] == 4
    found = read_items(tmp_path / "data/manifests/train.jsonl")
    assert {item.labels["tags"] for item in found} == {"0", "1", "False"}


def test_a_tag_that_holds_the_separator_and_a_path_with_nul_are_left_out(tmp_path):
    rows = [{"path": f"{n}.wav", "tags": ["dog", "cat"], "split": "test" if n else "train"} for n in range(2)]
    bad = [{"path": "c.wav", "tags": ["dog; big", "cat"], "split": "train"}]
    bad += [{"id": "nul", "path": "a\0.wav", "tags": "dog", "split": "train"}]
    counts = prepare(table_of(tmp_path, *rows, *bad), tmp_path / "data")
    reasons = {row["id"]: row["reason"] for row in fs.read_jsonl(tmp_path / "data/manifests/left_out.jsonl")}
    assert counts["train"]["recordings"] == 1 and reasons.keys() == {"c.wav", "nul"}
    assert "holds ';'" in reasons["c.wav"] and "NUL" in reasons["nul"]


def test_an_empty_separator_and_lengths_without_end_are_refused(tmp_path):
    settings = table_of(tmp_path, {"path": "a.wav", "tags": "dog"})
    settings.separator = ""
    with pytest.raises(ConfigError, match="separator"):
        prepare(settings, tmp_path / "data")
    for length in ("nan", "inf", "-1"):
        with pytest.raises(ConfigError, match="a length"):
            words = ["--task", "ctc", "--manifest", "missing", "--exp-dir", str(tmp_path), "--only-data"]
            finetune.main([*words, "--max-seconds", length])


def test_a_folder_that_has_other_recordings_than_before_is_not_taken_for_the_same(tmp_path):
    for name in ("x/a", "x/b", "y/c", "y/d"):
        save_audio(tmp_path / "in" / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    settings = TableSettings([tmp_path / "in"], "classification", "class", num_jobs=1)
    counts = prepare(settings, tmp_path / "data")
    assert prepare(settings, tmp_path / "data") == counts
    save_audio(tmp_path / "in" / "y" / "e.wav", 0.1 * np.ones(8000) * np.linspace(-1, 1, 8000), 16000)
    with pytest.raises(ConfigError, match="other tables"):
        prepare(settings, tmp_path / "data")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="no file"):
        prepare(TableSettings([tmp_path / "t.csv"], "classification", "class"), tmp_path / "data")


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no .*t\.csv"):
        prepare(TableSettings([tmp_path / "t.csv"], "classification", "class"), tmp_path / "data")


def test_texts_are_scored_by_their_words_after_the_normalisation_of_the_vocabulary():
    vocabulary = SimpleNamespace(normalise=str.upper)
    model = SimpleNamespace(vocabularies={"ctc": vocabulary}, stream=lambda name: name)
    found = [
        ("a", SimpleNamespace(text="one two three", speaker="s1"), [SimpleNamespace(text="ONE TWO THREE")]),
        ("b", SimpleNamespace(text="four", speaker=None), ["FOUR FIVE"]),
    ]
    result = score._of_texts(model, TASKS["ctc"], found, [])
    assert result.value == 0.25 and result.num_items == 2 and result.interval == (0.0, 1.0)


def test_cuts_that_cannot_be_scored_are_listed_and_the_others_are_scored(tmp_path):
    settings = table_of(tmp_path, *[{"path": f"{n}.wav", "tags": "dog", "split": ("train", "test")[n]} for n in (0, 1)])
    prepare(settings, tmp_path / "data")
    path = tmp_path / "data/manifests/test.jsonl"
    (cut,) = fs.read_jsonl(path)
    bare = {**cut, "id": "bare", "custom": {}, "supervisions": [{**cut["supervisions"][0], "custom": {}}]}
    fs.write_jsonl(path, [{"id": "none"}, cut, bare])
    model = SimpleNamespace(stream=str, encode=lambda *_: None, decode=lambda *_: [{"dog": 0.9, "cat": 0.1}])
    found = score.score(model, TASKS["tagging"], path, "tags")
    assert found.num_items == 1 and found.value == 1.0 and found.interval == (1.0, 1.0)
    assert [bad["id"] for bad in found.refused] == ["none", "bare"]


def test_windows_of_one_recording_are_judged_by_their_mean():
    assert score.mean_of([{"a": 0.2, "b": 0.8}, {"a": 0.9, "b": 0.1}]) == pytest.approx({"a": 0.55, "b": 0.45})


def test_pairs_are_all_there_are_or_those_of_the_list(tmp_path):
    vectors = {"a": (1.0, 0.0), "b": (0.8, 0.6), "c": (0.0, 1.0)}
    found = [
        (name, SimpleNamespace(speaker="s1" if name != "c" else "s2"), [torch.tensor(vector)])
        for name, vector in vectors.items()
    ]
    drawn = score._of_pairs(found, [], None)
    assert drawn.num_items == 3 and drawn.value == 0.0
    assert {(row["first"], row["second"]): row["cosine"] for row in drawn.predictions}["a", "b"] == pytest.approx(0.8)
    (tmp_path / "trials").write_text("1 a b\n0 b c\n0 a nobody\n")
    refused = []
    listed = score._of_pairs(found, refused, score.read_trials(tmp_path / "trials"))
    assert listed.num_items == 2 and refused == [{"id": "a nobody", "reason": "trial without nobody"}]
    (tmp_path / "trials").write_text("a b 1\n")
    with pytest.raises(DataError, match="line 1"):
        score.read_trials(tmp_path / "trials")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_list_of_trials_that_cannot_be_read_is_refused_before_anything_is_done(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bad").write_text("1 a\n")
    words = [
        "--task",
        "verification",
        "--manifest",
        "missing",
        "--init-from",
        "missing",
        "--exp-dir",
        str(tmp_path / "x"),
    ]
    for name, error in (("pipe", ConfigError), ("missing.txt", ConfigError), ("bad", DataError)):
        with pytest.raises(error, match=name):
            finetune.main([*words, "--trials", str(tmp_path / name)])
    assert not (tmp_path / "x").exists()


def test_tags_have_the_mean_average_precision_and_an_interval_around_it():
    found = [
        (str(n), SimpleNamespace(labels={"tags": tags}), [{"dog": dog, "rain": 1 - dog}])
        for n, (tags, dog) in enumerate([("dog", 0.9), ("rain", 0.8), ("dog;rain", 0.4), ("rain", 0.1)] * 3)
    ]
    result = score._of_tags(TASKS["tagging"], found, [], "tags", ";")
    # Dogs are found among the first 3 of 12 alone, then among the first 9 with 3 others; rain before all that is none.
    assert result.value == pytest.approx(((3 * 1 + 3 * 6 / 9) / 6 + 1) / 2)
    assert 0 <= result.interval[0] < result.value < result.interval[1] <= 1
