"""Suites share what is one question: the encoder's features and the score."""

import ast
import json
from pathlib import Path

import hear_corpus
import pytest
import yaml
from corpus import TASKS, TinyEncoder, make_corpus

import spear
from spear import fs
from spear.errors import ConfigError
from spear.evaluate import run
from spear.evaluate.hear.suite import HearTasks
from spear.evaluate.results import load_runs
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.suites import RecipeTasks, SuperbTasks, suites_of
from spear.evaluate.upstream import SpearUpstream

QUICK = EvaluateConfig(num_jobs=1, max_steps=20)
AS_SUPERB = {**TASKS[0], "superb": "KS"}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The corpus of tones, whose first tone is a task of the recipe and KS of SUPERB, and whose phones are PR."""
    data = make_corpus(tmp_path_factory.mktemp("both"), per_split=(20, 8, 8))
    tasks = [AS_SUPERB, TASKS[1], {**TASKS[2], "superb": "PR"}, TASKS[3]]
    (data / "manifests" / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    rows = []
    for cut in map(json.loads, (data / "manifests" / "cuts_heldout.jsonl").read_text().splitlines()):
        source = cut["recording"]["sources"][0]["source"]
        split = cut["custom"]["task_splits"]["tones"]
        rows.append({"id": cut["id"], "path": source, "split": split, "duration": cut["duration"], "speaker": "s"})
        rows[-1] |= {"KS": cut["custom"]["labels"]["first"], "PR": cut["custom"]["phones"]}
    for name in ("KS", "PR"):
        mine = [{**{k: v for k, v in row.items() if k not in ("KS", "PR")}, "target": row[name]} for row in rows]
        fs.write_jsonl(data / "superb" / f"{name}.jsonl", mine[::-1])  # the order of lines decides nothing
    return data


@pytest.fixture
def calls(monkeypatch):
    """Utterances that the encoder was given, and the units of work whose heads were trained."""
    seen = {"utterances": 0, "scored": []}

    class Counting(SpearUpstream):
        def extract(self, waves_BS, lengths_B):
            seen["utterances"] += int(waves_BS.any(dim=1).sum())  # silence is given to learn the frame rate
            return super().extract(waves_BS, lengths_B)

    score = run.score_unit.__wrapped__

    def counted(unit):
        seen["scored"].append(unit["name"])
        return score(unit)

    def counting(spec, *_):
        return Counting(TinyEncoder(), spec.partition("=")[0], "checkpoint")

    monkeypatch.setattr(run, "load_upstream", counting)
    monkeypatch.setattr(run, "score_unit", counted)
    return seen


def test_the_encoder_runs_once_for_an_utterance_whatever_the_number_of_suites(both, calls, tmp_path):
    runs = evaluate([RecipeTasks(both), SuperbTasks(both, "mini")], ["all"], ["tiny"], tmp_path, QUICK)
    assert len(runs) == 6 and calls["utterances"] == 36
    assert len(calls["scored"]) == 4  # what both ask is trained once


def test_the_encoder_runs_once_for_a_recording_over_mini_superb_and_hear(both, calls, tmp_path):
    suites = [RecipeTasks(both), SuperbTasks(both, "mini"), HearTasks(hear_corpus.make(tmp_path, each=1), "mini")]
    exp_dir, quick = tmp_path / "exp", EvaluateConfig(num_jobs=1, max_steps=2)
    runs = evaluate(suites, ["all"], ["tiny"], exp_dir, quick)
    hear = [
        name
        for path in (tmp_path / "tasks").glob("*/*.json")
        if path.stem != "task_metadata"
        for name in json.loads(path.read_text())
    ]
    assert len(runs) == 6 + 4 and len(hear) == 33
    assert calls["utterances"] == 36 + len(hear)
    assert len(evaluate(suites, ["all"], ["tiny"], exp_dir, quick)) == len(runs)
    assert calls["utterances"] == 36 + len(hear)


def test_an_equal_question_has_one_score_in_all_suites(both, calls, tmp_path):
    first = evaluate(RecipeTasks(both), ["all"], ["tiny"], tmp_path, QUICK)
    scored, utterances = len(calls["scored"]), calls["utterances"]
    assert scored == len(first) == 4
    second = evaluate(SuperbTasks(both, "mini"), ["all"], ["tiny"], tmp_path, QUICK)
    assert calls["utterances"] == utterances and len(calls["scored"]) == scored
    by_hash = {}
    for entry in load_runs(tmp_path):
        by_hash.setdefault(entry["inputs_sha256"], []).append(entry)
    names = sorted(sorted(f"{e['suite']}/{e['task']}" for e in same) for same in by_hash.values() if len(same) > 1)
    assert names == [["mini/first_tone", "superb-mini/KS"], ["mini/tones", "superb-mini/PR"]]
    assert all(len({entry["score"] for entry in same}) == 1 for same in by_hash.values())
    assert {entry["suite"] for entry in second} == {"superb-mini"} and {e["title"] for e in second} != {""}
    path = tmp_path / "evaluate/superb-mini/KS/tiny.json"
    assert fs.read_jsonl(path.with_name("tiny.predictions.jsonl"))


def test_an_encoder_under_another_name_takes_the_score_and_keeps_its_name(both, calls, tmp_path):
    evaluate(SuperbTasks(both, "mini"), ["KS"], ["tiny"], tmp_path, QUICK)
    (again,) = evaluate(SuperbTasks(both, "mini"), ["KS"], ["other=tiny"], tmp_path, QUICK)
    assert again["upstream"]["name"] == "other" and len(calls["scored"]) == 1
    names = {run["upstream"]["name"] for run in load_runs(tmp_path)}
    assert names == {"tiny", "other"}


def test_a_task_of_a_recipe_that_is_one_of_superb_has_its_level_of_audio(both):
    suites = RecipeTasks(both, "superb"), SuperbTasks(both)
    tasks = suites[0].find(["first_tone"])[0], suites[1].find(["KS"])[0]
    gains = [QUICK.settings(suite, task).gain_db for suite, task in zip(suites, tasks)]
    assert gains == [-3.0, -3.0]
    keys = [[row.key for row in s.table(t, None, -3.0).rows] for s, t in zip(suites, tasks)]
    assert keys[0] == keys[1] != [row.key for row in suites[0].table(tasks[0]).rows]


def test_protocols_lie_beside_one_another(both, calls, tmp_path):
    for protocol in ("mini", ""):
        evaluate(SuperbTasks(both, protocol), ["KS"], ["tiny"], tmp_path, QUICK)
    assert [path.parent.parent.name for path in sorted(tmp_path.glob("evaluate/*/*/tiny.json"))] == [
        "superb",
        "superb-mini",
    ]


def test_unknown_suites_and_superb_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="suite 'xares'"):
        suites_of("mini,xares", tmp_path)
    (tmp_path / "manifests").mkdir()
    for name in ("XX", "QbE", "PR"):  # none, one without training, one of another metric
        entry = {"tasks": [{**TASKS[0], "superb": name}]}
        (tmp_path / "manifests" / "tasks.yaml").write_text(yaml.safe_dump(entry))
        with pytest.raises(ConfigError, match=f"field superb: {name}"):
            RecipeTasks(tmp_path).find(["all"])


def test_there_is_one_class_of_tasks():
    found = [
        path.name
        for path in (Path(spear.__file__).parent / "evaluate").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Task"
    ]
    assert found == ["task.py"]
