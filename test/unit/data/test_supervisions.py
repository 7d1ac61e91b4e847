"""Streams of transcripts, classes, tags and speakers: what is read, and what is left out by name."""

import logging
from pathlib import Path

import numpy as np
import pytest

from spear.data import Cut, SourceConfig, load_sources
from spear.data.supervisions import SupervisionStreamConfig, least_frames
from spear.errors import ConfigError, DataError
from spear.fs import read_jsonl, write_jsonl
from spear.manifest.vocabulary import Vocabulary
from spear.models.config import SpearConfig


@pytest.fixture
def source(tmp_path):
    """Returns a function from {id: what is known} to a source whose manifest says that of cuts of 2 s."""

    def write(cuts: dict, name="a") -> SourceConfig:
        def line(item_id, text=None, speaker=None, seconds=2.0, **labels):
            origin = {"type": "file", "channels": [0], "source": f"/recordings/{item_id}.flac"}
            recording = {"id": item_id, "sources": [origin], "sampling_rate": 16000}
            recording |= {"num_samples": int(16000 * seconds), "duration": seconds}
            said = {"id": item_id, "recording_id": item_id, "start": 0.0, "duration": seconds, "channel": 0}
            said |= {"text": text, "speaker": speaker}
            cut = {"id": item_id, "start": 0.0, "duration": seconds, "channel": 0, "type": "MonoCut"}
            custom = {"kind": "speech", "labels": labels}
            return cut | {"recording": recording, "supervisions": [said], "custom": custom}

        path = tmp_path / "manifests" / f"{name}.jsonl"
        write_jsonl(path, (line(item_id, **known) for item_id, known in cuts.items()))
        return SourceConfig(name, str(path))

    return write


def cut(item_id, domain="speech"):
    return Cut(item_id, Path(), 0.0, 2.0, domain, 0)


def test_transcripts_become_units_of_the_training_cuts(source):
    known = {"one": {"text": "ab a"}, "two": {"text": "ba"}, "held": {"text": "b"}, "odd": {"text": "cab"}}
    chosen = {"a": np.array([True, True, False, False])}
    found = load_sources([source(known)], [SupervisionStreamConfig("asr", "")], chosen=chosen)
    [stream] = found.streams
    assert stream.vocabulary.units == ["<blk>", " ", "A", "B"]
    assert stream.read(cut("one")).tolist() == [[2], [3], [1], [2]] and stream.read(cut("one")).dtype == np.int64
    assert stream.counts.tolist() == [0, 1, 3, 2]
    assert stream.read(cut("odd")).shape == (0, 1) == stream.empty(16000).shape
    assert stream.config.domains == ("speech", "audio")
    assert stream.refused == [
        {"id": "odd", "path": "/recordings/odd.flac", "reason": "characters outside the vocabulary: 'C'"}
    ]


def test_bad_transcripts_are_dropped_counted_and_listed(source, tmp_path, caplog):
    # 0.6 s are 60 frames of 10 ms, 26 at 50 Hz: "aaa..." needs a blank between equal letters.
    known = {
        "good": {"text": "a" * 13, "seconds": 0.6},
        "empty": {"text": "  "},
        "none": {},
        "long": {"text": "a" * 14, "seconds": 0.6},
        "fits": {"text": "ab" * 13, "seconds": 0.6},
    }
    config = SupervisionStreamConfig("asr", "", aligned=True).for_encoder(SpearConfig(output_downsampling_factor=1))
    with caplog.at_level(logging.WARNING):
        found = load_sources([source(known)], [config])
    [stream] = found.streams
    reasons = {row["id"]: row["reason"] for row in stream.refused}
    assert reasons == {
        "empty": "an empty transcript",
        "none": "no transcript",
        "long": "a transcript of 14 units, which needs 27 output frames, where there are 26",
    }
    assert [found.cuts[place].id for place in range(len(found.cuts))] == ["good", "fits"]
    assert found.summary["a"]["dropped"]["no transcript of asr"]["num_cuts"] == 3
    assert "left out long: a transcript of 14 units" in caplog.text
    stream.save(tmp_path)
    assert {row["id"] for row in read_jsonl(tmp_path / "left_out.asr.jsonl")} == reasons.keys()
    assert Vocabulary.load(tmp_path / "vocabulary.asr.json").sha256 == stream.vocabulary.sha256
    # At 25 Hz half as many frames are there: only half as much can be said.
    half = SupervisionStreamConfig("asr", "", aligned=True).for_encoder(SpearConfig(output_downsampling_factor=2))
    with pytest.raises(DataError, match="no usable cut in source 'a': 5 no transcript of asr"):
        load_sources([source(known)], [half])


