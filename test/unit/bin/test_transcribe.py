"""`spear finetune --task ctc` and `spear transcribe`: transcripts in, text, subtitles and lists of errors out."""

import json
import shutil

import pytest

from spear import fs
from spear.bin import finetune, transcribe
from spear.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def recogniser(words, tmp_path_factory):
    """A run after two steps."""
    exp_dir = tmp_path_factory.mktemp("recogniser") / "exp"
    assert finetune.main(["--task", "ctc", "--exp-dir", str(exp_dir), *words]) == 0
    return exp_dir


def test_a_fine_tuned_recogniser_is_scored_with_all_its_errors(recogniser):
    found, predictions = fs.read_json(recogniser / "wer-test.json"), fs.read_jsonl(recogniser / "predictions.jsonl")
    assert found["utterances"] == len(predictions) and found["words"]["length"] == len(predictions)
    assert fs.read_json(recogniser / "score.json")["value"] == pytest.approx(found["words"]["rate"])
    assert found["speakers"].keys() == {row["speaker"] for row in predictions} - {None}
    assert (recogniser / "errs-test.txt").read_text().startswith("%WER = ")
    assert len((recogniser / "recogs-test.txt").read_text().splitlines()) == 2 * len(predictions)


def test_other_cuts_are_scored_with_all_errors_too(recogniser):
    shutil.copy(recogniser / "data/manifests/test.jsonl", recogniser / "data/manifests/other.jsonl")
    cuts = str(recogniser / "data/manifests/other.jsonl")
    assert finetune.main(["score", str(recogniser), cuts, "--device", "cpu"]) == 0
    assert (recogniser / "errs-other.txt").read_text() == (recogniser / "errs-test.txt").read_text()


def test_files_of_any_length_become_transcripts_and_bad_ones_are_named(recogniser, recordings, tmp_path, capsys):
    flags = [str(recordings), "--checkpoint", str(recogniser), "--device", "cpu"]
    flags += ["--window-seconds", "3", "--overlap-seconds", "0.5"]
    assert transcribe.main([*flags, "--format", "json", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "left out" in said and "damaged.wav" in said and "text.mp3" in said
    names = {"a", "b", "long", "c", "d", "short"}
    assert {path.stem for path in (tmp_path / "out").iterdir()} == names
    rows = [json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in sorted(names)]
    assert all(set(row) == {"path", "text", "words"} for row in rows)
    for suffix in ("srt", "vtt"):
        assert transcribe.main([*flags, "--format", suffix, "--output", str(tmp_path / suffix)]) == 0
        assert (tmp_path / suffix / f"long.{suffix}").exists()
    capsys.readouterr()
    assert transcribe.main([str(recordings / "low/a.wav"), *flags[1:], "--method", "beam"]) == 0
    assert capsys.readouterr().out.startswith(f"{recordings}/low/a.wav: ")


def test_a_file_that_is_there_with_another_content_stays_as_it_is(recogniser, recordings, tmp_path, capsys):
    flags = [str(recordings / "low/a.wav"), str(recordings / "high/c.wav"), "--checkpoint", str(recogniser)]
    flags += ["--device", "cpu", "--output", str(tmp_path)]
    (tmp_path / "a.txt").write_text("notes of somebody\n")
    assert transcribe.main(flags) == 0
    said, first = capsys.readouterr().out, (tmp_path / "c.txt").read_bytes()
    assert (tmp_path / "a.txt").read_text() == "notes of somebody\n"
    assert f"left out {recordings}/low/a.wav: {tmp_path}/a.txt is there with another content" in said
    (tmp_path / "a.txt").unlink()
    assert transcribe.main(flags) == 0 and "left out" not in capsys.readouterr().out  # its own are no others
    assert (tmp_path / "c.txt").read_bytes() == first and (tmp_path / "a.txt").exists()
    (tmp_path / "a.txt").write_text("corrected by hand\n")
    with pytest.raises(DataError, match="no recording that can be used: .*a.txt is there"):
        transcribe.main([flags[0], *flags[2:]])


def test_bad_calls_are_refused(recogniser, recordings):
    flags = [str(recordings / "low/a.wav"), "--checkpoint", str(recogniser), "--device", "cpu"]
    with pytest.raises(ConfigError, match="0 heads for words of the name 'other'"):
        transcribe.main([*flags, "--stream", "other"])
    with pytest.raises(ConfigError, match="greedy, beam, lexicon"):
        transcribe.main([*flags, "--method", "guess"])
    with pytest.raises(DataError, match="no recording that can be heard"):
        transcribe.main([str(recordings / "low/text.mp3"), *flags[1:]])
