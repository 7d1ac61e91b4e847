"""Tags, numbers, retrieval and events as tasks: on a corpus of tones, from recordings to a table."""

import json
from pathlib import Path

import corpus
import numpy as np
import pytest
import superb_corpus
import torch
import yaml

from spear import fs
from spear.audio import save_audio
from spear.bin.evaluate import main
from spear.errors import ConfigError, DataError
from spear.evaluate.cache import CacheConfig, FeatureCache, FeatureStore
from spear.evaluate.corpora.synthetic import scenes_of
from spear.evaluate.metrics import score_rows
from spear.evaluate.protocol import settings_of
from spear.evaluate.runs import rescore
from spear.evaluate.scoring import score_task
from spear.evaluate.suites import RecipeTasks, SuperbTasks
from spear.evaluate.table import Row, Table
from spear.evaluate.tasks.events import EventDetection
from spear.evaluate.tasks.regression import NumberTask, number_of
from spear.evaluate.tasks.retrieval import RetrievalTask
from spear.evaluate.tasks.tags import TagTask, tags_of
from spear.evaluate.upstream import FbankUpstream
from spear.manifest import Item
from spear.manifest.tasks import read_task_specs

KINDS = [
    {"name": "tags", "head": "tags", "target": "label:first,label:last", "metric": "map", "optional": True},
    {"name": "hertz", "head": "regress", "target": "label:hertz", "metric": "pearson", "optional": True},
    {"name": "same", "head": "retrieve", "target": "label:first", "metric": "map_at_r", "optional": True},
]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """The corpus of tones with optional tasks of all kinds."""
    folder = corpus.make_corpus(tmp_path_factory.mktemp("kinds"), (24, 8, 8))
    (folder / "manifests/tasks.yaml").write_text(yaml.safe_dump({"tasks": [corpus.TASKS[0], *KINDS]}))
    path = folder / "manifests/cuts_heldout.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        labels, splits = line["custom"]["labels"], line["custom"]["task_splits"]
        labels["hertz"] = str(corpus.TONES_HZ[labels["first"]])
        splits |= dict.fromkeys((task["name"] for task in KINDS), splits["first_tone"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_every_kind_gives_a_score_and_a_table(tones, tmp_path, capsys):
    words = ["--tasks", "tags,hertz,same", "--max-steps", "60", "--learning-rates", "1e-2", "--num-jobs", "1"]
    assert main(["--data-dir", str(tones), "--exp-dir", str(tmp_path), "--upstream", "fbank", *words]) == 0
    out = capsys.readouterr().out
    assert "map %" in out and "pearson (higher is better)" in out and "mae (for information)" in out
    runs = {path.parent.name: path for path in (tmp_path / "evaluate/mini").glob("*/fbank.json")}
    assert set(runs) == {"tags", "hertz", "same"}
    for name, least in (("tags", 0.8), ("hertz", 0.7), ("same", 0.6)):
        run = fs.read_json(runs[name])
        assert run["score"] > least, name
        assert rescore(runs[name]) == pytest.approx(run["scores"])
    assert fs.read_json(runs["tags"])["details"][""]["clips"] == {"train": 24, "dev": 8, "test": 8}
    assert fs.read_json(runs["same"])["steps"] == 0 and "layer" in fs.read_json(runs["same"])["variant"]


def test_optional_tasks_are_scored_when_they_are_named_and_only_then(tones):
    suite = RecipeTasks(tones)
    assert [task.name for task in suite.find(["all"])] == ["first_tone"]
    assert [task.name for task in suite.find(["every"])] == ["first_tone"]
    assert [task.name for task in suite.find(["same", "all"])] == ["same", "first_tone"]


def test_a_metric_of_another_kind_is_refused(tones, tmp_path):
    (tmp_path / "manifests").mkdir()
    entry = {**KINDS[1], "metric": "map"}
    (tmp_path / "manifests/tasks.yaml").write_text(yaml.safe_dump({"tasks": [entry]}))
    with pytest.raises(ConfigError, match="field metric: map") as caught:
        RecipeTasks(tmp_path).find(["all"])
    assert "pearson or r2 or mae" in caught.value.expected


def test_the_recipe_states_a_user_of_each_kind():
    conf = Path(__file__).resolve().parents[3] / "egs/mini/spear/conf"
    specs = read_task_specs(conf / "tasks_synthetic.yaml")
    assert {spec.head for spec in specs if spec.optional} == {"tags", "regress", "retrieve"}


@pytest.mark.parametrize(
    ("target", "tags"),
    [
        ("a|b", ["a", "b"]),
        ("b; a ;a", ["a", "b"]),
        (["x", "y"], ["x", "y"]),
        ({"one": "a|b", "two": "c"}, ["a", "b", "c"]),
        (7, ["7"]),
    ],
)
def test_labels_of_a_target(target, tags):
    assert tags_of(target) == tags and TagTask("t", "").refuse(target) is None


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("C#4", 61.0),
        ("A4", 69.0),
        ("Bb3", 58.0),
        ("C-1", 0.0),
        ("3.5", 3.5),
        (2, 2.0),
        ("1e99", None),
        ("nan", None),
        ("loud", None),
    ],
)
def test_numbers_and_notes(target, number):
    assert number_of(target) == number
    assert (NumberTask("n", "").refuse(target) is None) == (number is not None)


