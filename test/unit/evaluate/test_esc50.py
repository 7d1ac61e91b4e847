"""ESC-50 from its layout to the three numbers that are never to be mixed."""

import listed_corpus
import pytest

from spear.errors import ConfigError, DataError
from spear.evaluate.corpora import prepare_corpus
from spear.evaluate.esc50 import BEST, LAST, Esc50Tasks
from spear.evaluate.published import published_lines
from spear.evaluate.run import EvaluateConfig, evaluate


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp("esc50")
    raw = listed_corpus.esc50(place / "corpora" / "ESC-50-master")
    assert prepare_corpus("esc50", raw.parent, place / "data") == {"esc50": {"all": 20}}
    return place / "data"


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    config = EvaluateConfig(num_jobs=1, max_steps=25, learning_rates=(3e-2,))
    (found,) = evaluate(Esc50Tasks(data_dir), ["all"], ["fbank"], tmp_path_factory.mktemp("exp"), config)
    return found


def test_the_corpus_is_linked_and_counted(data_dir, tmp_path):
    assert (data_dir / "corpora" / "esc50").is_symlink()
    raw = (data_dir / "corpora" / "esc50").resolve()
    assert prepare_corpus("esc50", raw, data_dir) == {"esc50": {"all": 20}}
    with pytest.raises(DataError, match="none of the corpora"):
        prepare_corpus("esc50", raw / "audio", data_dir)
    partial = listed_corpus.esc50(tmp_path / "raw")
    next((partial / "audio").iterdir()).unlink()
    assert prepare_corpus("esc50", partial, tmp_path) == {"esc50": {"all": 19, "absent": 1}}


def test_a_fold_is_tested_the_next_one_selects_and_for_comparison_all_others_train(data_dir):
    suite = Esc50Tasks(data_dir)
    (task,) = suite.find(["esc50"])
    table = suite.table(task)
    for legacy, expected in ((False, ({"3", "4", "5"}, {"2"}, {"1"})), (True, ({"2", "3", "4", "5"}, {"1"}, {"1"}))):
        folds = task.folds(table, legacy)
        assert list(folds) == ["1", "2", "3", "4", "5"]
        found = folds["1"]
        assert tuple({row.id[:1] for row in found[name]} for name in ("train", "dev", "test")) == expected


def test_clean_last_and_best_numbers_stand_beside_one_another(run):
    assert (run["task"], run["protocol"], run["metric"]) == ("esc50", "esc50", "accuracy")
    assert set(run["extra_scores"]) == {LAST, BEST}
    assert run["extra_scores"][BEST] >= run["extra_scores"][LAST]
    assert run["score"] >= 0.75 and run["extra_scores"][BEST] >= 0.9
    assert run["folds"]["1"] == {"train": 12, "dev": 4, "test": 4} and run["selected_on"] == "dev"
    assert published_lines([run]) == []  # of fewer steps than published
    whole = run | {"settings": run["settings"] | {"max_steps": 1500}}
    table, note = published_lines([whole])
    assert table.splitlines()[0].count("|") == 6 and "| published (USAD): USAD Base | - | - | - | 82.2 |" in table
    assert f"| fbank | {100 * run['score']:.1f} | {100 * run['extra_scores'][LAST]:.1f} |" in table
    assert "no two columns compare" in note


def test_missing_corrupt_and_wrongly_listed_recordings_are_left_out_by_name(tmp_path):
    folder = listed_corpus.esc50(tmp_path / "corpora" / "esc50")
    names = sorted(path.name for path in (folder / "audio").iterdir())
    (folder / "audio" / names[0]).unlink()
    (folder / "audio" / names[1]).write_bytes(b"no audio")
    with (folder / "meta" / "esc50.csv").open("a") as table:
        table.write(
            f"{names[2]},1,0,dog,True,x,A\n../secret.wav,1,0,dog,True,x,A\n/etc/hosts,1,0,dog,True,x,A\nbroken\n"
        )
    suite = Esc50Tasks(tmp_path)
    (task,) = suite.find(["all"])
    table = suite.table(task)
    reasons = {bad["id"].rpartition("/")[2]: bad["reason"] for bad in table.skipped}
    assert set(reasons) == {names[0], names[1], names[2], "secret.wav", "hosts", "broken"}
    assert reasons[names[0]].startswith("no file audio/") and "second time" in reasons[names[2]]
    assert "part of a path" in reasons["secret.wav"] and "1 values" in reasons["broken"]
    assert len(table.rows) == 18
    assert any(doubt.startswith("a partial copy: 2 of 20 recordings") for doubt in task.doubts(table))


def test_without_a_corpus_a_table_or_three_folds_the_reason_is_said(tmp_path):
    with pytest.raises(DataError, match="no corpus in"):
        Esc50Tasks(tmp_path).find(["all"])
    with pytest.raises(ConfigError, match="task 'arch'"):
        Esc50Tasks(tmp_path).find(["arch"])
    suite = Esc50Tasks(tmp_path)
    (task,) = suite.find(["esc50"])
    with pytest.raises(DataError, match=r"esc50\.csv"):
        suite.table(task)
    folder = listed_corpus.esc50(tmp_path / "corpora" / "esc50")
    path = folder / "meta" / "esc50.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if line[:2] in ("fi", "1-", "2-")))
    with pytest.raises(DataError, match="folds 1, 2"):
        task.folds(suite.table(task))
