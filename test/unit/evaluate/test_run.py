"""`spear evaluate` from prepared data to tables and report."""

import json
import re

import numpy as np
import pytest
import yaml
from corpus import TASKS, TinyEncoder, make_corpus

from spear import fs
from spear.bin import evaluate as command
from spear.errors import CheckpointError, ConfigError, DataError
from spear.evaluate import ablation, results, run
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.runs import rescore
from spear.evaluate.suites import RecipeTasks
from spear.evaluate.upstream import FbankUpstream, SpearUpstream
from spear.shards import ShardWriter

CONFIG = EvaluateConfig(num_jobs=1, max_steps=60)


def fake_upstream(spec, device="cpu", seed=0):
    """`tiny` and `untrained` are tiny encoders of two seeds; the filterbank is real."""
    name, _, kind = spec.rpartition("=")
    if kind == "fbank":
        return FbankUpstream()
    seeds = {"tiny": 0, "untrained": 1}
    return SpearUpstream(TinyEncoder(seeds[kind]), name or kind, "random" if kind == "untrained" else "checkpoint")


@pytest.fixture(autouse=True)
def fake_upstreams(monkeypatch):
    monkeypatch.setattr(run, "load_upstream", fake_upstream)


@pytest.fixture(scope="module")
def scored(data_dir, tmp_path_factory):
    """All four tasks with three upstreams."""
    exp_dir = tmp_path_factory.mktemp("exp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load_upstream", fake_upstream)
        runs = evaluate(
            RecipeTasks(data_dir), ["all"], ["tiny", "untrained", "fbank"], exp_dir, CONFIG, "spear evaluate"
        )
    return exp_dir, runs


def test_every_task_is_scored_for_every_upstream_above_chance(scored):
    exp_dir, runs = scored
    assert [(r["task"], r["upstream"]["name"]) for r in runs[:3]] == [
        ("first_tone", "tiny"),
        ("first_tone", "untrained"),
        ("first_tone", "fbank"),
    ]
    assert len(runs) == 12 and {r["num_items"]["test"] for r in runs} == {12}
    by_task = results.index_runs(runs)
    assert by_task["first_tone", "fbank"]["score"] > 0.4
    assert by_task["tones", "fbank"]["score"] < 0.8


def test_scores_can_be_computed_again_from_predictions(scored):
    exp_dir, runs = scored
    for path in exp_dir.glob("evaluate/*/*/*.json"):
        assert rescore(path) == pytest.approx(fs.read_json(path)["scores"], abs=1e-12)


def test_run_file_says_how_the_number_came_about(scored):
    _, runs = scored
    for entry in runs:
        keys = "grid seeds layer_weights skipped command commit hardware seconds inputs_sha256 learning_rate".split()
        assert all(key in entry for key in keys)
        assert len(entry["upstream"]["hash"]) == 64 and entry["command"] == "spear evaluate"
        assert len(entry["grid"]) == len(entry["settings"]["learning_rates"]) * len(entry["seeds"])
        assert all({"dev_score", "test_score", "curve", "layer_weights"} <= set(row) for row in entry["grid"])
        assert sum(entry["layer_weights"]) == pytest.approx(1, abs=1e-3)


def test_what_a_killed_run_left_is_no_score(tmp_path):
    with fs.atomic(tmp_path / "evaluate/mini/tones/spear.json") as temporary:
        temporary.write_text("{")
        assert results.load_runs(tmp_path) == []


def test_small_dev_sets_select_by_folds_and_the_run_file_says_so(scored):
    _, runs = scored
    assert all(run["num_items"]["dev"] < 30 for run in runs)
    selected = {run["task"]: run.get("selected_on") for run in runs}
    of_frames = {"tones", "spelling"}
    assert {selected[task] for task in selected if task not in of_frames} == {"5 folds of train and dev"}
    assert of_frames and {selected[task] for task in of_frames} == {"dev"}


def test_unchanged_inputs_are_reused_and_changed_ones_are_not(scored, data_dir):
    exp_dir, runs = scored
    path = exp_dir / "evaluate/mini/ends/tiny.json"
    before = path.stat().st_mtime_ns
    assert (
        evaluate(RecipeTasks(data_dir), ["ends"], ["tiny"], exp_dir, CONFIG)[0]["score"] == fs.read_json(path)["score"]
    )
    assert path.stat().st_mtime_ns == before
    path.with_name("tiny.predictions.jsonl").write_text("")
    evaluate(RecipeTasks(data_dir), ["ends"], ["tiny"], exp_dir, CONFIG, "spear evaluate")
    assert path.stat().st_mtime_ns != before  # predictions that do not give the score are made again
    shorter = EvaluateConfig(num_jobs=1, max_steps=40)
    assert evaluate(RecipeTasks(data_dir), ["ends"], ["tiny"], exp_dir / "other", shorter)[0]["steps"] <= 40