def test_no_target_is_told_as_such():
    for task in (TagTask("t", ""), NumberTask("n", ""), RetrievalTask("r", "")):
        assert task.refuse("") == task.refuse(None) == "no target"
    assert TagTask("t", "").refuse(" | ") == "no target"


class Means:
    """A store of given time means (one layer for each of the last axis)."""

    def __init__(self, values):
        self.values = {key: torch.tensor(value, dtype=torch.float32) for key, value in values.items()}

    def means(self, keys):
        """(L, N, D)."""
        return torch.stack([self.values[key] for key in keys], dim=1)


def row(name, target, group=""):
    return Row(name, "test", None, target, name, {"group": group} if group else {})


def test_neighbours_are_labels_of_the_r_nearest_and_never_of_the_query_s_group():
    # One layer: a1 and a2 point the same way, and b lies beside a2; "twin" is a second take of a1 and does not count.
    store = Means({"a1": [[1.0, 0.0]], "a2": [[0.7, 0.7]], "b": [[0.6, 0.8]], "twin": [[1.0, 0.01]]})
    rows = [row("a1", "a", "take"), row("a2", "a"), row("b", "b"), row("twin", "a", "take")]
    splits = {name: rows for name in ("train", "dev", "test")}
    task = RetrievalTask("same", "")
    problem = task.problem(splits, Table(rows, []), store, settings_of("superb", "retrieval"))
    ((found,), _) = problem.predict(None, "test")
    # a1 has one other of its label, a2 two (a1 and twin), twin one; b none.
    assert found["layer 0"] == [["a"], ["b", "a"], [], ["a"]]
    predictions = [{**r, "hypotheses": [h]} for r, h in zip(problem.rows("test"), found["layer 0"])]
    assert score_rows("map_at_r", predictions) == pytest.approx((1 + 1 / 4 + 1) / 3)
    assert score_rows("recall_at_1", predictions) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("task", "train", "test", "said"),
    [
        (TagTask("t", ""), "x|y", "X", "1 labels of test were never in training, such as 'X', and do not count"),
        (NumberTask("n", ""), "1", "2", "every training item has the label '1'"),
    ],
)
def test_what_cannot_be_learnt_is_told(task, train, test, said):
    item = Item("a", Path("/nowhere/a.wav"), 0.0, 1.0, 16000, "speech", "speech")
    rows = [Row(f"{s}{n}", s, item, t, "", {}) for s, t in (("train", train), ("test", test)) for n in range(2)]
    assert any(said in doubt for doubt in task.doubts(Table(rows, [])))


# Events ---------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Recordings of 3 s of silence with two tones that begin somewhere: `superb/SED.jsonl`."""
    folder, rng, rows = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0), []
    for split, count in (("train", 24), ("dev", 8), ("test", 8)):
        for number in range(count):
            wave, target = 0.01 * rng.standard_normal(48000), []
            for start in (rng.uniform(0.1, 0.6), rng.uniform(1.4, 1.9)):
                name = ("low", "high")[int(rng.integers(2))]
                times = np.arange(11200) / 16000
                begin = int(start * 16000)
                wave[begin : begin + 11200] += 0.3 * np.sin(2 * np.pi * {"low": 400, "high": 1700}[name] * times)
                target.append([name, round(start, 3), round(start + 0.7, 3)])
            save_audio(folder / f"{split}{number}.wav", wave.astype(np.float32), 16000)
            rows.append(
                {
                    "id": f"{split}{number}",
                    "path": f"{split}{number}.wav",
                    "split": split,
                    "duration": 3.0,
                    "target": target,
                }
            )
    superb_corpus.write(folder, "SED", rows)
    return folder


def test_events_are_found_where_they_begin(scenes, tmp_path):
    suite = SuperbTasks(scenes, "mini")
    (task,) = suite.find(["SED"])
    table = suite.table(task)
    cache = FeatureCache(tmp_path, FbankUpstream(), CacheConfig())
    items = {row.key: row.item for row in table.rows}
    cache.ensure(items, set(items))
    settings = settings_of("mini", "SED", {"max_steps": 120, "learning_rates": (3e-2,), "eval_every": 120})
    found = score_task(task, table, FeatureStore(cache.directory), settings)
    assert found["score"] > 0.85 and found["extra_scores"]["segment_er"] < 0.3
    assert found["variant"].startswith("threshold") and found["details"][""]["classes"] == ["high", "low"]


def test_events_are_no_task_of_the_boards(scenes):
    with pytest.raises(DataError, match="no manifest"):
        SuperbTasks(scenes).find(["all"])
    task = EventDetection()
    assert task.refuse([["dog", 2.0, 1.0]]) and task.refuse("dog") and task.refuse([]) is None


def test_scenes_take_sounds_of_one_split():
    events = [
        {"split": split, "path": f"{split}{n}.flac", "labels": {"class": f"c{n % 3}"}}
        for split in ("train", "dev", "test")
        for n in range(6)
    ]
    units = scenes_of(events, 1)
    assert {unit["split"] for unit in units} == {"train", "dev", "test"} and units == scenes_of(events, 1)
    assert all(path.startswith(unit["split"]) for unit in units for _, path in unit["turns"])
    assert len({unit["name"] for unit in units}) == len(units) and scenes_of(events[:2], 1) == []
