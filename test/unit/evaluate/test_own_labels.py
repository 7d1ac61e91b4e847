"""spear evaluate --manifest: anybody's table of recordings and labels, or folders of classes."""

import numpy as np
import pytest

from spear import fs
from spear.audio import save_audio
from spear.bin.evaluate import main
from spear.errors import ConfigError, DataError
from spear.evaluate.own import OwnLabels

TONES_HZ = {"low": 400, "high": 1700}


def recording(path, label, seed):
    rng = np.random.default_rng(seed)
    wave = 0.3 * np.sin(2 * np.pi * TONES_HZ[label] * np.arange(4000) / 16000) + 0.02 * rng.standard_normal(4000)
    save_audio(path, wave.astype(np.float32), 16000)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twenty recordings in a folder for each class, with rows {path, tone, speaker}."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number in range(20):
        label = ("low", "high")[number % 2]
        path = folder / label / f"{number}.wav"
        recording(path, label, number)
        rows.append({"path": f"{label}/{number}.wav", "tone": label, "speaker": f"s{number // 4}"})
    return folder, rows


def csv(path, rows, delimiter=","):
    lines = [delimiter.join(rows[0])] + [delimiter.join(map(str, row.values())) for row in rows]
    fs.write_text(path, "\n".join(lines) + "\n")


def scored(tmp_path, *words, code=0):
    quick = ["--upstream", "fbank", "--num-jobs", "1", "--max-steps", "60", "--learning-rates", "1e-2"]
    assert main([*map(str, words), *quick, "--exp-dir", str(tmp_path / "exp")]) == code
    (path,) = (tmp_path / "exp/evaluate/own").glob("*/fbank.json")
    return fs.read_json(path)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "folders"])
def test_every_recording_is_tested_once_in_folds(clips, form, tmp_path, capsys):
    folder, rows = clips
    table, words = folder / f"labels.{form}", ["--target", "tone", "--folds", "4"]
    if form == "folders":
        table, words = folder, ["--folds", "4"]
    elif form == "jsonl":
        fs.write_jsonl(table, rows)
    else:
        csv(table, rows, "," if form == "csv" else "\t")
    run = scored(tmp_path, "--manifest", table, *words)
    predictions = fs.read_jsonl(next((tmp_path / "exp/evaluate/own").glob("*/*.predictions.jsonl")))
    assert sorted(row["id"] for row in predictions) == sorted(row["path"] for row in rows)
    assert run["score"] > 0.9 and len(run["folds"]) == 4 and run["interval"][0] <= run["score"]
    assert "accuracy %" in capsys.readouterr().out


def test_groups_never_cross_a_split(clips, tmp_path):
    folder, rows = clips
    csv(folder / "groups.csv", rows)
    suite = OwnLabels(folder / "groups.csv", target="tone", group="speaker", folds=5)
    (task,) = suite.find(["all"])
    for splits in task.folds(suite.table(task)).values():
        speakers = [{row.extra["group"] for row in splits[name]} for name in ("train", "dev", "test")]
        assert not speakers[0] & speakers[1] and not speakers[0] & speakers[2] and not speakers[1] & speakers[2]
        assert len(speakers[2]) == 1
    with pytest.raises(DataError, match="5 groups"):
        few = OwnLabels(folder / "groups.csv", target="tone", group="speaker", folds=6)
        few.find(["all"])[0].folds(few.table(few.find(["all"])[0]))


def test_a_split_of_the_table_is_used_and_what_cannot_be_used_is_listed(clips, tmp_path, capsys):
    folder, rows = clips
    split = ["train"] * 12 + ["valid"] * 4 + ["test"] * 4
    table = [{**row, "split": name} for row, name in zip(rows, split)]
    table += [{**rows[0], "path": "gone.wav", "split": "train"}, {**rows[1], "split": "train"}]
    table += [{"path": "low/0.wav", "tone": "", "speaker": "", "split": "test"}]
    csv(folder / "split.csv", table)
    run = scored(tmp_path, "--manifest", folder / "split.csv", "--target", "tone")
    assert run["num_items"] == {"train": 12, "dev": 4, "test": 4} and len(run["skipped"]) == 3
    assert any("second time" in row["reason"] for row in run["skipped"])


