"""HEAR's tasks from their layout to scores: folds, bad files, states, events and their post-processing."""

import itertools
import json

import hear_corpus
import numpy as np
import pytest
import torch

from spear.errors import ConfigError, DataError
from spear.evaluate.activity import smoothed
from spear.evaluate.cache import FeatureStore
from spear.evaluate.doubts import doubts_of
from spear.evaluate.hear.events import _numbers, events_of, frame_labels
from spear.evaluate.hear.layout import read_layout, read_rows
from spear.evaluate.hear.problem import embedded
from spear.evaluate.hear.suite import HearTasks
from spear.evaluate.matching import matching_events
from spear.evaluate.metrics import score_rows
from spear.evaluate.protocol import settings_of
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.runs import rescore
from spear.evaluate.suites import open_suite, suites_of


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return hear_corpus.make(tmp_path_factory.mktemp("hear"))


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """Scores of the filterbank on all four."""
    exp_dir = tmp_path_factory.mktemp("exp")
    config = EvaluateConfig(num_jobs=1, max_steps=40, learning_rates=(3e-3,))
    found = evaluate(HearTasks(data_dir, "mini"), ["all"], ["fbank"], exp_dir, config)
    return {run["task"].partition("-")[0]: run for run in found} | {"exp_dir": exp_dir}


def test_every_kind_of_task_is_scored_by_the_metrics_that_it_names(runs):
    assert {
        name: [runs[name]["metric"], *runs[name]["extra_scores"]] for name in ("animals", "pitches", "chords", "beeps")
    } == {
        "animals": ["top1", "auc", "map"],
        "pitches": ["top1", "chroma"],
        "chords": ["map", "d_prime"],
        "beeps": ["event_f1", "event_f1_50ms", "segment_er"],
    }
    assert runs["animals"]["scores"]["top1"] == 1.0 and runs["animals"]["scores"]["auc"] == 1.0
    assert runs["chords"]["scores"]["map"] > 0.8
    assert runs["beeps"]["scores"]["event_f1"] > 0.7
    for name in ("animals", "pitches", "chords", "beeps"):
        path = runs["exp_dir"] / "evaluate" / "hear-mini" / runs[name]["task"] / "fbank.json"
        assert rescore(path) == pytest.approx(runs[name]["scores"], nan_ok=True)


def test_the_grid_is_trained_on_the_first_fold_and_its_best_point_on_the_others(runs):
    grid = runs["chords"]["grid"]
    assert [head["fold"] for head in grid] == ["fold00"] * 4 + ["fold01", "fold02"]
    best = max(head["dev_score"] for head in grid[:4])
    assert next(head for head in grid[:4] if head["point"] == grid[4]["point"])["dev_score"] == best
    assert grid[4]["point"] == grid[5]["point"] and runs["chords"]["learning_rate"] == grid[5]["learning_rate"]
    assert len({row["id"] for row in map(json.loads, open(
        runs["exp_dir"] / "evaluate" / "hear-mini" / "chords-v1-full" / "fbank.predictions.jsonl"
    ))}) == 36  # fmt: skip


def test_a_fold_is_tested_the_next_one_selects_and_the_rest_trains(data_dir):
    suite = HearTasks(data_dir)
    (task,) = suite.find(["chords"])
    folds = task.folds(suite.table(task))
    parts = {test: {name: {row.id[:6] for row in rows} for name, rows in s.items()} for test, s in folds.items()}
    assert parts == {
        "fold00": {"train": {"fold02"}, "dev": {"fold01"}, "test": {"fold00"}},
        "fold01": {"train": {"fold00"}, "dev": {"fold02"}, "test": {"fold01"}},
        "fold02": {"train": {"fold01"}, "dev": {"fold00"}, "test": {"fold02"}},
    }


def test_pitches_are_numbered_by_pitch_whatever_the_order_of_the_vocabulary(data_dir):
    layout = read_layout(data_dir / "tasks" / "pitches-v2.2-5h")
    assert layout.labels == [str(n) for n in range(58, 104)]
    scores = np.eye(46)[72 - 58].tolist()
    rows = [{"reference": [60 - 58], "hypotheses": [scores]}, {"reference": [61 - 58], "hypotheses": [scores]}]
    assert score_rows("top1", rows) == 0 and score_rows("chroma", rows) == 0.5


