"""Cut sets of others that name commands, servers or pickles: nothing runs, at any door; and whose tokens these are."""

import contextlib
import gzip
import io
import json
import pickle
import re
import tarfile
from pathlib import Path

import miniatures
import numpy as np
import pytest
from lhotse import CutSet, Recording
from lhotse.array import Array

import spear
from spear.audio import save_audio
from spear.bin import export_tokens, manifests
from spear.bin import import_tokens as import_tokens_command
from spear.data import SourceConfig, load_sources
from spear.errors import CardError, DataError
from spear.manifest import foreign, read_items
from spear.manifest.exchange import read_arrays
from spear.quantize import Quantizer, save_quantizer
from spear.shards import ShardWriter
from spear.teachers import identity_of
from spear.tokens import open_stream
from spear.tokens.exchange import import_tokens, imported_card

RATE = 16000


class Touch:
    """A pickle that creates a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def a_cut(folder, name="u0", seconds=2.0, **custom):
    path = folder / f"{name}.wav"
    if not path.exists():
        save_audio(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)), RATE)
    source = {"type": "file", "channels": [0], "source": str(path)}
    of = {"id": name, "sources": [source], "sampling_rate": RATE, "num_samples": round(seconds * RATE)}
    of |= {"duration": seconds, "channel_ids": [0]}
    found = {"id": name, "start": 0.0, "duration": seconds, "channel": 0, "supervisions": [], "recording": of}
    return found | {"custom": custom, "type": "MonoCut"}


def stored(folder, name, rows, shift=0.02, start=0.0):
    """A TemporalArray of random tokens, in a file."""
    path = folder / "arrays" / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.random.default_rng(rows).integers(0, 256, (rows, 4)).astype(np.uint8))
    place = {"storage_type": "numpy_files", "storage_path": str(path.parent), "storage_key": path.name}
    return {"array": place | {"shape": [rows, 4]}, "temporal_dim": 0, "frame_shift": shift, "start": start}


@pytest.fixture(scope="module")
def card():
    quantizer = {"content_sha256": "a" * 64, "num_codebooks": 4, "codebook_size": 256}
    return imported_card("speech", identity_of("wavlm", 21, 1024), quantizer)


def take(source, card, output):
    return import_tokens(read_arrays(source, "codes"), card, output, "cuts")


def storages(marker):
    """Ways to store an array that lhotse would follow."""
    touch = f"touch {marker}"
    yield {"storage_type": "numpy_files", "storage_path": f"pipe:{touch} #", "storage_key": "x.npy"}
    yield {"storage_type": "numpy_files", "storage_path": f"pipe:{touch}", "storage_key": "x.npy"}
    yield {"storage_type": "lilcom_files", "storage_path": f"pipe:{touch} #", "storage_key": "x.llc"}
    yield {"storage_type": "lilcom_url", "storage_path": f"pipe:{touch} #", "storage_key": "x.llc"}
    yield {"storage_type": "numpy_files", "storage_path": f"http://127.0.0.1:9/{marker}", "storage_key": "x.npy"}
    yield {"storage_type": "kaldiio", "storage_path": f"{touch} |", "storage_key": f"{touch} |"}
    yield {
        "storage_type": "memory_raw",
        "storage_path": "",
        "storage_key": pickle.dumps(Touch(marker)).decode("latin1"),
    }
    yield {"storage_type": "memory_npy", "storage_path": "", "storage_key": "x"}
    yield {"storage_type": "shar", "storage_path": "", "storage_key": ""}
    yield {"storage_type": ["numpy_files"], "storage_path": f"pipe:{touch}", "storage_key": "x"}


def test_what_these_manifests_say_is_what_lhotse_does(tmp_path):
    """Else the tests below would show nothing."""
    marker = tmp_path / "marker"
    with contextlib.suppress(Exception):
        Array.from_dict(next(storages(marker)) | {"shape": [1]}).load()
    assert marker.exists()
    marker.unlink()
    source = {"type": "command", "channels": [0], "source": f"touch {marker}"}
    with contextlib.suppress(Exception):
        Recording.from_dict(a_cut(tmp_path)["recording"] | {"sources": [source]}).load_audio()
    assert marker.exists()


def test_the_command_imports_what_is_good_and_runs_nothing(tmp_path, capsys):
    marker = tmp_path / "marker"
    place = next(storages(marker)) | {"shape": [100, 4]}
    rows = [a_cut(tmp_path, "bad", codes=place), a_cut(tmp_path, "good", codes=stored(tmp_path, "good", 100))]
    rows += [a_cut(tmp_path, "narrow", codes=stored(tmp_path, "narrow", 100) | {"frame_shift": 0.02})]
    np.save(tmp_path / "arrays" / "narrow.npy", np.ones((100, 3), dtype=np.uint8))
    rows[2]["custom"]["codes"]["array"]["shape"] = [100, 3]
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    save_quantizer(tmp_path / "quantizer", Quantizer(32, 4))
    words = ["--cuts", str(tmp_path / "cuts.jsonl.gz"), "--field", "codes", "--teacher", "wavlm@21"]
    words += ["--quantizer", str(tmp_path / "quantizer"), "--output", str(tmp_path / "tokens" / "speech")]
    assert import_tokens_command.main(words) == 0
    assert not marker.exists() and open_stream(tmp_path / "tokens" / "speech")[0].ids == ["good"]
    printed = capsys.readouterr().out
    assert "left out bad: 'pipe:" in printed and "left out narrow: an array of shape (100, 3)" in printed


def test_arrays_that_are_commands_are_refused_at_import(card, tmp_path):
    marker = tmp_path / "marker"
    rows = [a_cut(tmp_path, "good", codes=stored(tmp_path, "good", 100))]
    for number, place in enumerate(storages(marker)):
        array = place | {"shape": [100, 4]}
        temporal = {"array": array, "temporal_dim": 0, "frame_shift": 0.02, "start": 0.0}
        rows += [a_cut(tmp_path, f"t{number}", codes=temporal), a_cut(tmp_path, f"a{number}", codes=array)]
    miniatures.write_jsonl(tmp_path / "cuts.jsonl", rows)
    report = take(tmp_path / "cuts.jsonl", card, tmp_path / "tokens" / "speech")
    assert report.cuts == 1 and set(report.quarantined) == {row["id"] for row in rows[1:]}
    assert not marker.exists()


def test_shar_from_others_is_not_followed(card, tmp_path):
    """Neither paths in a tar's JSON, nor arrays of other formats than npy, nor pickles in them."""
    marker, folder = tmp_path / "marker", tmp_path / "shar"
    folder.mkdir()
    names = ["good", "pipe", "pickle"]
    with gzip.open(folder / "cuts.000000.jsonl.gz", "wt") as handle:
        handle.writelines(json.dumps(a_cut(tmp_path, name)) + "\n" for name in names)
    buffer = io.BytesIO()
    np.save(buffer, np.asarray([Touch(marker)], dtype=object), allow_pickle=True)
    plain = io.BytesIO()
    np.save(plain, np.ones((100, 4), dtype=np.uint8))
    contents = {"good": plain.getvalue(), "pipe": plain.getvalue(), "pickle": buffer.getvalue()}
    with tarfile.open(folder / "codes.000000.tar", "w") as tar:
        for name in names:
            place = {"storage_type": "numpy_files", "storage_path": f"pipe:touch {marker} #", "storage_key": "x"}
            array = {"array": place | {"shape": [100, 4]}, "temporal_dim": 0, "frame_shift": 0.02, "start": 0.0}
            for suffix, content in ((".npy", contents[name]), (".json", json.dumps(array).encode())):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    report = take(folder, card, tmp_path / "tokens" / "speech")
    assert report.cuts == 2 and list(report.quarantined) == ["pickle"] and not marker.exists()


