"""Weighted sources and token streams: what is refused, what is dropped and counted."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from spear.data import CutLimits, SourceConfig, load_sources
from spear.errors import CardError, ConfigError, DataError
from spear.fs import write_json, write_jsonl

SPEECH, AUDIO = SourceConfig("talk", "talk.jsonl"), SourceConfig("sounds", "sounds.jsonl", weight=2.5)


def split(corpus):
    """Items by source."""
    return {
        "talk": [i for i in corpus if i.domain == "speech"],
        "sounds": [i for i in corpus if i.domain == "audio"],
    }


def test_two_weighted_sources_become_one_table(corpus, write_stream, tmp_path):
    streams = [write_stream(tmp_path, corpus), write_stream(tmp_path, corpus, "audio", 25.0, 2, domains=("audio",))]
    sources = load_sources([SPEECH, AUDIO], streams, items=split(corpus))
    assert [sources.cuts[i].id for i in range(len(sources.cuts))] == [i.id for i in corpus]
    assert sources.weights.tolist() == [1.0] * 36 + [2.5] * 24
    assert sources.cuts[40].source == 1 and sources.cuts[40].path == corpus[40].path
    assert (sources.streams[1].frame_rate_hz, sources.streams[1].num_codebooks) == (25.0, 2)
    assert sources.summary["talk"]["num_cuts"] == 36
    assert load_sources([SPEECH], items=split(corpus)).weights is None


def test_manifests_of_stage_one_are_read(corpus, tmp_path):
    def line(item):
        source = {"type": "file", "channels": [0], "source": str(item.path)}
        recording = {"id": item.id, "sources": [source], "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}
        kind = "speech" if item.domain == "speech" else "event"
        cut = {"id": item.id, "start": item.start_seconds, "duration": item.duration_seconds, "channel": 0}
        return cut | {"type": "MonoCut", "recording": recording, "supervisions": [], "custom": {"kind": kind}}

    write_jsonl(tmp_path / "manifests" / "cuts.jsonl", map(line, corpus))
    cuts = load_sources([SourceConfig("all", str(tmp_path / "manifests" / "cuts.jsonl"))]).cuts
    assert [cuts[i].id for i in range(len(cuts))] == [item.id for item in corpus]
    assert cuts[0].path == corpus[0].path and cuts.is_speech.sum() == 36


def test_item_weights_multiply(corpus, tmp_path):
    path = tmp_path / "weights.tsv"
    path.write_text(f"{corpus[36].id}\t4\n")
    source = dataclasses.replace(AUDIO, item_weights=str(path))
    assert load_sources([source], items=split(corpus)).weights.tolist() == [10.0] + [2.5] * 23
    path.write_text("no number\n")
    with pytest.raises(DataError, match="line 1"):
        load_sources([source], items=split(corpus))


def test_lengths_outside_the_limits_are_dropped_and_counted(corpus, caplog):
    items = split(corpus)["talk"]
    items += [dataclasses.replace(items[0], id="long", duration_seconds=3600.0)]
    items += [dataclasses.replace(items[0], id="short", duration_seconds=0.05)]
    with caplog.at_level(logging.WARNING):
        sources = load_sources([SPEECH], limits=CutLimits(0.1, 30.0), items={"talk": items})
    assert sources.summary["talk"]["dropped"] == {
        "too long": {"num_cuts": 1, "seconds": 3600.0},
        "too short": {"num_cuts": 1, "seconds": 0.05},
    }
    assert "dropped 1 cuts, 1.00 h: too long" in caplog.text


def test_cuts_without_tokens_are_dropped_or_have_no_targets(corpus, write_stream, tmp_path, caplog):
    stream = write_stream(tmp_path, corpus[2:36], domains=("speech",))
    with caplog.at_level(logging.WARNING):
        sources = load_sources([SPEECH, AUDIO], [stream], items=split(corpus))
    assert len(sources.cuts) == 58 and "dropped 2 cuts" in caplog.text and "no tokens of speech" in caplog.text
    assert (sources.streams[0].read(sources.cuts[50]) == -100).all()
    optional = dataclasses.replace(stream, domains=(), optional_domains=("speech",))
    sources = load_sources([SPEECH], [optional], items=split(corpus))
    assert len(sources.cuts) == 36
    assert (sources.streams[0].read(sources.cuts[0]) == -100).all()
    assert (sources.streams[0].read(sources.cuts[5]) >= 0).any()


def test_a_source_without_any_tokens_is_refused(corpus, write_stream, tmp_path):
    stream = write_stream(tmp_path, corpus[:36])
    with pytest.raises(DataError, match="'sounds': 24 no tokens of speech"):
        load_sources([SPEECH, AUDIO], [stream], items=split(corpus))
    subset = load_sources([SPEECH, AUDIO], [stream], items=split(corpus), require_every_source=False)
    assert len(subset.cuts) == 36 and subset.summary["sounds"]["num_cuts"] == 0


def test_missing_stream_is_refused_by_name(corpus, write_stream, tmp_path):
    stream = write_stream(tmp_path, corpus)
    with pytest.raises(DataError, match="'music'"):
        load_sources([SPEECH], [stream, dataclasses.replace(stream, name="music", path="nowhere")], items=split(corpus))
    Path(stream.path, "card.json").unlink()
    with pytest.raises(DataError, match="no tokens of stream 'speech'"):
        load_sources([SPEECH], [stream], items=split(corpus))


def test_foreign_cards_are_refused_with_both_values(corpus, write_stream, tmp_path):
    stream = write_stream(tmp_path, corpus)
    write_json(tmp_path / "quantizer" / "card.json", {"content_sha256": "q2"})
    changed = dataclasses.replace(stream, quantizer=str(tmp_path / "quantizer"))
    with pytest.raises(CardError, match="(?s)'q1'.*'q2'"):
        load_sources([SPEECH], [changed], items=split(corpus))
    with pytest.raises(CardError, match="(?s)layer = 1.*layer = 21"):
        load_sources([SPEECH], [dataclasses.replace(stream, expect={"teacher.layer": 21})], items=split(corpus))
    shutil.copytree(stream.path, tmp_path / "renamed")
    other = dataclasses.replace(stream, name="audio", path=str(tmp_path / "renamed"))
    with pytest.raises(CardError, match="(?s)'speech'.*'audio'"):
        load_sources([SPEECH], [other], items=split(corpus))


def test_sources_may_keep_their_tokens_apart_but_from_one_quantizer(corpus, write_stream, tmp_path):
    parts = split(corpus)
    stream = write_stream(tmp_path / "talk", parts["talk"])
    elsewhere = write_stream(tmp_path / "sounds", parts["sounds"])
    sounds = dataclasses.replace(AUDIO, tokens={"speech": elsewhere.path})
    sources = load_sources([SPEECH, sounds], [stream], items=parts)
    assert all((sources.streams[0].read(sources.cuts[i]) >= 0).any() for i in (0, 59))
    write_stream(tmp_path / "sounds", parts["sounds"], quantizer="q9")
    with pytest.raises(CardError, match="(?s)q9.*q1"):
        load_sources([SPEECH, sounds], [stream], items=parts)


def test_mistakes_in_the_list_of_sources(corpus, tmp_path):
    items = split(corpus)
    with pytest.raises(ConfigError, match="2 sources named 'talk'"):
        load_sources([SPEECH, SPEECH], items=items)
    with pytest.raises(ConfigError, match="domain 'musik'"):
        load_sources([dataclasses.replace(SPEECH, domain="musik")], items=items)
    with pytest.raises(ConfigError, match="weight -1"):
        load_sources([dataclasses.replace(SPEECH, weight=-1.0)], items=items)
    with pytest.raises(DataError, match=corpus[0].id):
        load_sources([SPEECH, AUDIO], items={"talk": items["talk"], "sounds": items["talk"]})
    with pytest.raises(DataError, match="nowhere.jsonl"):
        load_sources([SourceConfig("talk", str(tmp_path / "nowhere.jsonl"))])
    with pytest.raises(DataError, match="no cut"):
        load_sources([SPEECH], items={"talk": []})


def test_table_is_small(corpus):
    import pickle

    many = [dataclasses.replace(corpus[0], id=f"{corpus[0].id}-{n:06d}") for n in range(20_000)]
    sources = load_sources([SPEECH], items={"talk": many})
    assert len(pickle.dumps(sources.cuts)) < 120 * len(many)
    assert np.allclose(sources.cuts.durations_seconds, corpus[0].duration_seconds, atol=1e-4)