def test_same_seed_gives_the_same_number(scored, data_dir, tmp_path):
    _, runs = scored
    again = evaluate(RecipeTasks(data_dir), ["first_tone", "tones"], ["tiny"], tmp_path, CONFIG)
    first = results.index_runs(runs)
    assert [r["score"] for r in again] == [first[t, "tiny"]["score"] for t in ("first_tone", "tones")]


def test_missing_labels_unreadable_audio_and_empty_splits(tmp_path):
    data = make_corpus(tmp_path / "data", per_split=(8, 3, 3))
    path = data / "manifests" / "cuts_heldout.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[0]["custom"]["labels"]["first"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (data / "raw" / "test-1.flac").write_bytes(b"")
    (entry,) = evaluate(RecipeTasks(data), ["first_tone"], ["tiny"], tmp_path / "exp", CONFIG)
    assert {row["id"] for row in entry["skipped"]} == {"train-0", "test-1"}
    assert entry["num_items"] == {"train": 7, "dev": 3, "test": 2}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if not line["id"].startswith("dev")))
    (task,) = RecipeTasks(data).find(["ends"])
    with pytest.raises(DataError, match="task ends has no dev item"):
        RecipeTasks(data).table(task)


def test_unknown_tasks_and_equal_names_are_refused(data_dir, tmp_path):
    with pytest.raises(ConfigError, match="first_tone, ends, tones, spelling"):
        evaluate(RecipeTasks(data_dir), ["tone"], ["tiny"], tmp_path, CONFIG)
    with pytest.raises(ConfigError, match="different names"):
        evaluate(RecipeTasks(data_dir), ["ends"], ["tiny", "tiny"], tmp_path, CONFIG)


