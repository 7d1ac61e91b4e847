"""The tasks of SUPERB on tones: every task learns, numbers can be computed again, and bad input is never silent."""

import json

import numpy as np
import pytest
import superb_corpus
import torch
from corpus import TinyEncoder

from spear import fs
from spear.errors import ConfigError, DataError
from spear.evaluate.cache import FeatureCache, LiveStore, read_wave
from spear.evaluate.protocol import settings_of
from spear.evaluate.run import EvaluateConfig, _keep_readable, evaluate
from spear.evaluate.runs import rescore
from spear.evaluate.scoring import score_task
from spear.evaluate.suites import SuperbTasks
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.upstream import FbankUpstream, SpearUpstream

# (task, metric, a bar far from what an untrained head gives)
BARS = [
    ("KS", "accuracy", 0.5, True),
    ("SID", "accuracy", 0.6, True),
    ("IC", "accuracy", 0.15, True),
    ("ER", "accuracy", 0.7, True),
    ("PR", "per", 0.6, False),
    ("ASR", "wer", 0.5, False),
    ("SF", "slot_f1", 0.3, True),
    ("SF", "lenient_slot_f1", 0.8, True),
    ("QbE", "mtwv", 0.2, True),
    ("ASV", "eer", 0.3, False),
    ("SD", "der", 0.3, False),
    ("SS", "si_sdri", 3.0, True),
]