def test_a_path_that_no_file_can_have_is_listed(clips):
    folder, rows = clips
    fs.write_jsonl(folder / "nul.jsonl", [*rows, {"id": "nul", "path": "low/0\0.wav", "tone": "low"}])
    suite = OwnLabels(folder / "nul.jsonl", target="tone")
    table = suite.table(suite.find(["all"])[0])
    assert (
        len(table.rows) == 20
        and [row["id"] for row in table.skipped] == ["nul"]
        and "NUL" in table.skipped[0]["reason"]
    )


def test_a_line_that_is_no_json_is_listed_and_nothing_is_written_beside_the_audio(clips, tmp_path):
    folder, rows = clips
    fs.write_jsonl(folder / "damaged.jsonl", rows)
    with open(folder / "damaged.jsonl", "a") as handle:
        handle.write("{no json\n")
    before = sorted(folder.rglob("*"))
    run = scored(tmp_path, "--manifest", folder / "damaged.jsonl", "--target", "tone")
    assert [row["id"] for row in run["skipped"]] == ["line 21"] and "line 21" in run["skipped"][0]["reason"]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_several_labels_of_a_recording(clips, form, tmp_path, capsys):
    folder, rows = clips
    tags = [[row["tone"], "even" if number % 2 else "first"] for number, row in enumerate(rows)]
    table = [{"path": row["path"], "tags": tag} for row, tag in zip(rows, tags)]
    if form == "jsonl":
        fs.write_jsonl(folder / "tags.jsonl", [*table, {"path": "low/0.wav", "tags": []}])
    else:
        csv(folder / "tags.csv", [{**row, "tags": " | ".join(row["tags"])} for row in table])
    run = scored(tmp_path, "--manifest", folder / f"tags.{form}", "--target", "tags", "--kind", "multilabel")
    assert run["metric"] == "map" and run["score"] > 0.9 and len(run["folds"]) == 5
    assert run["details"]["1 of 5"]["classes"] == ["even", "first", "high", "low"]
    assert len(run["skipped"]) == (form == "jsonl") and "map %" in capsys.readouterr().out


def test_numbers_as_labels(clips, tmp_path, capsys):
    folder, rows = clips
    table = [{"path": row["path"], "hertz": TONES_HZ[row["tone"]] + number} for number, row in enumerate(rows)]
    csv(folder / "numbers.csv", [*table, {"path": "low/gone.wav", "hertz": "loud"}])
    run = scored(tmp_path, "--manifest", folder / "numbers.csv", "--target", "hertz", "--kind", "regression")
    assert run["metric"] == "pearson" and run["score"] > 0.9 and set(run["extra_scores"]) == {"r2", "mae"}
    assert [row["reason"] for row in run["skipped"]] == ["'loud' is no number (hertz)"]
    predictions = fs.read_jsonl(next((tmp_path / "exp/evaluate/own").glob("*/*.predictions.jsonl")))
    errors = [abs(row["reference"] - row["hypotheses"][0]) for row in predictions]
    assert run["extra_scores"]["mae"] == pytest.approx(np.mean(errors), rel=0.2)  # in hertz; the mean over folds
    assert "pearson (higher is better)" in capsys.readouterr().out


def test_what_cannot_be_asked_is_refused(clips, tmp_path):
    folder, rows = clips
    csv(folder / "plain.csv", rows)
    for words, message in (
        ({"kind": "ranking"}, "--kind ranking"),
        ({"folds": 2}, "--folds 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            OwnLabels(folder / "plain.csv", **words)
    with pytest.raises(ConfigError, match="no .*nowhere.csv"):
        OwnLabels(folder / "nowhere.csv")
    suite = OwnLabels(folder / "plain.csv", target="mood")
    with pytest.raises(DataError, match="column mood"):
        suite.find(["all"])
