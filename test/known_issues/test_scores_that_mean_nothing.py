"""What makes a score mean little stands beside it in the table, and one failing task never takes the others with it."""

import json
import shutil

import numpy as np
import pytest
import yaml

from spear import fs
from spear.audio import save_audio
from spear.bin.evaluate import main
from spear.evaluate.doubts import Judged, find_doubts
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.manifest import Item

QUICK = ["--upstream", "fbank", "--max-steps", "2", "--learning-rates", "1e-2", "--num-jobs", "1"]


def tone(path, number):
    wave = 0.1 * np.sin(np.arange(8000) * (0.05 + 0.01 * number)).astype(np.float32)
    save_audio(path, wave, 16000)


def superb_rows(data_dir, change=lambda row, number: row, task="KS", target=("yes", "no")):
    """30 recordings: 18 of train, 6 of dev, 6 of test."""
    rows = []
    for number in range(30):
        split = "train" if number < 18 else "dev" if number < 24 else "test"
        row = {"id": f"u{number}", "path": f"audio/u{number}.wav", "split": split, "duration": 0.5}
        tone(data_dir / row["path"], number)
        rows.append(change({**row, "target": target[number % len(target)]}, number))
    fs.write_jsonl(data_dir / "superb" / f"{task}.jsonl", rows)
    return data_dir


def scored(data_dir, capsys, tasks="KS", code=0):
    words = ["--data-dir", str(data_dir), "--exp-dir", str(data_dir / "exp"), "--tasks", tasks, "--protocol", "mini"]
    words += ["--suite", "superb", "--page", str(data_dir / "exp/page.html")]
    assert main([*words, "--results", str(data_dir / "RESULTS.md"), *QUICK]) == code
    return capsys.readouterr()


def test_a_good_task_has_no_mark(tmp_path, capsys):
    out = scored(superb_rows(tmp_path), capsys).out
    assert "KS" in out and "(!)" not in out


def same_path(row, number):
    return row | ({"path": f"audio/u{number - 24}.wav"} if number >= 26 else {})


def copied(row, number):
    return row  # the files are copied below


@pytest.mark.parametrize("change", [same_path, copied])
def test_the_same_recordings_in_train_and_test_are_told_in_the_table(tmp_path, capsys, change):
    superb_rows(tmp_path, change)
    if change is copied:
        for number in range(26, 30):
            shutil.copy(tmp_path / f"audio/u{number - 24}.wav", tmp_path / f"audio/u{number}.wav")
    out = scored(tmp_path, capsys).out
    (row,) = [line for line in out.splitlines() if line.startswith("KS ")]
    assert "(!)" in row and "(!) KS: 4 of 6 test recordings are in training or dev as well, such as 'u26'" in out
    assert "4 of 6 test recordings" in (tmp_path / "RESULTS.md").read_text()
    assert "4 of 6 test recordings" in (tmp_path / "exp/page.html").read_text()
    again = scored(tmp_path, capsys).out  # a kept score tells it too
    assert "4 of 6 test recordings" in again
    assert "4 of 6" in json.dumps(fs.read_json(tmp_path / "exp/evaluate/superb-mini/KS/fbank.json")["doubts"])


def test_one_class_labels_of_another_case_and_labels_never_trained(tmp_path, capsys):
    out = scored(superb_rows(tmp_path / "one", target=("yes",)), capsys).out
    assert "(!) KS: every training item has the label 'yes'" in out
    out = scored(superb_rows(tmp_path / "test", lambda r, n: r | ({"target": "no"} if n > 23 else {})), capsys).out
    assert "(!) KS: every test item has the label 'no'" in out
    out = scored(
        superb_rows(tmp_path / "case", lambda r, n: r | ({"target": r["target"].upper()} if n > 23 else {})), capsys
    ).out
    assert "6 of 6 test items have labels that training never had, such as 'YES', 'NO'" in out
    assert "training writes 'yes' where test has 'YES'" in out
    out = scored(superb_rows(tmp_path / "new", lambda r, n: r | ({"target": "stop"} if n == 25 else {})), capsys).out
    assert "1 of 6 test items have labels that training never had, such as 'stop', and cannot be right." in out