STEPS = {
    "KS SID IC ER QbE": EvaluateConfig(num_jobs=1, max_steps=100),
    "PR": EvaluateConfig(num_jobs=1, max_steps=100, learning_rates=(1e-2,)),
    "ASR SF": EvaluateConfig(num_jobs=1, max_steps=150, learning_rates=(1e-2,)),
    "SD ASV SS": EvaluateConfig(num_jobs=1, max_steps=50, learning_rates=(3e-3,)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return superb_corpus.make_superb_corpus(tmp_path_factory.mktemp("superb"))


@pytest.fixture(scope="module")
def scored(data, tmp_path_factory):
    """All tasks on the filterbank."""
    exp = tmp_path_factory.mktemp("exp")
    runs = []
    for tasks, config in STEPS.items():
        runs += evaluate(SuperbTasks(data, "mini"), tasks.split(), ["fbank"], exp, config, "the command")
    return exp, {run["task"]: run for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize("task, metric, bar, higher", BARS)
def test_every_task_learns(scored, task, metric, bar, higher):
    run = scored[1][task]
    score = run["scores"][metric]
    assert score > bar if higher else score < bar
    low, high = run["interval"]
    assert low <= run["score"] <= high


@pytest.mark.slow
def test_scores_can_be_computed_again_from_predictions_alone(scored):
    for path in sorted((scored[0] / "evaluate/superb-mini").glob("*/*.json")):
        run = fs.read_json(path)
        assert rescore(path) == pytest.approx(run["scores"], nan_ok=True)
        lines = (path.parent / run["predictions"]).read_text().splitlines()
        (path.parent / run["predictions"]).write_text("\n".join(lines[1:]) + "\n")
        with pytest.raises(DataError):
            rescore(path)
        (path.parent / run["predictions"]).write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_run_files_say_how_the_number_came_about(scored):
    for run in scored[1].values():
        assert run["command"] == "the command" and run["seeds"] and len(run["upstream"]["hash"]) == 64
        assert len(run["grid"]) >= len(run["settings"]["learning_rates"])
        assert run["num_items"]["test"] and run["protocol"] == "mini"
        assert all(np.isfinite(head["test_score"]) and "dev_score" in head for head in run["grid"])
    legacy = {task: run["legacy"]["rule"] for task, run in scored[1].items() if run["legacy"]}
    assert set(legacy) == {"KS", "ER", "ASV", "SD"}
    for task, count in (("ASV", 0), ("SD", 10)):  # chosen on test, the legacy number cannot be worse
        assert scored[1][task]["legacy"]["score"] <= scored[1][task]["score"]
        assert len(scored[1][task]["variants"]) == count
    assert len(scored[1]["ER"]["folds"]) == 3


@pytest.mark.slow
def test_a_second_run_keeps_what_has_not_changed(scored, data):
    exp, runs = scored
    before = {path: path.stat().st_mtime_ns for path in (exp / "evaluate/superb-mini").glob("*/*.json")}
    for tasks, config in STEPS.items():
        for run in evaluate(SuperbTasks(data, "mini"), tasks.split(), ["fbank"], exp, config):
            assert run["score"] == runs[run["task"]]["score"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def tiny():
    return SpearUpstream(TinyEncoder(), "tiny", "checkpoint")


def score(task, data, tmp_path, upstream=None, live=False, **changes):
    config = EvaluateConfig()
    table = read_table(data, task, TASKS[task].refuse)
    upstream = upstream or tiny()
    items = [row.item for row in table.rows]
    if live:
        store = LiveStore(upstream, items, config.cache())
    else:
        store = FeatureCache(tmp_path, upstream, config.cache())
        store.ensure(items, {row.key for row in table.rows})
    _keep_readable(table, TASKS[task], store, store.skipped)
    settings = settings_of("mini", task, {"max_steps": 15, "eval_every": 15, **changes})
    return score_task(TASKS[task], table, store, settings), table


@pytest.mark.parametrize("task", ["KS", "PR", "ASR", "SD"])
def test_cached_and_live_features_give_the_same_numbers(task, data, tmp_path):
    cached, _ = score(task, data, tmp_path, max_steps=3)
    live, _ = score(task, data, tmp_path, live=True, max_steps=3)
    assert cached["score"] == pytest.approx(live["score"], abs=1e-6)
    one, two = ([head["curve"][-1]["train_loss"] for head in found["grid"]] for found in (cached, live))
    np.testing.assert_allclose(one, two, rtol=1e-3)


@pytest.mark.parametrize("task", ["KS", "PR", "SF"])
def test_a_head_learns_the_same_alone_and_beside_others(task, data, tmp_path):
    """All learning rates train side by side: that must not change any of them."""
    together, _ = score(task, data, tmp_path, learning_rates=(1e-3, 1e-2), max_steps=6)
    for rate in (1e-3, 1e-2):
        alone, _ = score(task, data, tmp_path, learning_rates=(rate,), max_steps=6)
        beside = next(head for head in together["grid"] if head["learning_rate"] == rate)
        losses = [head["curve"][-1]["train_loss"] for head in (beside, alone["grid"][0])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_same_run_twice_gives_the_same_numbers(data, tmp_path):
    first, second = (score("SF", data, tmp_path / name)[0] for name in "ab")
    assert first["rows"] == second["rows"] and first["grid"] == second["grid"]


def rewritten(data, folder, task, change):
    """A copy of the manifest of a task with changed rows; audio stays where it is."""
    rows = [json.loads(line) for line in (data / "superb" / f"{task}.jsonl").read_text().splitlines()]
    changed = [change(dict(row)) for row in rows]
    for row in changed:
        row["path"] = str(data / row["path"])
    superb_corpus.write(folder, task, changed)
    return folder


def test_rows_without_a_label_or_recording_are_listed_with_the_reason(data, tmp_path):
    def change(row):
        if row["id"] == "train-00":
            row["target"] = ""
        if row["id"] == "test-01":
            row["path"] = "audio/absent.wav"
        return row

    _, table = score("SID", rewritten(data, tmp_path, "SID", change), tmp_path)
    assert {(row["id"], row["reason"]) for row in table.skipped} == {
        ("train-00", "no target"),
        ("test-01", "no file absent.wav"),
    }


def test_a_recording_that_cannot_be_read_is_listed(data, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF, but no more")

    def change(row):
        row["path"] = str(broken) if row["id"] == "dev-03" else row["path"]
        return row

    _, table = score("KS", rewritten(data, tmp_path, "KS", change), tmp_path)
    assert [row["id"] for row in table.skipped] == ["dev-03"] and table.skipped[0]["reason"]


def test_a_speaker_only_in_test_counts_as_wrong_and_is_named(data, tmp_path):
    def change(row):
        if row["split"] != "test" and row["target"] == "fay":
            row["target"] = "eve"
        return row

    found, _ = score("SID", rewritten(data, tmp_path, "SID", change), tmp_path)
    assert found["details"][""]["test_labels_unseen_in_training"] == ["fay"]
    fay = [row for row in found["rows"] if row["reference"] == ["fay"]]
    assert fay and all(hypothesis != ["fay"] for row in fay for hypothesis in row["hypotheses"])
    assert np.isfinite(found["score"])


def test_an_empty_reference_has_a_defined_score(data, tmp_path):
    def change(row):
        row["target"] = "" if row["id"] in ("test-00", "train-05") else row["target"]
        return row

    found, table = score("ASR", rewritten(data, tmp_path, "ASR", change), tmp_path)
    assert np.isfinite(found["score"]) and len(found["rows"]) == 18
    assert table.skipped == [{"id": "train-05", "split": "train", "reason": "empty text"}]


@pytest.mark.parametrize("task", ["KS", "ASR", "ASV", "SD"])
def test_an_utterance_shorter_than_one_frame_has_one(task, data, tmp_path):
    from spear.audio import save_audio

    save_audio(tmp_path / "short.wav", np.full(40, 0.1, dtype=np.float32), 16000)

    def change(row):
        if row["id"] in ("test-00", "dialogue-test-0"):
            row |= {"path": str(tmp_path / "short.wav"), "duration": 40 / 16000}
            if task == "SD":
                row["target"] = [["ann", 0.0, 0.002]]
        return row

    folder = rewritten(data, tmp_path, task, change)
    if task == "ASV":
        trials = [json.loads(line) for line in (data / "superb/ASV_trials.jsonl").read_text().splitlines()]
        superb_corpus.write(folder, "ASV_trials", trials)
    found, table = score(task, folder, tmp_path)
    assert np.isfinite(found["score"]) and not table.skipped


@pytest.mark.parametrize("live", [False, True])
def test_without_durations_the_frame_rate_is_that_of_the_upstream(data, tmp_path, live):
    def change(row):
        del row["duration"]
        return row

    table = read_table(rewritten(data, tmp_path, "SD", change), "SD", TASKS["SD"].refuse)
    keyed = {row.key: row.item for row in table.rows}
    store = LiveStore(FbankUpstream(), keyed) if live else FeatureCache(tmp_path, FbankUpstream())
    if not live:
        store.ensure(keyed, set(keyed))
    (problem,) = TASKS["SD"].problems(table, store, settings_of("mini", "SD", {})).values()
    assert problem.frame_rate_hz == 100
    row = table.of("train")[0]
    ends = np.flatnonzero(problem._labels("train", 0).any(axis=1))[-1] / 100
    assert ends == pytest.approx(max(end for _, _, end in row.target), abs=0.02)


def test_a_stride_that_contradicts_the_frames_is_refused(data, tmp_path):
    upstream = tiny()
    upstream.stride_samples = 640
    with pytest.raises(DataError, match="(?s)frames a second.*25, as the upstream's stride says"):
        score("SD", data, tmp_path, upstream)


def test_one_recording_without_finite_features_is_listed_and_the_others_are_scored(data, tmp_path, monkeypatch):
    upstream, extract = tiny(), SpearUpstream.extract
    row = read_table(data, "KS", TASKS["KS"].refuse).of("test")[2]
    wave = read_wave(row.item, 16000)

    def breaking(self, waves_BS, lengths_B):
        states, lens_B = extract(self, waves_BS, lengths_B)
        for number, wave_S in enumerate(waves_BS):
            if np.array_equal(wave_S[: len(wave)].numpy(), wave):
                states[0][number, 1] = float("nan")
        return states, lens_B

    monkeypatch.setattr(SpearUpstream, "extract", breaking)
    for live in (False, True):
        found, table = score("KS", data, tmp_path, upstream, live)
        assert [(r["id"], r["split"]) for r in table.skipped] == [(row.id, "test")]
        assert "not all finite" in table.skipped[0]["reason"] and np.isfinite(found["score"])


def test_features_that_are_not_numbers_are_refused(data, tmp_path):
    encoder = TinyEncoder()
    with torch.no_grad():
        encoder.layers[1].bias[0] = float("nan")
    with pytest.raises(DataError, match="not all finite"):
        score("KS", data, tmp_path, SpearUpstream(encoder, "broken", "checkpoint"))


def test_a_split_without_rows_is_refused_with_the_reasons(data, tmp_path):
    def change(row):
        row["target"] = None if row["split"] == "dev" else row["target"]
        return row

    with pytest.raises(DataError, match="no usable dev row of KS"):
        score("KS", rewritten(data, tmp_path, "KS", change), tmp_path)


def test_malformed_manifests_name_the_line(data, tmp_path):
    superb_corpus.write(tmp_path, "KS", [{"id": "a", "path": "a.wav", "split": "valid", "target": "x"}])
    with pytest.raises(DataError, match="line 1 .*field split: 'valid'"):
        read_table(tmp_path, "KS", TASKS["KS"].refuse)
    with pytest.raises(DataError, match="no file"):
        read_table(tmp_path, "IC", TASKS["IC"].refuse)


def test_unknown_tasks_and_protocols_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="task 'TTS'"):
        evaluate(SuperbTasks(data), ["TTS"], ["fbank"], tmp_path)
    with pytest.raises(ConfigError, match="protocol 'large'"):
        evaluate(SuperbTasks(data, "large"), ["KS"], ["fbank"], tmp_path)