def hostile_recordings(folder, marker):
    """Cuts whose audio, or something else in them, is no file."""
    for kind, text in (("command", f"touch {marker}"), ("url", "http://127.0.0.1:9/x.wav"), ("memory", "UklGRg==")):
        row = a_cut(folder, f"{kind}")
        row["recording"]["sources"][0] |= {"type": kind, "source": text}
        yield row
    for kind in ("shar", "Command", ["command"]):
        row = a_cut(folder, f"other-{kind}")
        row["recording"]["sources"][0] |= {"type": kind, "source": f"touch {marker}"}
        yield row
    row = a_cut(folder, "second")
    row["recording"]["sources"].append({"type": "command", "channels": [1], "source": f"touch {marker}"})
    yield row
    row = a_cut(folder, "piped")
    row["recording"]["sources"][0]["source"] = f"pipe:touch {marker}"
    yield row


def more_hostile(folder, marker):
    """What is of no use to us, but would be given to lhotse in an export."""
    place = {"storage_type": "numpy_files", "storage_path": f"pipe:touch {marker} #", "storage_key": "x", "shape": [1]}
    yield a_cut(folder, "other-field", other=place)
    source = {"type": "command", "channels": [0], "source": f"touch {marker}"}
    of = a_cut(folder, "u")["recording"] | {"sources": [source]}
    yield a_cut(folder, "other-recording", target=of)
    yield a_cut(folder, "features") | {"features": {"type": "fbank", **place}}
    yield a_cut(folder, "../../../up") | {"custom": {}}