def item(name, path="a.wav", start=0.0, duration=1.0):
    return Item(name, path, start, duration, int(16000 * duration), "speech", "speech")


def test_other_stretches_of_a_recording_are_no_doubt():
    def doubts(first, second):
        other = Judged(item("x", "b.wav"), ("no",))
        return find_doubts(
            {"train": [Judged(first, ("yes",)), other], "test": [Judged(second, ("yes",)), other]}, "per"
        )

    assert "2 of 2" in doubts(item("a"), item("b", start=0.5))[0]
    assert "1 of 2" in doubts(item("a"), item("b", start=1.0))[0]  # `other` alone
    assert "2 of 2" in doubts(item("a", duration=0.0), item("b", start=7.0))[0]


def test_symbols_that_training_never_had():
    rows = [Judged(item(str(n), f"{n}.wav"), tuple("AH B".split())) for n in range(4)]
    test = [Judged(item("t", "t.wav"), ("ah", "b", "B"))]
    (doubt,) = find_doubts({"train": rows, "test": test}, "per")
    assert "67 % of the symbols of test" in doubt and "training writes 'AH' where test has 'ah'" in doubt
    assert find_doubts({"train": rows, "test": rows[:0]}, "per") == []
    text = [Judged(item("t", "t.wav"), tuple("你好世界"), "你好世界")]
    assert "more than one word" in find_doubts({"train": text[:0], "test": text}, "wer")[0]


# One failing task ----------------------------------------------------------------------------------------------------


def prepared(data_dir, tasks):
    """A folder as stage 1 leaves it: 24 recordings with texts of hundreds of different characters."""
    lines = []
    for number in range(24):
        path = f"raw/u{number}.wav"
        tone(data_dir / path, number)
        split = "train" if number < 12 else "dev" if number < 18 else "test"
        text = " ".join("".join(chr(0x4E00 + 12 * number + 6 * word + k) for k in range(6)) for word in range(2))
        recording = {"id": f"u{number}", "sources": [{"type": "file", "channels": [0], "source": path}]}
        custom = {"kind": "speech", "labels": {"class": f"c{number % 2}"}, "split": "heldout"}
        custom["task_splits"] = {task["name"]: split for task in tasks if isinstance(task, dict)}
        lines.append(
            {
                "id": f"u{number}",
                "start": 0.0,
                "duration": 0.5,
                "channel": 0,
                "type": "MonoCut",
                "recording": {**recording, "sampling_rate": 16000, "num_samples": 8000, "duration": 0.5},
                "supervisions": [
                    {"id": "s", "recording_id": f"u{number}", "start": 0, "duration": 0.5, "text": text, "speaker": "a"}
                ],
                "custom": custom,
            }
        )
    fs.write_jsonl(data_dir / "manifests" / "cuts_heldout.jsonl", lines)
    fs.write_text(data_dir / "manifests" / "tasks.yaml", yaml.safe_dump({"tasks": tasks}))
    return ["--data-dir", str(data_dir), "--exp-dir", str(data_dir / "exp"), *QUICK]


ASR = {"name": "asr", "head": "ctc", "target": "text", "metric": "wer"}
TWO = {"name": "two", "head": "classify", "target": "label:class", "metric": "accuracy"}


def test_texts_of_more_than_a_hundred_characters_are_scored_and_told(tmp_path, capsys):
    assert main(prepared(tmp_path, [ASR, TWO])) == 0
    out = capsys.readouterr().out
    assert "asr" in out and "two" in out
    assert "(!) asr: " in out and "of the symbols of test were never in training" in out
    assert fs.read_json(tmp_path / "exp/evaluate/mini/asr/fbank.json")["details"][""]["num_outputs"] > 100
    where = ["--data-dir", str(tmp_path), "--exp-dir", str(tmp_path / "exp"), "--output", str(tmp_path / "r.html")]
    assert main(["report", *where]) == 0 and "were never in training" in (tmp_path / "r.html").read_text()


