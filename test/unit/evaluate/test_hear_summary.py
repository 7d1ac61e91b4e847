"""Published rows of HEAR beside ours: which task is which column, means, and what is no number of the benchmark."""

import numpy as np
import pytest

from spear.evaluate.hear.summary import hear_lines, references, short_name, standardised


def run(folder, score, **changes):
    settings = {"states": "last", "max_steps": 10**9}
    return {
        "task": folder,
        "score": score,
        "protocol": "hear",
        "upstream": {"name": "ours"},
        "settings": settings,
    } | changes


@pytest.mark.parametrize(
    "folder, short",
    [
        ("esc50-v2.0.0-full", "ESC"),
        ("tfds_gtzan-1.0.0-full", "GTZ"),
        ("tfds_gtzan_music_speech-1.0.0-full", "M/S"),
        ("nsynth_pitch-v2.2.3-5h", "NS5"),
        ("nsynth_pitch-v2.2.3-50h", "NS50"),
        ("speech_commands-v0.0.2-full", "SCf"),
        ("beehive_states_fold0-v1-full", "Bee"),
        ("dcase2016_task2-hear2021-full", "DCASE"),
        ("maestro-v3.0.0-5h", "Maes"),
        ("digits-v1-mini", ""),
        ("maestro-v3.0.0-full", ""),
    ],
)
def test_a_folder_is_a_column_of_the_board(folder, short):
    assert short_name(folder) == short


def test_reference_rows_are_whole_and_have_their_published_means():
    known = references()
    assert len(known["tasks"]) == 19 and all(len(row["values"]) == 19 for row in known["rows"])
    means = {row["name"]: np.mean(row["values"]) for row in known["rows"] if None not in row["values"]}
    published = {"WavLM Base+": 71.9, "ATST-Frame": 78.1, "USAD Small": 77.2, "USAD Base": 78.7, "USAD Large": 79.7}
    for name, mean in published.items():
        assert means[name] == pytest.approx(mean, abs=0.06)


def test_the_standardised_score_is_within_one_deviation():
    assert standardised({"ESC": 66.1 + 23.7 / 2, "GTZ": 76.8}) == pytest.approx(0.25)
    assert standardised({"ESC": 100.0, "VI": 0.0}) == pytest.approx(0.0)


def test_our_row_stands_above_the_published_ones_that_are_marked():
    table, _, note = hear_lines([run("esc50-v2.0.0-full", 0.8), run("libricount-v1.0.0-hear2021-full", 0.7)])
    lines = table.splitlines()
    assert lines[0] == "| HEAR, in percent | ESC | LC | mean of 2 | standardised |"
    assert lines[2] == "| ours (last) | 80.0 | 70.0 | 75.0 | 0.79 |"
    assert all(line.startswith("| published (") for line in lines[3:]) and len(lines) == 3 + 17
    assert "2 of 19 tasks are no mean of HEAR" in note


def test_means_by_domain_are_over_the_columns_and_published_ones_stand_below_the_whole():
    names = {"esc50-v2.0.0-full": 0.8, "libricount-v1.0.0-hear2021-full": 0.7, "gunshot_triangulation-v1.0-full": 0.9}
    lines = hear_lines([run(name, score) for name, score in names.items()])[1].splitlines()
    assert lines[0] == "| HEAR by domain, in percent | environment, mean of ESC, Gun | speech, mean of LC |"
    assert lines[2] == "| ours (last) | 85.0 | 70.0 |"
    assert "| published (leaderboard): wav2vec2 all-layer fuse (GURA) | 83.1 | 65.3 |" in lines
    assert not any("Dasheng" in line for line in lines)
    folders = [f"{task['task']}-v1-{task['mode'] or 'full'}" for task in references()["tasks"]]
    lines = hear_lines([run(folder, 0.5) for folder in folders])[1].splitlines()
    assert lines[2] == "| ours (last) | 50.0 | 50.0 | 50.0 |"
    assert "| published (Dasheng, its own domains): Dasheng-Base | 80.2 | 72.5 | 84.0 |" in lines
    assert not any("HuBERT" in line for line in lines)  # no beehive


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "mini"},
        {"max_items": 10},
        {"doubts": ["a partial copy: 3 of 10 recordings are not there"]},
        {"settings": {"max_steps": 100}},
        {"task": "digits-v1-mini"},
    ],
)
def test_what_is_no_number_of_the_benchmark_stands_beside_no_published_row(changes):
    assert hear_lines([run("esc50-v2.0.0-full", 0.8) | changes]) == []