@pytest.mark.parametrize("form", ["pointers", "numpy", "shar"])
def test_nothing_runs_and_nothing_is_written_outside_at_export(card, tmp_path, form):
    marker, data = tmp_path / "marker", tmp_path / "data"
    (data / "manifests").mkdir(parents=True)
    rows = [*hostile_recordings(data, marker)]
    rows += [a_cut(data, f"more-{n}") | {k: v for k, v in row.items() if k != "id"} for n, row in enumerate(
        more_hostile(tmp_path / "data", marker)) if row["id"] != "../../../up"]  # fmt: skip
    rows += [a_cut(data, "u") | {"id": "../../../up"}, a_cut(data, "u") | {"id": f"{tmp_path}/absolute"}]
    good = a_cut(data, "good; touch marker.wav")  # the name of a file may be anything
    good["id"] = "good"
    miniatures.write_jsonl(data / "manifests" / "cuts.jsonl", [*rows, good])
    stream = data / "tokens" / "speech"
    card.save(stream)
    with ShardWriter(stream, "s", np.uint8, 4, {"unit_sha256": "x", "quarantined": [], "trimmed": 0}) as writer:
        for row in [*rows, good]:
            writer.add(row["id"], np.ones((100, 4), dtype=np.uint8))
    before = {path for path in tmp_path.rglob("*")}
    output = tmp_path / "out" / "export"
    words = ["--cuts", str(data / "manifests" / "cuts.jsonl"), "--tokens", str(data / "tokens")]
    assert export_tokens.main([*words, "--output", str(output), "--format", form]) == 0
    new = {path for path in tmp_path.rglob("*")} - before - {tmp_path / "out"}
    assert not marker.exists() and all(path.is_relative_to(output) for path in new)
    read = CutSet.from_shar(in_dir=output / "cuts") if form == "shar" else CutSet.from_jsonl(output / "cuts.jsonl")
    assert {cut.id for cut in read} - {f"{tmp_path}/absolute"} == {"good"}
    for cut in read:
        assert cut.load_custom("speech_codebook_indexes").shape == (100, 4)