def test_tasks_of_the_ablation_are_left_out_of_all(tmp_path):
    (tmp_path / "manifests").mkdir()
    tasks = [TASKS[0], {**TASKS[1], "ablation": True}]
    (tmp_path / "manifests" / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    assert [task.name for task in RecipeTasks(tmp_path).find(["all"])] == ["first_tone"]
    assert [task.name for task in RecipeTasks(tmp_path).find(["all", "ends"])] == ["first_tone", "ends"]
    (tmp_path / "manifests" / "tasks.yaml").write_text(yaml.safe_dump({"tasks": [{"name": "x", "head": "clasify"}]}))
    with pytest.raises(ConfigError, match="task x"):
        RecipeTasks(tmp_path).find(["all"])


def test_commands_print_the_table_and_write_report_and_results(scored, data_dir, tmp_path, capsys):
    exp_dir, _ = scored
    where = ["--data-dir", str(data_dir), "--exp-dir", str(exp_dir)]
    flags = ["--upstream", "tiny", "--upstream", "fbank", "--num-jobs", "1", "--max-steps", "60", *where]
    assert command.main(["--tasks", "first_tone", *flags]) == 0
    shown = capsys.readouterr().out
    assert "first_tone" in shown and "tiny beats fbank on" in shown and " *" in shown
    assert command.recipe("ends", str(tmp_path / "decode_ends.py"), argv=flags) == 0
    assert "ends" in capsys.readouterr().out
    results_path = tmp_path / "RESULTS.md"
    results_path.write_text("# Results\n\nBy hand.\n")
    arguments = [*where, "--output", str(tmp_path / "r.html"), "--results", str(results_path), "--section", "tones"]
    for _ in range(2):  # the second time replaces the section
        assert command.main(["report", *arguments]) == 0
    text = results_path.read_text()
    assert text.count("<!-- results: tones -->") == 1 and "By hand." in text and "commit `" in text
    runs = results.load_runs(exp_dir)
    assert results.results_markdown(runs, "Frozen encoders", "".join(results.protocol_lines(runs))) in text


def test_default_upstreams_are_the_student_its_twin_and_fbank(tmp_path):
    with pytest.raises(CheckpointError, match="student"):
        command.default_upstreams(tmp_path)
    (tmp_path / "student").mkdir()
    specs = command.default_upstreams(tmp_path)
    assert specs == [f"spear={tmp_path / 'student'}", f"random:{tmp_path / 'student'}", "fbank"]


def test_ablation_table_has_mean_and_deviation_over_training_seeds(data_dir, tmp_path):
    groups = {"joint": {1: "tiny", 2: "untrained"}, "disjoint": {1: "tiny"}}
    runs = ablation.evaluate_checkpoints(groups, data_dir, tmp_path, ["first_tone"], CONFIG)
    scores = [r["score"] for r in runs if r["variant"] == "joint"]
    table = ablation.ablation_table(runs)
    assert f"{100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}" in table
    assert "| task | metric | joint | disjoint |" in table and "seeds 1, 2" in table
    decibels = [{**r, "metric": "si_sdri", "score": 7.25 if r["variant"] == "joint" else 3.5} for r in runs]
    table = ablation.ablation_table(decibels)
    assert "| first_tone | si_sdri dB | **7.2 ± 0.0** | 3.5 |" in table


def test_ablation_table_has_differences_by_seed_and_what_trainings_cost(tmp_path):
    scores = {"base": (0.50, 0.60), "other": (0.53, 0.61)}
    runs = [
        {"variant": variant, "training_seed": seed, "task": "words", "metric": "accuracy", "score": score}
        for variant, pair in scores.items()
        for seed, score in enumerate(pair)
    ]
    for variant, factor in (("base", 1), ("other", 2)):
        for seed in (0, 1):
            rows = [{"step": 1, "seconds": 36.0}, {"step": 1, "valid/loss/a/masked": 3.0}, {"step": 2, "seconds": 72.0}]
            rows += [{"step": 3, "seconds": 18.0}]  # resumed: the clock began again
            rows += [
                {"step": 4, "seconds": 36.0, "audio_hours": 0.5, "model_flops": factor * 2e12, "target_flops": 0.0}
            ]
            (tmp_path / f"{variant}{seed}").mkdir()
            fs.write_jsonl(tmp_path / f"{variant}{seed}" / "metrics.jsonl", rows)
    groups = {variant: {seed: tmp_path / f"{variant}{seed}" for seed in (0, 1)} for variant in scores}
    table = ablation.ablation_table(runs, ablation.training_costs(groups))
    assert "| audio trained on | h, padding included | 0.500 | 0.500 |" in table
    assert "| compute of encoder and heads | forward and backward | 2 TFLOP | 4 TFLOP |" in table
    assert "of targets" not in table  # nobody computed any
    assert "| training time | h | 0.030 | 0.030 |" in table
    # Differences of 3 and 1 points: mean 2, deviation sqrt(2), t for one degree of freedom 12.706.
    assert "| less base | other |" in table and "| words | +2.0 [-10.7, +14.7] |" in table


def fill_training_and_tokens(data_dir, exp_dir):
    """A training log and tokens as the other commands write them."""
    (exp_dir / "student").mkdir(parents=True, exist_ok=True)
    with open(exp_dir / "student" / "metrics.jsonl", "w") as handle:
        for step in range(0, 1000, 10):
            row = {"step": step, "epoch": 0, "seconds": step / 5, "lr": 0.04, "grad_norm": 1.0, "data_wait_share": 0.01}
            for stream in ("speech", "audio"):
                for part, base in (("masked", 5.5), ("unmasked", 5.0)):
                    row[f"loss/{stream}/{part}"] = base - step / 500
                    row[f"accuracy/{stream}/{part}"] = step / 2000
            handle.write(json.dumps(row) + "\n")
        handle.write('{"step": 10')  # killed while writing
    with ShardWriter(data_dir / "tokens" / "speech", "part", np.uint8, 4) as writer:
        writer.add("x", np.random.default_rng(0).integers(0, 256, (500, 4)).astype(np.uint8))
    fs.write_json(data_dir / "manifests" / "summary.json", {"hours": 0.5, "kinds": {"speech": 60}, "ids": list("abc")})


def test_report_is_one_small_self_contained_page(scored, data_dir, tmp_path):
    from spear.evaluate.report import write_report

    exp_dir, _ = scored
    fill_training_and_tokens(data_dir, exp_dir)
    page = write_report(data_dir, exp_dir, tmp_path / "report.html").read_text()
    assert len(page) < 2_000_000 and 'class="missing"' not in page
    assert page.count("<svg") >= 6 and "<script" not in page
    assert not re.search(r"(src|href)=.https?:", page.replace("http://www.w3.org", ""))
    assert "commit" in page and "tiny beats" in page and "kinds.speech" in page


def test_report_names_what_is_missing_and_survives_damage(tmp_path):
    from spear.evaluate.report import write_report

    page = write_report(tmp_path / "data", tmp_path / "exp").read_text()
    assert page.count('class="missing"') == 7 and "spear evaluate" in page and "--stage 5" in page
    (tmp_path / "data" / "manifests").mkdir(parents=True)
    (tmp_path / "data" / "manifests" / "summary.json").write_text("{")
    assert "not valid JSON" in write_report(tmp_path / "data", tmp_path / "exp").read_text()
