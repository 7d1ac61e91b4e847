"""`spear evaluate --suite superb` from the command line: table, page, RESULTS.md, rescoring."""

import pytest
import superb_corpus

from spear import fs
from spear.bin.evaluate import main, recipe
from spear.evaluate.doubts import doubt_lines
from spear.evaluate.results import protocol_lines
from spear.evaluate.score import overall_lines, references

QUICK = ["--suite", "superb", "--protocol", "mini", "--max-steps", "5", "--num-jobs", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return superb_corpus.make_superb_corpus(tmp_path_factory.mktemp("superb"), (20, 6, 6))


def test_the_command_prints_writes_and_keeps(data, tmp_path, capsys):
    words = ["--upstream", "fbank", "--upstream", "again=fbank", "--tasks", "SID,QbE,ER", "--data-dir", str(data)]
    words += ["--exp-dir", str(tmp_path / "exp"), "--results", str(tmp_path / "RESULTS.md"), *QUICK]
    words += ["--page", str(tmp_path / "page.html")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "SID" in printed and "legacy accuracy" in printed and "not comparable" in printed
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") >= 2 and "Learning rates" in page and "<script" not in page
    assert "| SID |" in (tmp_path / "RESULTS.md").read_text()
    run = tmp_path / "exp/evaluate/superb-mini/SID/fbank.json"
    assert main(["rescore", str(run)]) == 0
    assert f"{100 * fs.read_json(run)['score']:.4f}" in capsys.readouterr().out


def test_a_recipe_script_is_the_command_with_its_folders(data, tmp_path, capsys):
    script = tmp_path / "decode_ks.py"
    (tmp_path / "data").symlink_to(data)
    assert recipe("KS", str(script), "superb", "mini", ["--upstream", "fbank", *QUICK]) == 0
    assert (tmp_path / "exp/evaluate/superb-mini/KS/fbank.json").exists()
    assert recipe("KS", str(script), "superb", "mini", [*QUICK]) == 1  # no student yet
    assert "train.py" in capsys.readouterr().err


def run_of(task, scores, legacy=None, protocol="superb"):
    return {
        "task": task,
        "protocol": protocol,
        "scores": scores,
        "legacy": legacy,
        "skipped": [],
        "upstream": {"name": "u", "kind": "checkpoint"},
    }


def test_superb_s_is_printed_for_the_published_protocol_alone():
    known = references()
    row = known["rows"]["wavlm-large"]
    runs = [
        run_of(task, {m: v / 100 for m, v in zip(metrics, row[task])}) for task, metrics in known["metrics"].items()
    ]
    assert overall_lines(runs) == ["superb_s of u: 1144.5, near-legacy 1144.5"]
    assert "PR alone: not comparable" in overall_lines(runs[:1])[0]
    assert overall_lines([{**run, "protocol": "mini"} for run in runs]) == []
    assert "mini" in protocol_lines([{**runs[0], "protocol": "mini"}])[0]


def test_runs_that_were_cut_short_give_no_superb_s_and_say_so():
    known = references()
    row = known["rows"]["wavlm-large"]
    runs = [
        run_of(task, {m: v / 100 for m, v in zip(metrics, row[task])}) for task, metrics in known["metrics"].items()
    ]
    full = overall_lines(runs)
    runs[0] |= {"settings": {"max_steps": 5}}  # PR
    (line,) = overall_lines(runs)
    assert line != full[0] and "PR cut short by --max-steps" in line and "not comparable" in line
    assert doubt_lines(runs) == [
        "(!) PR: heads were trained for 5 of 100,000 steps: no number of the published protocol."
    ]
    every = [{**run, "max_items": 20} for run in runs]
    (line,) = overall_lines(every)
    assert line.startswith("superb_s of u: none (PR, ASR, KS")
    assert "(!) SID: at most 20 items of each split were used" in "".join(doubt_lines(every))
    assert not doubt_lines([{**run, "protocol": "mini"} for run in every])


def test_steps_that_were_none_stand_below_the_table():
    run = run_of("KS", {"accuracy": 0.1}) | {"learning_rate": 1e-3, "steps": 200}
    run["grid"] = [{"learning_rate": 1e-3, "skipped_steps": 50}, {"learning_rate": 1e-1, "skipped_steps": 200}]
    assert "50 of 200 steps of the chosen heads were left out" in doubt_lines([run])[0]
    run["grid"][0]["skipped_steps"] = 1
    assert not doubt_lines([run])