@pytest.mark.parametrize("form", ["pointers", "shar"])
def test_a_cut_that_lhotse_cannot_read_does_not_end_the_export(card, tmp_path, form, capsys):
    """One of another kind, with a field unknown to lhotse, or whose recording is shorter than it was."""
    data = tmp_path / "data"
    (data / "manifests").mkdir(parents=True)
    rows = [a_cut(data, "kind") | {"type": "Foo"}, a_cut(data, "features") | {"features": 5}, a_cut(data, "rate")]
    del rows[2]["recording"]["sampling_rate"]
    rows += [a_cut(data, "gone"), a_cut(data, "short"), a_cut(data, "good")]
    (data / "gone.wav").unlink()
    save_audio(data / "short.wav", np.zeros(RATE), RATE)
    miniatures.write_jsonl(data / "manifests" / "cuts.jsonl", rows)
    card.save(data / "tokens" / "speech")
    extra = {"unit_sha256": "x", "quarantined": [], "trimmed": 0}
    with ShardWriter(data / "tokens" / "speech", "s", np.uint8, 4, extra) as writer:
        for row in rows:
            writer.add(row["id"], np.full((100, 4), len(row["id"]), dtype=np.uint8))
    words = ["--cuts", str(data / "manifests" / "cuts.jsonl"), "--tokens", str(data / "tokens")]
    assert export_tokens.main([*words, "--output", str(tmp_path / "out"), "--format", form]) == 0
    printed = capsys.readouterr()
    good = ["good"] if form == "shar" else ["gone", "short", "good"]
    assert all(f"left out {row['id']!a}" in printed.out + printed.err for row in rows if row["id"] not in good)
    folder = tmp_path / "out"
    read = CutSet.from_shar(in_dir=folder / "cuts") if form == "shar" else CutSet.from_jsonl(folder / "cuts.jsonl")
    values = {cut.id: cut.load_custom("speech_codebook_indexes") for cut in read}
    assert list(values) == good and all((value == len(name)).all() for name, value in values.items())


@pytest.mark.parametrize(
    "place",
    [
        "./pipe:x",
        " .//pipe:x",
        "a/../pipe:x",
        "\npipe:x",
        " http://h/x",
        "ht\ntp://h/x",
        "\x1fs3://b/x",
        "\thttp:\t//h/x",
    ],
)
def test_places_that_a_library_may_take_for_a_command_or_a_url(place):
    assert foreign.place_problem(place)


def test_nothing_runs_where_manifests_are_read(tmp_path):
    marker, raw = tmp_path / "marker", tmp_path / "raw"
    raw.mkdir()
    rows = [*hostile_recordings(raw, marker)]
    miniatures.write_jsonl(raw / "cuts.jsonl", [*rows, a_cut(raw, "good")])
    refused: list[dict] = []
    assert [item.id for item in read_items(raw / "cuts.jsonl", refused)] == ["good"]
    assert len(refused) == len(rows)
    assert len(load_sources([SourceConfig("all", str(raw / "cuts.jsonl"))]).cuts) == 1
    words = ["--raw", str(raw), "--corpus", "lhotse", "--output", str(tmp_path / "m"), "--num-jobs", "1"]
    assert manifests.main([*words, "--max-bad-fraction", "1"]) == 0
    assert [item.id for item in read_items(tmp_path / "m" / "cuts_speech_train.jsonl")] == ["good"]
    assert not marker.exists()


def test_lhotse_makes_objects_of_others_in_one_place_alone():
    """So that no door is left without its check."""
    makes = re.compile(r"from_(?:jsonl|file|shar|dicts?)\b|load_manifest|load_custom|load_audio\(\)|deserialize")
    root = Path(spear.__file__).parent
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    found = {name for name, text in texts.items() if "import lhotse" in text or "from lhotse" in text}
    found = {name for name in found if makes.search(texts[name])}
    assert found == {"manifest/exchange.py"}
    assert len(re.findall(r"CutSet\.from|Array\.from_dict", texts["manifest/exchange.py"])) == 2