def test_bad_files_are_left_out_by_name(tmp_path):
    folder = hear_corpus.make(tmp_path, each=2) / "tasks" / "animals-v1.0-full"
    files = json.loads((folder / "train.json").read_text())
    names = list(files)
    (folder / "48000" / "train" / names[0]).unlink()
    (folder / "48000" / "train" / names[1]).write_bytes(b"no audio")
    files[names[2]] = ["ape", "bee"]
    files[names[3]] = ["dog"]
    files["../../animals.wav"] = ["ape"]
    (folder / "train.json").write_text(json.dumps(files))
    hear_corpus.save_audio(folder / "48000" / "train" / names[4], np.zeros(1000, np.float32), 48000)
    rows, skipped = read_rows(read_layout(folder))
    reasons = {bad["id"].removeprefix("train/"): bad["reason"] for bad in skipped}
    assert list(reasons) == [*names[:5], "../../animals.wav"]
    expected = ["no file", "no audio|not|known", "2 labels", "label 'dog'", "0.02 s instead of 0.5 s", "part of a path"]
    for reason, words in zip(reasons.values(), expected):
        assert any(word in reason for word in words.split("|")), reason
    assert len(rows) == 18 - 5
    suite = HearTasks(tmp_path)
    (task,) = suite.find(["animals-v1.0-full"])
    doubts = task.doubts(suite.table(task))
    assert doubts == [
        "a partial copy: 1 of 14 recordings are not there",
        "every training item has the label 'cat': one answer is always right",
        "4 of 6 test items have labels that training never had, such as 'ape', 'bee', and cannot be right",
    ]


@pytest.mark.parametrize(
    "name, split, prefix", [("beeps-hear2021-full", "train", ""), ("chords-v1-full", "fold02", "fold fold00: ")]
)
def test_a_label_of_test_that_training_lacks_is_said_beside_the_score(tmp_path, name, split, prefix):
    path = hear_corpus.make(tmp_path, each=2) / "tasks" / name / f"{split}.json"
    files = json.loads(path.read_text())
    kept = {file: [t for t in ts if (t["label"] if isinstance(t, dict) else t) != "cat"] for file, ts in files.items()}
    path.write_text(json.dumps(kept))
    suite = HearTasks(tmp_path)
    (task,) = suite.find([name])
    said = f"{prefix}1 labels of test were never in training, such as 'cat', and cannot be found"
    assert said in task.doubts(suite.table(task))


def test_steps_left_out_are_those_of_the_chosen_point_and_not_of_others_of_its_rate(runs):
    run = runs["animals"]
    assert run["point"] in {head["point"] for head in run["grid"]} and run["steps"] > 0
    others = [head | {"skipped_steps": run["steps"]} for head in run["grid"] if head["point"] != run["point"]]
    assert {head["learning_rate"] for head in others} == {run["learning_rate"]}
    chosen = [head for head in run["grid"] if head["point"] == run["point"]]
    assert not doubts_of(run | {"grid": others + chosen, "doubts": []})
    broken = [head | {"skipped_steps": run["steps"]} for head in chosen]
    assert "steps of the chosen heads were left out" in doubts_of(run | {"grid": broken, "doubts": []})[0]


def test_damaged_metadata_refuses_that_task_alone(tmp_path):
    hear_corpus.make(tmp_path, each=1)
    path = tmp_path / "tasks" / "chords-v1-full" / "task_metadata.json"
    path.write_text(path.read_text().replace('"mAP"', '"best"'))
    told = {}
    tasks = HearTasks(tmp_path).find(["all"], lambda name, error: told.setdefault(name, error.found))
    assert [task.name for task in tasks] == ["animals-v1.0-full", "beeps-hear2021-full", "pitches-v2.2-5h"]
    assert list(told) == ["chords-v1-full"] and "evaluation" in told["chords-v1-full"]
    with pytest.raises(ConfigError, match="evaluation"):
        HearTasks(tmp_path).find(["chords"])
    with pytest.raises(ConfigError, match="task 'esc50'"):
        HearTasks(tmp_path).find(["esc50"])
    with pytest.raises(DataError, match="no task in"):
        HearTasks(tmp_path / "tasks").find(["all"])


def test_states_and_grid_are_part_of_the_row(data_dir):
    (suite,) = suites_of("hear", data_dir, hear={"states": "concat", "grid": "all"})
    assert suite.folder == "hear-concat-all" and HearTasks(data_dir).folder == "hear"
    again = open_suite(suite.place)
    (task,) = again.find(["animals"])
    settings = EvaluateConfig().settings(again, task)
    assert (settings.states, len(settings.points)) == ("concat", 16)
    with pytest.raises(ConfigError, match="states 'first'"):
        suites_of("hear", data_dir, hear={"states": "first"})


@pytest.mark.parametrize(
    "states, shape", [("last", (1, 5, 4)), ("mean", (1, 5, 4)), ("concat", (1, 5, 12)), ("weighted", (3, 5, 4))]
)
def test_embeddings_of_states(states, shape):
    x_LND = torch.randn(3, 5, 4)
    found = embedded(x_LND, states)
    assert found.shape == shape
    if states == "concat":
        torch.testing.assert_close(found[0, 2], torch.cat([x_LND[0, 2], x_LND[1, 2], x_LND[2, 2]]))
    if states == "mean":
        torch.testing.assert_close(found[0], x_LND.mean(dim=0))
    if states == "last":
        torch.testing.assert_close(found[0], x_LND[2])


