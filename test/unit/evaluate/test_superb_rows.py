"""Rows and trials of every form that people write: what can be used is, and what cannot is listed with the reason."""

import json

import numpy as np
import pytest
import superb_corpus
import torch

from spear.errors import DataError
from spear.evaluate.cache import FeatureCache
from spear.evaluate.protocol import settings_of
from spear.evaluate.run import score_task
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.upstream import FbankUpstream


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return superb_corpus.make_superb_corpus(tmp_path_factory.mktemp("superb"), (20, 8, 8))


def rewritten(data, folder, task, change=lambda row: row, change_trial=lambda trial: trial):
    """The table of a copy of a manifest with changed rows; audio stays where it is."""
    rows = [change(json.loads(line)) for line in (data / "superb" / f"{task}.jsonl").read_text().splitlines()]
    superb_corpus.write(folder, task, [{**row, "path": str(data / row["path"])} for row in rows])
    if task == "ASV":
        lines = (data / "superb" / "ASV_trials.jsonl").read_text().splitlines()
        superb_corpus.write(folder, "ASV_trials", [change_trial(json.loads(line)) for line in lines])
    return read_table(folder, task, TASKS[task].refuse)


def problem_of(task, table, folder):
    store = FeatureCache(folder / "cache", FbankUpstream())
    store.ensure([row.item for row in table.rows], {row.key for row in table.rows})
    (problem,) = TASKS[task].problems(table, store, settings_of("mini", task, {"max_steps": 2})).values()
    return problem, store


def test_intents_are_matched_by_the_names_of_their_slots(data, tmp_path):
    def change(row):
        target = row["target"]
        if row["id"] == "train-00":
            del target["last"]
        elif row["id"] == "test-00":
            target["middle"] = target.pop("last")
        elif row["split"] == "test":
            row["target"] = dict(reversed(target.items()))
        return row

    table = rewritten(data, tmp_path, "IC", change)
    problem, _ = problem_of("IC", table, tmp_path)
    assert {(row["id"], row["reason"]) for row in table.skipped} == {
        ("train-00", "slots first, not first, last"),
        ("test-00", "slots first, middle, not first, last"),
    }
    written = {row.id: row.target for row in table.of("test")}
    assert all(r["reference"] == [written[r["id"]][slot] for slot in ("first", "last")] for r in problem.rows("test"))
    assert len(problem.rows("test")) == 7


@pytest.mark.parametrize("yes, no", [("1", "0"), (1, 0), ("true", "False"), (True, False)])
def test_trials_of_the_same_speaker_are_understood_as_lists_write_them(data, tmp_path, yes, no):
    plain = rewritten(data, tmp_path, "ASV").trials
    table = rewritten(data, tmp_path, "ASV", change_trial=lambda trial: {**trial, "same": yes if trial["same"] else no})
    assert table.trials == plain and {trial["same"] for trial in table.trials} == {True, False}
    assert not table.skipped


def test_trials_that_cannot_be_scored_are_listed_and_the_others_are_scored(data, tmp_path):
    def change(trial):
        if trial["split"] == "test" and trial["first"] == "test-00":
            changes = {"test-01": {"same": "maybe"}, "test-02": {"first": "train-00"}, "test-03": {"first": "nobody"}}
            return {**trial, **changes.get(trial["second"], {})}
        return trial

    table = rewritten(data, tmp_path, "ASV", change_trial=change)
    assert [(row["id"], row["reason"]) for row in table.skipped] == [
        ("test-00 test-01", "same: 'maybe', not true or false"),
        ("train-00 test-02", "trial of train-00, which is in train"),
        ("nobody test-03", "trial without nobody"),
    ]
    problem, store = problem_of("ASV", table, tmp_path)
    assert len(problem.rows("test")) == 28 - 3
    settings = settings_of("mini", "ASV", {"max_steps": 2, "eval_every": 2})
    assert np.isfinite(score_task(TASKS["ASV"], table, store, settings)["score"])


def test_speakers_may_be_numbers_and_names(data, tmp_path):
    def change(row):
        row["target"] = 7 if row["target"] == "ann" else row["target"]
        return row

    problem, _ = problem_of("ASV", rewritten(data, tmp_path, "ASV", change), tmp_path)
    assert problem.details["num_speakers"] == 6


def test_phones_written_as_a_text_are_phones_and_not_letters(data, tmp_path):
    def change(row):
        row["target"] = " ".join(phone + "AH0" for phone in row["target"]) if row["id"] != "train-03" else " "
        return row

    table = rewritten(data, tmp_path, "PR", change)
    problem, _ = problem_of("PR", table, tmp_path)
    assert problem.symbols.names == ["DAH0", "FAH0", "MAH0", "RAH0", "</s>"]
    assert all(isinstance(row["reference"], list) for row in problem.rows("test"))
    assert table.skipped == [{"id": "train-03", "split": "train", "reason": "no target"}]


def test_queries_and_documents_without_a_known_role_are_listed(data, tmp_path):
    def change(row):
        if row["id"] == "query-dev-do":
            row["role"] = "qeury"
        elif row["id"] == "query-dev-re":
            del row["role"]
        elif row["id"] == "query-test-mi":
            row["target"] = ["mi"]
        elif row["id"] == "query-test-re":
            row["among"] = [560, 0]
        elif row["id"] == "query-test-fa":
            row["among"] = [560, 12492]
        elif row["role"] == "document":
            row["target"] = " ".join(f"{word}x" if word == "do" else word for word in row["target"])
        return row

    table = rewritten(data, tmp_path, "QbE", change)
    problem, _ = problem_of("QbE", table, tmp_path)
    assert {(row["id"], row["reason"]) for row in table.skipped} == {
        ("query-dev-do", "role 'qeury', not query or document"),
        ("query-dev-re", "no role"),
        ("query-test-mi", "a query whose term is a list"),
        ("query-test-re", "among 560, 0: not [queries, documents]"),
    }
    assert problem.details["num_queries"] == {"dev": 2, "test": 2}
    assert [row.get("among") for row in problem.rows("test")] == [None, [560, 12492]]
    found = {row["id"]: row["reference"] for row in problem.rows("test")}
    assert not found["query-test-do"] and found["query-test-fa"]  # a part of a word is no term


def test_a_row_without_a_session_is_listed(data, tmp_path):
    def change(row):
        if row["id"] == "dev-01":
            del row["session"]
        return row

    table = rewritten(data, tmp_path, "ER", change)
    folds = TASKS["ER"].folds(table)
    assert table.skipped == [{"id": "dev-01", "split": "all", "reason": "no session"}] and len(folds) == 3


class Huge:
    """A store whose means have squares that no float holds: every gradient is infinite."""

    def means(self, keys):
        return torch.full((1, len(keys), 4), 1e30)


def test_heads_that_never_trained_are_no_score(data, tmp_path):
    table = rewritten(data, tmp_path, "SID")
    settings = settings_of("superb", "SID", {"max_steps": 3})
    with pytest.raises(DataError, match="no head took a step, the gradients of all 3 were not finite"):
        score_task(TASKS["SID"], table, Huge(), settings)