def test_a_task_that_fails_is_told_and_the_others_are_scored(tmp_path, capsys):
    bad = {"name": "moods", "head": "classify", "target": "label:mood", "metric": "accuracy"}
    odd = {"name": "odd", "head": "classify", "target": 7, "metric": "accuracy"}
    words = prepared(tmp_path, [bad, odd, "nonsense", TWO])
    assert main([*words, "--upstream", "nothing-here"]) == 1
    told = capsys.readouterr()
    assert "two" in told.out and fs.read_json(tmp_path / "exp/evaluate/mini/two/fbank.json")["score"] >= 0
    assert "not scored: task moods" in told.err and "task moods has no train item" in told.err
    assert "task odd in " in told.err and "field target: 7" in told.err and "nothing-here" in told.err
    assert told.err.count("expected:") >= 4 and "Traceback" not in told.err
    assert main([*words, "--tasks", "two"]) == 0


def test_superb_tasks_with_broken_rows_leave_the_others_alone(tmp_path, capsys):
    superb_rows(tmp_path)
    lines = (tmp_path / "superb" / "KS.jsonl").read_text().splitlines()
    (tmp_path / "superb" / "SID.jsonl").write_text(
        "\n".join([*lines[:3], lines[3].replace("0.5", '"long"'), *lines[4:]])
    )
    told = scored(tmp_path, capsys, "KS,SID", code=1)
    assert "KS" in told.out and "not scored: task SID" in told.err
    assert "line 4 of" in told.err and "field duration: 'long'" in told.err and "Traceback" not in told.err


def test_ten_hours_of_hidden_states_fail_the_frame_task_alone(tmp_path, capsys):
    assert main([*prepared(tmp_path, [ASR, TWO]), "--cache-gigabytes", "1e-6"]) == 1
    told = capsys.readouterr()
    assert "not scored: task asr, upstream fbank" in told.err and "two" in told.out


@pytest.mark.parametrize(
    "change, said",
    [
        ({"duration": float("nan")}, "duration"),
        ({"duration": -1}, "duration"),
        ({"duration": 1e12}, "duration"),
        ({"start": "0"}, "start"),
        ({"start": -2.0}, "start"),
        ({"id": ["a"]}, "id"),
        ({"id": "a\u2028b"}, "id"),
        ({"id": "x" * 300}, "id"),
        ({"id": ""}, "id"),
        ({"path": None}, "path"),
        ({"path": 7}, "path"),
        ({"split": "validation"}, "split"),
        ({"kept": [[1, 2, 3]]}, "kept"),
        ({"kept": "all"}, "kept"),
        ({"speaker": ["a"]}, "speaker"),
        ({"unused": True}, "unused"),
    ],
)
def test_rows_that_cannot_be_are_refused_by_file_line_and_field(tmp_path, change, said):
    from spear.errors import DataError

    row = {"id": "a", "path": "a.wav", "split": "train", "target": "x"}
    path = tmp_path / "superb" / "KS.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({**row, "id": "first"}) + "\n" + json.dumps({**row, **change}) + "\n")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path, "KS", TASKS["KS"].refuse)
    assert caught.value.found.startswith(f"line 2 of {path}") and said in caught.value.found


@pytest.mark.parametrize("task", sorted(TASKS))
def test_targets_of_any_type_are_listed_and_never_a_traceback(tmp_path, task):
    tone(tmp_path / "a.wav", 1)
    targets = [None, 7, True, "", "x", [], [7], ["x"], [["a", 1, 0]], [["a", "b", "c"]], [[None, 3]], {}, {"a": []}]
    targets += [{"a": "b"}, [None], [[]], [["a", float("inf"), 1e400]], "\udce9", {"a": None}]
    rows = [{"id": f"r{n}", "path": "a.wav", "split": "train", "target": t} for n, t in enumerate(targets)]
    rows += [{**rows[0], "id": "long", "path": "x" * 400}, {**rows[4], "id": "nul", "path": "a\0b"}]
    (tmp_path / "superb").mkdir()
    (tmp_path / "superb" / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_table(tmp_path, task, TASKS[task].refuse)
    assert len(table.rows) + len(table.skipped) == len(rows) and len(table.rows) <= 9
    assert {"long", "nul"} <= {row["id"] for row in table.skipped}