def test_the_small_protocol_standardises_embeddings_on_training(data_dir, runs):
    """With the offsets of a filterbank the means that batch normalisation remembers lag behind."""
    suite = HearTasks(data_dir, "mini")
    (task,) = suite.find(["animals"])
    table = suite.table(task)
    store = FeatureStore(next((runs["exp_dir"] / "cache").glob("*-bf16")))
    for protocol, deviation in (("mini", 1.0), ("hear", None)):
        settings = settings_of(protocol, "hear", {"max_steps": 1})
        problem = task.problems(table, store, settings)[""]
        x_1ND = problem.make_bank() and problem._x["train"]
        if deviation:
            assert x_1ND.mean(dim=1).abs().max() < 1e-4
            assert x_1ND.std(dim=1, correction=0).median() == pytest.approx(deviation, abs=1e-3)
        else:
            assert x_1ND.mean() < -2


@pytest.mark.parametrize("width", [1, 2, 3, 8, 12, 13, 40])
def test_smoothing_is_the_median_filter_of_scipy(width):
    ndimage = pytest.importorskip("scipy.ndimage")
    probabilities_TC = np.random.default_rng(width).random((30, 3))
    expected = ndimage.median_filter(probabilities_TC, size=(width, 1)) > 0.5
    np.testing.assert_array_equal(smoothed(probabilities_TC > 0.5, width), expected)


def test_events_are_from_the_first_active_centre_to_the_last():
    centres_T = 0.01 + 0.02 * np.arange(50)
    probabilities_TC = np.zeros((50, 2))
    probabilities_TC[10:20, 0] = probabilities_TC[45:, 0] = probabilities_TC[5:8, 1] = 0.9
    found = events_of(probabilities_TC, centres_T, ["a", "b"], 0, 0)
    assert [name for name, _, _ in found] == ["b", "a", "a"]
    np.testing.assert_allclose([event[1:] for event in found], [[0.11, 0.15], [0.21, 0.39], [0.91, 0.99]])
    assert [e[0] for e in events_of(probabilities_TC, centres_T, ["a", "b"], 0, 80)] == ["a", "a"]
    assert [e[0] for e in events_of(probabilities_TC, centres_T, ["a", "b"], 0, 81)] == ["a"]
    assert [e[0] for e in events_of(probabilities_TC, centres_T, ["a", "b"], 150, 0)] == ["a", "a"]
    assert events_of(np.zeros((0, 2)), np.zeros(0), ["a", "b"], 150, 0) == []


def test_ways_to_make_events_that_no_recording_has_room_for_are_left_aside():
    given = {"median_filter_ms": [float("inf"), 1e300, float("nan"), -1, "x", 250], "min_duration": 1e9}
    assert _numbers(given, "median_filter_ms") == [250] and _numbers(given, "min_duration") == []


def test_a_frame_has_the_labels_that_are_on_at_its_centre_ends_included():
    centres_T = np.asarray([0.1, 0.2, 0.3, 0.4])
    found = frame_labels([["b", 0.2, 0.3], ["a", 0.35, 0.5]], centres_T, ["a", "b"])
    assert found.tolist() == [[0, 0], [0, 1], [0, 1], [1, 0]]


def test_events_are_matched_as_many_as_can_be():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    for _ in range(200):
        sides = []
        for _ in range(2):
            starts, lengths = 0.4 * rng.random(6), 0.3 * rng.random(6)
            sides.append([(str(rng.integers(2)), s, s + d) for s, d in zip(starts, lengths)])
        near = np.zeros((6, 6))
        for (i, one), (j, two) in itertools.product(*map(enumerate, sides)):
            allowed = max(0.05, 0.2 * (one[2] - one[1]))
            near[i, j] = one[0] == two[0] and abs(one[1] - two[1]) <= 0.05 and abs(one[2] - two[2]) <= allowed
        rows, columns = optimize.linear_sum_assignment(near, maximize=True)
        assert matching_events(*sides, 0.05) == near[rows, columns].sum()


def test_early_stopping_by_the_loss_where_the_metadata_say_so(data_dir, tmp_path):
    hear_corpus.make(tmp_path, each=2)
    path = tmp_path / "tasks" / "beeps-hear2021-full" / "task_metadata.json"
    metadata = json.loads(path.read_text()) | {"use_scoring_for_early_stopping": False}
    metadata["evaluation_params"]["task_specific_param_grid"] = {"max_epochs": [4], "check_val_every_n_epoch": [1]}
    path.write_text(json.dumps(metadata))
    config = EvaluateConfig(num_jobs=1, learning_rates=(3e-3,))
    (run,) = evaluate(HearTasks(tmp_path, "mini"), ["beeps"], ["fbank"], tmp_path / "exp", config)
    for head in run["grid"]:
        losses = [point["dev_loss"] for point in head["curve"]]
        assert len(losses) == 4 and head["best_step"] == head["curve"][losses.index(min(losses))]["step"]