def test_an_export_of_nothing_is_an_error(card, tmp_path):
    (tmp_path / "manifests").mkdir()
    miniatures.write_jsonl(tmp_path / "manifests" / "cuts.jsonl", [a_cut(tmp_path)])
    words = ["--cuts", str(tmp_path / "manifests" / "cuts.jsonl"), "--output", str(tmp_path / "out")]
    with pytest.raises(DataError, match="no stream"):
        export_tokens.main([*words, "--tokens", str(tmp_path / "nowhere")])
    stream = tmp_path / "tokens" / "speech"
    card.save(stream)
    with ShardWriter(stream, "s", np.uint8, 4, {}) as writer:
        writer.add("another", np.ones((100, 4), dtype=np.uint8))
    with pytest.raises(DataError, match="no cut"):
        export_tokens.main([*words, "--tokens", str(tmp_path / "tokens")])
    with pytest.raises(DataError, match="gone"):
        export_tokens.main(["--cuts", "gone.jsonl", *words[2:], "--tokens", str(tmp_path / "tokens")])


# Whose tokens? -----------------------------------------------------------------------------------------------------


def test_tokens_at_another_rate_are_refused(card, tmp_path):
    miniatures.write_jsonl(tmp_path / "cuts.jsonl", [a_cut(tmp_path, codes=stored(tmp_path, "u0", 200, shift=0.01))])
    output = tmp_path / "tokens" / "speech"
    with pytest.raises(CardError, match=r"'u0', a stated frame shift of 0.01 s\n  expected: 0.02 s"):
        take(tmp_path / "cuts.jsonl", card, output)
    assert not list(output.glob("*"))
    rows = [a_cut(tmp_path, codes=stored(tmp_path, "u0", 100))]
    miniatures.write_jsonl(tmp_path / "cuts.jsonl", rows)
    assert take(tmp_path / "cuts.jsonl", card, output).cuts == 1


def test_more_rows_than_the_audio_has(card, tmp_path):
    """130 rows for 2 s are of other audio; so are those of the original for a copy at another speed."""
    fast = a_cut(tmp_path, "fast", codes=stored(tmp_path, "fast", 100))
    fast |= {"duration": 1.8181875}
    fast["recording"] |= {"duration": 1.8181875, "transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}
    rows = [
        a_cut(tmp_path, "good", codes=stored(tmp_path, "good", 100)),
        a_cut(tmp_path, "longer", codes=stored(tmp_path, "longer", 130)),
        a_cut(tmp_path, "plain", codes=stored(tmp_path, "plain", 130)["array"]),
        a_cut(tmp_path, "shorter", codes=stored(tmp_path, "shorter", 90)),
        a_cut(tmp_path, "shape", codes=stored(tmp_path, "shape", 130)),
        fast,
    ]
    rows[4]["custom"]["codes"]["array"]["shape"] = [100, 4]  # not what the file holds
    whole = a_cut(tmp_path, "part", codes=stored(tmp_path, "part", 100))
    part = whole | {"start": 0.5, "duration": 1.0}  # a part of a longer cut has its part of the rows
    padded = a_cut(tmp_path, "inner", codes=stored(tmp_path, "inner", 130))
    silence = {"id": "p", "duration": 0.6, "sampling_rate": RATE, "feat_value": -23.0, "type": "PaddingCut"}
    mixed = {
        "id": "padded",
        "type": "MixedCut",
        "tracks": [{"cut": padded, "offset": 0.0}, {"cut": silence, "offset": 2.0}],
    }
    miniatures.write_jsonl(tmp_path / "cuts.jsonl", [*rows, part, mixed])
    report = take(tmp_path / "cuts.jsonl", card, tmp_path / "speech")
    assert set(report.quarantined) == {"longer", "plain", "shorter", "shape", "fast"}
    store, _ = open_stream(tmp_path / "speech")
    assert {name: len(store.read(name)) for name in store.ids} == {
        "good": 99,
        "part": 49,
        "padded": 99,
    }  # as WavLM makes them
    all_rows = np.load(tmp_path / "arrays" / "part.npy")
    np.testing.assert_array_equal(store.read("part"), all_rows[25:74])