def test_repetitions_need_a_frame_more():
    assert [least_frames(numbers) for numbers in ([], [1], [1, 1], [1, 2, 1], [1, 1, 1])] == [0, 1, 3, 3, 5]


def test_classes_and_speakers(source, caplog):
    known = {"x": {"animal": "dog", "speaker": "s1"}, "y": {"animal": "cat", "speaker": "s2"}}
    known |= {"z": {"animal": "dog", "speaker": "s2"}, "v": {"animal": "cow", "speaker": "s1"}, "w": {}}
    chosen = {"a": np.array([True, True, True, False, True])}
    configs = [SupervisionStreamConfig("kind", "", kind="class", key="animal")]
    configs.append(SupervisionStreamConfig("who", "", kind="speaker"))
    with caplog.at_level(logging.WARNING):
        animal, who = load_sources([source(known)], configs, chosen=chosen).streams
    assert animal.vocabulary.units == ["cat", "dog"] and animal.counts.tolist() == [1, 2]
    assert [animal.read(cut(name)).tolist() for name in "xyzvw"] == [[[1]], [[0]], [[1]], [[-100]], [[-100]]]
    assert who.read(cut("v")).tolist() == [[0]]
    assert "class of one training cut: cat" in caplog.text
    assert {row["id"]: row["reason"] for row in animal.refused} == {
        "w": "no class",
        "v": "class 'cow', which no training cut has",
    }


def test_held_out_speakers_who_are_not_trained_on_have_numbers_of_their_own(source):
    known = {name: {"speaker": speaker} for name, speaker in zip("xyvwz", ("s1", "s2", "s9", "s1", "s3"))}
    chosen = {"a": np.array([True, True, False, False, False])}
    [who] = load_sources([source(known)], [SupervisionStreamConfig("who", "", kind="speaker")], chosen=chosen).streams
    assert who.vocabulary.units == ["s1", "s2"] and who.counts.tolist() == [1, 1] and not who.refused
    assert [who.read(cut(name)).tolist() for name in "xyvwz"] == [[[0]], [[1]], [[2]], [[0]], [[3]]]


def test_tags_are_zeros_and_ones_and_those_of_validation_alone_are_named(source, caplog):
    known = {"x": {"tags": "rain; wind"}, "y": {"tags": "wind;wind"}, "v": {"tags": "wind;hail"}, "w": {"tags": "hail"}}
    config = SupervisionStreamConfig("tagging", "", kind="tags", key="tags")
    with caplog.at_level(logging.WARNING):
        [stream] = load_sources([source(known)], [config], chosen={"a": np.array([1, 1, 0, 0], dtype=bool)}).streams
    assert stream.vocabulary.units == ["rain", "wind"]
    assert [stream.read(cut(name)).tolist() for name in "xyv"] == [[[1, 1]], [[0, 1]], [[0, 1]]]
    assert stream.read(cut("w")).tolist() == [[-100, -100]] and stream.counts.tolist() == [1, 2]
    assert "tags that no training cut has: hail" in caplog.text


def test_a_vocabulary_can_be_given(source, tmp_path):
    Vocabulary.of_characters(["abc"]).save(tmp_path / "v.json")
    config = SupervisionStreamConfig("asr", "", vocabulary=str(tmp_path / "v.json"))
    [stream] = load_sources([source({"one": {"text": "ab"}})], [config]).streams
    assert stream.vocabulary.size == 5 and stream.read(cut("one"))[:, 0].tolist() == [2, 3]
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    config = SupervisionStreamConfig("kind", "", kind="class", key="animal", vocabulary=str(tmp_path / "names.txt"))
    [stream] = load_sources([source({"one": {"animal": "dog"}})], [config]).streams
    assert stream.read(cut("one")).tolist() == [[1]]
    wrong = SupervisionStreamConfig("kind", "", kind="class", key="animal", vocabulary=str(tmp_path / "v.json"))
    with pytest.raises(DataError, match="a vocabulary of chars for the class of stream 'kind'"):
        load_sources([source({"one": {"animal": "dog"}})], [wrong])


def test_bad_settings_are_named(source):
    with pytest.raises(ConfigError, match="text, class, tags, speaker"):
        SupervisionStreamConfig("x", "", kind="emotion")
    with pytest.raises(ConfigError, match="a key of labels"):
        SupervisionStreamConfig("x", "", kind="class")
    with pytest.raises(DataError, match="0 cuts with a class under the label 'animal'"):
        load_sources([source({"one": {}})], [SupervisionStreamConfig("x", "", kind="class", key="animal")])
