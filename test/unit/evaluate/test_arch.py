"""The twelve corpora of ARCH from their layouts to scores, clean and as published."""

import listed_corpus
import numpy as np
import pytest

from spear.errors import DataError
from spear.evaluate.arch import layouts
from spear.evaluate.arch.layouts import CORPORA
from spear.evaluate.arch.suite import ArchTasks, LegacyArchTasks
from spear.evaluate.cache import item_key, read_wave
from spear.evaluate.corpora import prepare_corpus
from spear.evaluate.engine import _rate_share
from spear.evaluate.excerpt import Excerpt
from spear.evaluate.listed import drawn, read_rows
from spear.evaluate.protocol import settings_of
from spear.evaluate.published import published_lines
from spear.evaluate.run import EvaluateConfig, evaluate

# Train, dev and test of the first fold; the number of folds and of labels.
CLEAN = {
    "esc50": ((12, 4, 4), 5, 4),
    "us8k": ((6, 2, 4), 3, 2),
    "fsd50k": ((6, 3, 3), 1, 2),
    "vivae": ((2, 2, 2), 3, 2),
    "fma_small": ((6, 2, 2), 1, 2),
    "mtt": ((3, 2, 2), 1, 2),
    "irmas": ((8, 4, 3), 1, 2),
    "msdb": ((4, 2, 2), 1, 2),
    "ravdess": ((12, 4, 4), 1, 2),
    "audio_mnist": ((2, 2, 2), 3, 2),
    "slurp": ((8, 4, 4), 1, 2),
    "emovo": ((4, 4, 4), 3, 2),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    raw = listed_corpus.arch(tmp_path_factory.mktemp("arch"))
    counts = prepare_corpus("arch", raw, raw / "data")
    assert list(counts) == list(CLEAN) and not any("absent" in found for found in counts.values())
    return raw / "data"


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    config = EvaluateConfig(num_jobs=1, max_steps=40, learning_rates=(1e-2,))
    suites = [ArchTasks(data_dir), LegacyArchTasks(data_dir)]
    exp_dir = tmp_path_factory.mktemp("exp")
    return {(run["suite"], run["task"]): run for run in evaluate(suites, ["all"], ["fbank"], exp_dir, config)}


def folds_of(suite, name):
    (task,) = suite.find([name])
    return task.folds(suite.table(task))


@pytest.mark.parametrize("name", CLEAN)
def test_a_layout_is_read_and_divided_as_its_corpus_states(data_dir, runs, name):
    expected, num_folds, num_labels = CLEAN[name]
    run = runs["arch", name]
    assert len(run["folds"]) == num_folds and run["skipped"] == []
    first = next(iter(run["folds"].values()))
    assert tuple(first[split] for split in ("train", "dev", "test")) == expected
    assert {details["num_classes"] for details in run["details"].values()} == {num_labels}
    assert run["metric"] == ("map" if name in ("fsd50k", "mtt", "irmas") else "top1") and 0 < run["score"] <= 1


def test_what_belongs_together_is_divided_by_the_published_code_alone(data_dir):
    def shared(suite, name, of):
        splits = folds_of(suite, name)
        return any({of(row) for row in found["dev"]} & {of(row) for row in found["train"]} for found in splits.values())

    clean, legacy = ArchTasks(data_dir), LegacyArchTasks(data_dir)
    for name in ("ravdess", "irmas", "us8k"):
        assert not shared(clean, name, lambda row: row.extra["group"]), name
    assert shared(legacy, "ravdess", lambda row: row.extra["group"])
    assert shared(legacy, "emovo", lambda row: row.extra["fold"])
    assert [len(v) for v in folds_of(legacy, "fma_small")[""].values()] == [8, 1, 1]


def test_the_published_code_counts_silence_and_scores_the_last_epoch(data_dir, runs, tmp_path):
    rows = {
        suite.name: suite.table(*suite.find(["slurp"])).rows
        for suite in (ArchTasks(data_dir), LegacyArchTasks(data_dir))
    }
    plain, filled = rows["arch"][0].item, rows["arch_legacy"][0].item
    assert type(filled) is Excerpt and len(read_wave(filled, 16000)) == 160_000 and len(read_wave(plain, 16000)) == 4800
    np.testing.assert_array_equal(read_wave(filled, 16000)[:4800], read_wave(plain, 16000))
    assert not read_wave(filled, 16000)[4800:].any() and item_key(plain) != item_key(filled)
    listed_corpus.tone(tmp_path / "corpora/slurp/slurp_real/a.flac", 900, 11.0)
    (tmp_path / "corpora/slurp/train.jsonl").write_text(
        '{"slurp_id": 1, "intent": "x", "recordings": [{"file": "a.flac"}]}\n'
    )
    for name in ("devel", "test"):
        (tmp_path / f"corpora/slurp/{name}.jsonl").write_text("")
    cut = [suite.table(*suite.find(["slurp"])).rows[0] for suite in (ArchTasks(tmp_path), LegacyArchTasks(tmp_path))]
    assert cut[0].key == cut[1].key and len(read_wave(cut[0].item, 16000)) == 160_000
    settings = [settings_of(name, "arch") for name in ("arch", "arch_legacy")]
    assert [(s.early_stopping, s.states, s.learning_rates, s.batch_size, s.max_epochs) for s in settings] == [
        (True, "last", (1e-3,), 32, 200), (False, "last", (1e-3,), 32, 200)
    ]  # fmt: skip


def test_the_learning_rate_warms_up_over_a_tenth_and_falls_to_nothing():
    settings = settings_of("arch", "arch", {"max_steps": 100})
    shares = [_rate_share(settings, step) for step in range(1, 101)]
    assert shares[:11] == pytest.approx([0.1 * n for n in range(1, 11)] + [1.0])
    assert shares[-1] == pytest.approx(1 / 90) and all(np.diff(shares[10:]) < 0)
    linear = settings_of("mini", "labels", {"max_steps": 4})
    assert [_rate_share(linear, step) for step in (1, 2, 3, 4)] == [1, 0.75, 0.5, 0.25]


def test_our_rows_stand_above_the_published_ones(runs):
    assert published_lines(list(runs.values())) == []
    whole = [run | {"settings": run["settings"] | {"max_steps": 10**9}} for run in runs.values()]
    table, note = published_lines(whole)
    lines = table.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| fbank (clean)", "| fbank (as published)"]
    assert lines[0] == f"| ARCH, in percent | {' | '.join(corpus.short for corpus in CORPORA)} | mean of 12 |"
    assert lines[5].startswith("| published: hubert-base | 58.9 | 67.3 |") and lines[5].endswith(" | 51.6 |")
    assert len(lines) == 14 and "others' numbers" in note


def test_partial_copies_and_damaged_files_are_told_by_name(tmp_path):
    raw = listed_corpus.us8k(tmp_path / "us8k")
    names = sorted((raw / "audio").glob("*/*.wav"))
    names[0].unlink()
    names[1].write_bytes(b"")
    listed_corpus.irmas(tmp_path / "irmas")
    (tmp_path / "irmas/IRMAS-TestingData-Part1/Part1/song 0.txt").unlink()
    listed_corpus.msdb(tmp_path / "msdb")
    (tmp_path / "msdb/Medley-solos-DB_metadata.csv").write_text("subset,instrument\ntraining,flute\n")
    listed_corpus.fma_small(tmp_path / "fma_small")
    (tmp_path / "fma_small/fma_metadata/tracks.csv").write_text(",album\n,title\n")
    listed_corpus.slurp(tmp_path / "slurp")
    (tmp_path / "slurp/devel.jsonl").write_text('{"intent": 3}\n')
    counts = prepare_corpus("arch", tmp_path, tmp_path / "data")
    assert counts["us8k"] == {"all": 11, "absent": 1} and counts["msdb"] == counts["slurp"] == counts["fma_small"] == {}
    suite = ArchTasks(tmp_path / "data")
    tasks = {task.name: task for task in suite.find(["all"])}
    assert list(tasks) == ["us8k", "fma_small", "irmas", "msdb", "slurp"]
    table = suite.table(tasks["us8k"])
    assert {bad["id"].rpartition("/")[2] for bad in table.skipped} == {names[0].name, names[1].name}
    assert tasks["us8k"].doubts(table)[0] == "a partial copy: 1 of 11 recordings are not there"
    assert [bad["reason"] for bad in suite.table(tasks["irmas"]).skipped] == ["no label"]
    for name, said in (("msdb", "column instrument_id"), ("fma_small", "tracks.csv"), ("slurp", "devel.jsonl")):
        with pytest.raises(DataError, match=said):
            suite.table(tasks[name])


def test_one_damaged_line_or_text_leaves_the_others(tmp_path):
    corpora = {corpus.name: corpus for corpus in CORPORA}
    tags = layouts._TAGS
    names = ("clip_id", *tags, "mp3_path")
    cells = ["1", *("0" for _ in tags), "0/a-b-1.mp3"]
    cells[1] = "1"
    lines = ["\t".join(names), "\t".join(cells[:-1]), "\t".join(cells)]
    (tmp_path / "annotations_final.csv").write_text("\n".join(lines))
    reasons = [bad["reason"] for bad in read_rows(tmp_path, corpora["mtt"])[1]]
    assert reasons == ["no file 0/a-b-1.mp3", "a line that ends early"]
    part = tmp_path / "IRMAS-TestingData-Part1" / "Part1"
    listed_corpus.tone(part / "good.wav", 300)
    listed_corpus.tone(part / "bad.wav", 300)
    (part / "good.txt").write_text("cel\n")
    (part / "bad.txt").write_bytes(b"\xff\xfe\xfa\n")
    rows, skipped = read_rows(tmp_path, corpora["irmas"])
    assert [row.target for row in rows] == [["cel"]] and "bad.txt" in skipped[0]["reason"]


def test_a_draw_depends_on_nothing_but_what_is_drawn_from(data_dir):
    suite = ArchTasks(data_dir)
    rows = suite.table(*suite.find(["ravdess"])).rows
    parts = [{row.id for row in part} for part in drawn(rows, 0.2, True)]
    assert parts == [{row.id for row in part} for part in drawn(rows[::-1], 0.2, True)]
    assert not parts[0] & parts[1] and len(parts[1]) == 4 and len(parts[0]) == 16
