"""Probes on tags: AudioSet's balanced part and FSD50K from their own layouts."""

import listed_corpus
import pytest

from spear.evaluate.corpora import prepare_corpus
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.tagged import TagTasks

TAGS = ("/m/bark", "/m/rain")


def audioset(folder):
    """The balanced and the evaluation part, and a table of the other part, whose clips are not scored."""
    folder.mkdir(parents=True)
    for part, count in (("balanced_train", 20), ("eval", 6), ("unbalanced_train", 2)):
        lines = ["# Segments csv", "# YTID, start_seconds, end_seconds, positive_labels"]
        for number in range(count):
            tags = [TAGS[number % 2]] if number % 3 else list(TAGS)
            video = f"{part[:5]:_<8}{number:03d}"
            lines.append(f'{video}, 30.000, 40.000, "{",".join(tags)}"')
            if part != "unbalanced_train":
                pitch = listed_corpus.PITCHES[2 if len(tags) == 2 else number % 2]
                listed_corpus.tone(folder / part / f"Y{video}.wav", pitch, seed=number)
        (folder / f"{part}_segments.csv").write_text("\n".join([*lines, ""]))
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    raw = tmp_path_factory.mktemp("tags")
    audioset(raw / "audioset")
    listed_corpus.fsd50k(raw / "FSD50K")
    next((raw / "audioset" / "eval").iterdir()).unlink()
    counts = prepare_corpus("tags", raw, raw / "data")
    assert counts["audioset_balanced"] == {"train": 20, "test": 5, "absent": 1}
    assert counts["fsd50k"] == {"train": 6, "dev": 3, "test": 3}
    return raw / "data"


def test_both_are_scored_with_the_number_of_clips(data_dir, tmp_path):
    config = EvaluateConfig(num_jobs=1, max_steps=40, learning_rates=(3e-2,))
    runs = {run["task"]: run for run in evaluate(TagTasks(data_dir), ["all"], ["fbank"], tmp_path, config)}
    balanced, fsd = runs["audioset_balanced"], runs["fsd50k"]
    assert balanced["details"][""]["clips"] == {"train": 18, "dev": 2, "test": 5}
    assert balanced["details"][""]["classes"] == list(TAGS) and balanced["metric"] == "map"
    assert any(doubt == "a partial copy: 1 of 26 recordings are not there" for doubt in balanced["doubts"])
    assert fsd["details"][""]["clips"] == {"train": 6, "dev": 3, "test": 3} and not fsd["doubts"]
    assert balanced["score"] > 0.6 and fsd["score"] > 0.6
