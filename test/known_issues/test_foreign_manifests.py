"""Manifests of others: which audio a cut is of, and what is left out, one by one, while everything else goes on."""

import gzip
import json

import miniatures
import numpy as np
import pytest
import soundfile

from spear import fs
from spear.audio import load_audio
from spear.bin import manifests
from spear.data import PretrainDataset, SourceConfig, load_sources
from spear.errors import DataError
from spear.evaluate.cache import read_wave
from spear.manifest import Item, read_items
from spear.tokens.units import Unit, read_cuts

RATE = 16000


def tones(path, *hertz, seconds=2.0):
    """A recording with a tone in each channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, np.stack([0.3 * np.sin(2 * np.pi * f * time) for f in hertz], axis=1), RATE)
    return path


def heard(item) -> int:
    """The frequency in Hz of what an item is."""
    segment = item.start_seconds, item.duration_seconds, item.speed, item.channel
    wave = load_audio(item.path, RATE, *segment)
    return loudest(wave)


def loudest(wave) -> int:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return round(spectrum.argmax() * RATE / len(wave))


def recording(name, *sources, seconds=2.0, **more):
    """A lhotse recording of files, each with its channels: ("a.wav", [0, 1])."""
    listed = [{"type": "file", "channels": channels, "source": str(source)} for source, channels in sources]
    channels = [channel for _, of in sources for channel in of]
    basis = {"id": name, "sources": listed, "sampling_rate": RATE, "num_samples": round(seconds * RATE)}
    return basis | {"duration": seconds, "channel_ids": channels} | more


def cut(name, of, channel=0, start=0.0, duration=2.0, **more):
    """A lhotse MonoCut."""
    return {"id": name, "start": start, "duration": duration, "channel": channel, "recording": of} | {
        "supervisions": [],
        "type": "MonoCut",
        **more,
    }


def stage1(tmp_path, raw, corpus="lhotse"):
    """Stage 1 of a folder: items by id, and reasons of what is in quarantine."""
    output = tmp_path / "data" / "manifests"
    words = ["--raw", str(raw), "--corpus", corpus, "--output", str(output), "--num-jobs", "1"]
    assert manifests.main([*words, "--max-bad-fraction", "1"]) == 0
    items = {item.id: item for path in output.glob("cuts_*.jsonl") for item in read_items(path)}
    return items, {row["id"]: row["reason"] for row in fs.read_jsonl(output / "quarantine.jsonl")}


# Which audio is this? ----------------------------------------------------------------------------------------------


def test_channels_of_cuts_and_of_supervisions(tmp_path):
    call = recording("call", ("audio/call.wav", [0, 1]))
    for form in ("cuts", "supervisions"):
        raw = tmp_path / form / "raw"
        tones(raw / "audio/call.wav", 300, 1500)
        if form == "cuts":
            miniatures.write_jsonl(raw / "cuts.jsonl", [cut("A", call, 0), cut("B", call, 1), cut("C", call, 2)])
        else:
            miniatures.write_jsonl(raw / "x_recordings.jsonl", [call])
            rows = [("A", 0), ("B", 1), ("C", 2)]
            rows = [{"id": i, "recording_id": "call", "start": 0.5, "duration": 1.0, "channel": c} for i, c in rows]
            miniatures.write_jsonl(raw / "x_supervisions.jsonl", rows)
        items, refused = stage1(tmp_path / form, raw)
        assert {name: heard(item) for name, item in items.items()} == {"A": 300, "B": 1500}
        assert {name: item.channel for name, item in items.items()} == {"A": 0, "B": 1}
        assert list(refused) == ["C"] and "channel 2" in refused["C"]


def test_training_tokens_features_and_evaluation_hear_the_channel(tmp_path):
    """Everything that takes a manifest directly, too; copies of a channel are other units of tokens."""
    call = recording("call", (tones(tmp_path / "call.wav", 300, 1500), [0, 1]))
    path = tmp_path / "manifests" / "cuts.jsonl"
    path.parent.mkdir()
    miniatures.write_jsonl(path, [cut("A", call, 0), cut("B", call, 1)])
    items = read_items(path)
    assert [loudest(read_wave(item, RATE)) for item in items] == [300, 1500]
    sources = load_sources([SourceConfig("all", str(path))])
    dataset = PretrainDataset(sources, seed=0)
    assert [loudest(dataset._load(sources.cuts[number])) for number in range(2)] == [300, 1500]
    units = [Unit("u", (Item("x", path, 0.0, 2.0, 32000, "speech", "speech", channel=c),)) for c in (None, 0, 1)]
    assert len({unit.sha256("card") for unit in units}) == 3


def test_an_array_of_files(tmp_path):
    raw = tmp_path / "raw"
    for number in range(4):
        tones(raw / f"audio/array-{number}.wav", 300 * (number + 1))
    array = recording("mtg", *((f"audio/array-{number}.wav", [number]) for number in range(4)))
    everything = cut("all", array, [0, 1, 2, 3]) | {"type": "MultiCut"}
    miniatures.write_jsonl(raw / "cuts.jsonl", [cut("mic3", array, 3), everything])
    items, refused = stage1(tmp_path, raw)
    assert {name: heard(item) for name, item in items.items()} == {"mic3": 1200}
    assert "4 channels (MultiCut)" in refused["all"]


def test_transforms_are_heard_or_refused(tmp_path):
    raw = tmp_path / "raw"
    tones(raw / "u.wav", 500, seconds=4.0)
    speed = [{"name": "Speed", "kwargs": {"factor": 2.0}}]
    resampled = [{"name": "Resample", "kwargs": {"source_sampling_rate": 44100, "target_sampling_rate": 16000}}]
    volume = [{"name": "Volume", "kwargs": {"factor": 2.0}}]
    kinds = {"u": (4.0, None), "u_sp2.0": (2.0, speed), "r": (4.0, resampled), "v": (4.0, volume)}
    rows = [recording(name, ("u.wav", [0]), seconds=s, transforms=t) for name, (s, t) in kinds.items()]
    miniatures.write_jsonl(raw / "x_recordings.jsonl", rows)
    rows = [{"id": n, "recording_id": n, "start": 0.0, "duration": s, "channel": 0} for n, (s, _) in kinds.items()]
    miniatures.write_jsonl(raw / "x_supervisions.jsonl", rows)
    items, refused = stage1(tmp_path, raw)
    found = {name: (heard(item), item.duration_seconds) for name, item in items.items()}
    assert found == {"u": (500, 4.0), "u_sp2.0": (1000, 2.0), "r": (500, 4.0)}
    assert "Volume" in refused["v"]
    from lhotse import CutSet

    for one in CutSet.from_file(tmp_path / "data/manifests/cuts_speech_train.jsonl"):
        assert one.duration == items[one.id].duration_seconds  # lhotse says the same of what we write


def test_a_copy_of_what_is_held_out_is_held_out(tmp_path):
    raw = tmp_path / "raw"
    tones(raw / "u.wav", 500, seconds=4.0)
    speed = [{"name": "Speed", "kwargs": {"factor": 2.0}}]
    for part, name, more in (("dev", "u", {}), ("train", "u_sp2.0", {"transforms": speed})):
        seconds = 2.0 if more else 4.0
        rows = [recording(name, ("u.wav", [0]), seconds=seconds, **more)]
        miniatures.write_jsonl(raw / f"x_recordings_{part}.jsonl", rows)
        row = {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0}
        miniatures.write_jsonl(raw / f"x_supervisions_{part}.jsonl", [row])
    items, _ = stage1(tmp_path, raw)
    assert {item.split for item in items.values()} == {"heldout"} and len(items) == 2


@pytest.mark.parametrize("absent", ["first", "second"])
def test_no_file_answers_for_two_names(tmp_path, absent):
    """Of two folders one is not there; the other has a file of the same name."""
    raw = tmp_path / "raw"
    tones(raw / ("second" if absent == "first" else "first") / "u.wav", 300)
    tones(raw / "u.wav", 900)
    rows = [recording(name, (f"{name}/u.wav", [0])) for name in ("first", "second")]
    miniatures.write_jsonl(raw / "cuts.jsonl", [cut(row["id"], row) for row in rows])
    items, refused = stage1(tmp_path, raw)
    assert [heard(item) for item in items.values()] == [300] and absent not in items
    assert refused == {absent: "missing file"}


def test_no_file_answers_for_names_of_two_manifests(tmp_path):
    raw = tmp_path / "raw"
    tones(raw / "audio/u.wav", 300)
    for name in ("a", "b"):
        row = cut(name, recording(name, (f"/gone/{name}/audio/u.wav", [0])))
        miniatures.write_jsonl(raw / f"{name}_cuts.jsonl", [row])
    items, refused = stage1(tmp_path, raw)
    assert list(items) == ["a"] and "/gone/a/audio/u.wav" in refused["b"]


# Manifests of others -----------------------------------------------------------------------------------------------


def of_every_kind(wave):
    """Cuts by id: one that is good, and those that must not end the work for it."""
    of = recording("u", (wave, [0]))
    mixed = {"id": "mixed", "tracks": [{"cut": cut("t", of), "offset": 0.0}], "type": "MixedCut"}
    padding = {"id": "padding", "duration": 1.0, "sampling_rate": RATE, "feat_value": -23.0, "type": "PaddingCut"}
    rows = [cut("good", of), mixed, padding, {"id": "nothing"}, ["no", "object"]]
    rows += [cut("negative", of, start=-0.5), cut("never", of, duration=float("nan"))]
    rows += [cut("backwards", of, duration=-1.0), cut("for-ever", of, duration=float("inf"))]
    rows += [cut("lost", None), cut("numbers", of, custom=None, supervisions="text")]
    rows += [cut("zero", recording("u", (wave, [0]), transforms=[{"name": "Speed", "kwargs": {"factor": 0.0}}]))]
    return rows, {row["id"] if isinstance(row, dict) else "line 5" for row in rows[1:]}


def test_one_strange_cut_does_not_end_stage_1(tmp_path):
    raw = tmp_path / "raw"
    tones(raw / "u.wav", 300)
    rows, bad = of_every_kind("u.wav")
    lines = [json.dumps(row) for row in rows]
    (raw / "cuts.jsonl").write_text("\n".join([*lines, "{no json", ""]))
    items, refused = stage1(tmp_path, raw)
    assert list(items) == ["good"] and set(refused) == bad | {f"line {len(rows) + 1}"}
    assert "MixedCut" in refused["mixed"] and "PaddingCut" in refused["padding"]
    assert "start at -0.5 s" in refused["negative"]


def test_one_strange_cut_does_not_end_what_reads_manifests(tmp_path):
    path = tmp_path / "manifests" / "cuts.jsonl"
    path.parent.mkdir()
    rows, bad = of_every_kind(tones(tmp_path / "u.wav", 300))
    miniatures.write_jsonl(path, rows)
    refused: list[dict] = []
    assert [item.id for item in read_cuts([path], refused)["cuts"]] == ["good"]
    assert {row["id"] for row in refused} == bad
    sources = load_sources([SourceConfig("all", str(path))])
    assert len(sources.cuts) == 1 and sources.summary["all"]["refused"] == len(bad)
    miniatures.write_jsonl(path, rows[1:])
    with pytest.raises(DataError, match="without a usable cut"):
        read_items(path)


@pytest.mark.parametrize("start", [-1e-05, -0.002])
def test_a_start_within_a_frame_of_zero_is_zero(tmp_path, start):
    raw = tmp_path / "raw"
    tones(raw / "u.wav", 300)
    miniatures.write_jsonl(raw / "cuts.jsonl", [cut("u", recording("u", ("u.wav", [0])), start=start, duration=1.5)])
    items, refused = stage1(tmp_path, raw)
    assert (items["u"].start_seconds, refused) == (0.0, {})
    assert items["u"].duration_seconds == pytest.approx(1.5 + start, abs=1e-4)


def test_a_supervision_of_a_lost_recording(tmp_path):
    raw = tmp_path / "raw"
    tones(raw / "u.wav", 300)
    miniatures.write_jsonl(raw / "x_recordings.jsonl", [recording("u", ("u.wav", [0]))])
    row = {"start": 0.0, "duration": 2.0, "channel": 0}
    rows = [row | {"id": f"{name}-0", "recording_id": name} for name in ("u", "gone")]
    miniatures.write_jsonl(raw / "x_supervisions.jsonl", rows)
    items, refused = stage1(tmp_path, raw)
    assert list(items) == ["u-0"] and list(refused) == ["gone-0"] and "'gone'" in refused["gone-0"]


def test_supervisions_of_a_cut_are_heard_together(tmp_path):
    raw = tmp_path / "raw"
    tones(raw / "u.wav", 300)
    of, slip = recording("u", ("u.wav", [0])), {"id": "s", "start": 0.0, "duration": 0.05, "text": "x", "speaker": "no"}
    long = {"id": "l", "start": 0.05, "duration": 1.9, "text": "all of it", "speaker": 7}
    halves = [
        {"id": i, "start": s, "duration": 1.0, "text": t, "speaker": t} for i, s, t in (("2", 1, "b"), ("1", 0, "a"))
    ]
    rows = [cut("one", of, supervisions=[slip, long]), cut("two", of, supervisions=halves)]
    miniatures.write_jsonl(raw / "cuts.jsonl", rows)
    items, _ = stage1(tmp_path, raw)
    assert (items["one"].text, items["one"].speaker) == ("all of it", "7")
    assert (items["two"].text, items["two"].speaker) == ("a b", "a+b")
    direct = {item.id: item for item in read_items(raw / "cuts.jsonl")}
    assert {n: (i.text, i.speaker) for n, i in direct.items()} == {n: (i.text, i.speaker) for n, i in items.items()}


def test_numbers_in_manifests_of_nemo(tmp_path):
    raw = tmp_path / "raw"
    tones(raw / "a.wav", 300, seconds=3.0)
    tones(raw / "b.wav", 300, seconds=2.0)
    row = {"audio_filepath": "a.wav", "text": "x"}
    rows = [
        {"audio_filepath": "b.wav", "duration": 2.0, "speaker": 0, "text": 42},
        row | {"offset": "1.0", "duration": "1.5", "id": 17},
        row | {"offset": 0.5},
        row | {"audio_filepath": ["a.wav", "b.wav"], "duration": 2.0},
        row | {"offset": "soon", "duration": 1.0, "id": "when"},
        row | {"offset": -3.0, "duration": 1.0, "id": "before"},
        row | {"duration": float("nan"), "id": "never"},
        {"text": "no audio"},
    ]
    miniatures.write_jsonl(raw / "manifest.json", rows)
    items, refused = stage1(tmp_path, raw, "nemo")
    found = {name: (item.start_seconds, item.duration_seconds) for name, item in items.items()}
    assert found == {"b": (0.0, 2.0), "17": (1.0, 1.5), "a-00000500": (0.5, 2.5)}
    assert (items["b"].speaker, items["b"].text) == ("0", "42")
    assert set(refused) == {"line 4", "when", "before", "never", "line 8"} and "a list" in refused["line 4"]


def test_gzipped_manifests_are_read_wherever_plain_ones_are(tmp_path):
    plain = tmp_path / "manifests" / "cuts_a.jsonl"
    plain.parent.mkdir()
    row = cut("u", recording("u", (tones(tmp_path / "u.wav", 300), [0])))
    miniatures.write_jsonl(plain, [row])
    packed = tmp_path / "packed" / "manifests" / "cuts_a.jsonl.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    from spear.evaluate.suites import read_all_items
    from spear.manifest.features import _items

    assert read_cuts([packed]) == read_cuts([plain])
    assert list(read_all_items(packed.parent.parent)) == _items(packed.parent) == read_items(plain)
    assert len(load_sources([SourceConfig("all", str(packed))]).cuts) == 1


# Ranges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"start_seconds": float("nan")},
        {"start_seconds": -1.0},
        {"start_seconds": float("inf")},
        {"duration_seconds": float("nan")},
        {"duration_seconds": float("inf")},
        {"duration_seconds": -1.0},
        {"speed": 0.0},
        {"speed": -1.0},
        {"speed": float("nan")},
        {"num_samples": -1},
        {"channel": -1},
        {"domain": "musik"},
        {"kind": "musik"},
    ],
)
def test_items_have_ranges(tmp_path, changes):
    good = {"start_seconds": 0.0, "duration_seconds": 1.0, "num_samples": 16000, "domain": "speech", "kind": "speech"}
    Item("x", tmp_path, **good)
    with pytest.raises(DataError, match=next(iter(changes))):
        Item("x", tmp_path, **(good | changes))
