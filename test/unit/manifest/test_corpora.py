"""Corpora in their own layouts: what is listed, what is held out, what is missing."""

import gzip
import json

import miniatures
import pytest

from spear import fs
from spear.bin import manifests
from spear.errors import ConfigError, DataError
from spear.manifest import read_items
from spear.manifest.corpora import CORPORA, scan_corpus


def make(corpus, raw, output, *more):
    """Stage 1 of a corpus; returns its items and summary."""
    words = ["--raw", str(raw), "--corpus", corpus, "--name", corpus, "--output", str(output), "--num-jobs", "1"]
    assert manifests.main([*words, *more]) == 0
    items = {part: read_items(output / f"cuts_{corpus}_{part}.jsonl") for part in ("train", "heldout")}
    return items, fs.read_json(output / f"summary_{corpus}.json")


def test_librispeech_is_read_as_lhotse_reads_it(tmp_path):
    from lhotse.recipes import prepare_librispeech

    raw = miniatures.librispeech(tmp_path / "raw", 12)
    items, summary = make("librispeech", raw, tmp_path / "data" / "manifests")
    parts = prepare_librispeech(raw / "LibriSpeech", dataset_parts=["train-clean-100", "dev-clean"])
    for part, ours in (("train-clean-100", items["train"]), ("dev-clean", items["heldout"])):
        theirs = {s.id: s for s in parts[part]["supervisions"]}
        assert {i.id for i in ours} == set(theirs) and ours
        for item in ours:
            segment = theirs[item.id]
            assert (item.text, item.speaker) == (segment.text, segment.speaker)
            assert item.duration_seconds == pytest.approx(segment.duration) and item.domain == "speech"
    assert summary["coverage"] == {"listed": 12, "usable": 12, "usable_fraction": 1.0, "missing": 0, "bad": 0}


def test_the_part_folders_may_be_given_directly(tmp_path):
    raw = miniatures.librispeech(tmp_path, 4) / "LibriSpeech"
    assert len(scan_corpus("librispeech", raw).entries) == 4
    with pytest.raises(DataError, match="train-clean-100"):
        scan_corpus("librispeech", raw / "dev-clean")


def test_audioset_clips_are_found_whatever_they_are_called(tmp_path):
    raw = miniatures.audioset(tmp_path / "raw", 12)
    items, summary = make("audioset", raw, tmp_path / "data" / "manifests")
    assert summary["coverage"]["usable"] == 12 and summary["coverage"]["missing"] == 0
    assert len(items["heldout"]) == 4 and all("eval" in str(item.path) for item in items["heldout"])
    assert {item.domain for item in items["train"]} == {"audio"}
    assert all(item.id.startswith("as-") and item.labels["labels"].startswith("/m/09x0r") for item in items["train"])


@pytest.mark.parametrize("corpus", ["librispeech", "audioset"])
def test_partial_and_damaged_copies_are_normal(corpus, tmp_path):
    raw = getattr(miniatures, corpus)(tmp_path / "raw", 20)
    _, whole = make(corpus, raw, tmp_path / "whole" / "manifests")
    missing, corrupt = miniatures.damage(raw)
    assert (missing, corrupt) == (6, 3)
    _, part = make(corpus, raw, tmp_path / "part" / "manifests")
    assert part["coverage"] == {"listed": 20, "usable": 11, "usable_fraction": 0.55, "missing": 6, "bad": 3}
    assert part["ids_sha256"] != whole["ids_sha256"] and part["items"] == 11
    reasons = [row["reason"] for row in fs.read_jsonl(tmp_path / "part/manifests" / f"quarantine_{corpus}.jsonl")]
    assert len(reasons) == 9 and sum(reason.startswith("missing") for reason in reasons) == 6


def test_corpora_share_an_output(tmp_path):
    output = tmp_path / "data" / "manifests"
    speech, _ = make("librispeech", miniatures.librispeech(tmp_path / "ls", 4), output)
    audio, _ = make("audioset", miniatures.audioset(tmp_path / "as", 6), output)
    names = {path.name for path in output.glob("cuts_*.jsonl")}
    assert names == {f"cuts_{c}_{p}.jsonl" for c in ("librispeech", "audioset") for p in ("train", "heldout")}
    assert len(read_items(output / "cuts_librispeech_train.jsonl")) == len(speech["train"])


def test_gigaspeech_segments(tmp_path):
    miniatures.noise(tmp_path / "raw/audio/podcast/P0/POD1.wav", 12)
    segments = [("POD1_S0", 0.5, 4.0, ["{XL}"]), ("POD1_S1", 4.0, 7.25, ["{DEV}"]), ("POD1_S2", 11.0, 15.0, ["{XL}"])]
    listing = {
        "audios": [
            {
                "aid": "POD1",
                "path": "audio/podcast/P0/POD1.wav",
                "segments": [
                    {"sid": s, "begin_time": a, "end_time": b, "text_tn": s.upper(), "subsets": of}
                    for s, a, b, of in segments
                ],
            }
        ]
    }
    (tmp_path / "raw/GigaSpeech.json").write_text(json.dumps(listing))
    items, summary = make("gigaspeech", tmp_path / "raw", tmp_path / "data/manifests")
    (item,) = items["train"]
    assert (item.id, item.start_seconds, item.duration_seconds, item.text) == ("POD1_S0", 0.5, 3.5, "POD1_S0")
    assert [held.id for held in items["heldout"]] == ["POD1_S1"]
    assert summary["coverage"]["bad"] == 1  # the last segment ends after the recording
    cut = fs.read_jsonl(tmp_path / "data/manifests/cuts_gigaspeech_train.jsonl")[0]
    assert cut["recording"]["id"] == "POD1" and cut["recording"]["num_samples"] == 12 * 16000


def test_libriheavy_cuts_find_their_audio(tmp_path):
    audio = miniatures.noise(tmp_path / "raw/librilight/large/100/book/part.flac", 9)
    recording = {"id": "large/100/book/part", "sampling_rate": 16000, "num_samples": 144000, "duration": 9.0}
    source = {"type": "file", "channels": [0], "source": "download/librilight/large/100/book/part.flac"}
    recording |= {"sources": [source], "channel_ids": [0]}
    cuts = []
    for number, (start, duration) in enumerate(((0.0, 3.0), (3.0, 2.5))):
        supervision = {"id": f"s{number}", "speaker": "100", "custom": {"texts": ["With Case.", "WITH CASE"]}}
        cut = {"id": f"large/100/{number}", "start": start, "duration": duration, "channel": 0, "type": "MonoCut"}
        cuts.append(cut | {"supervisions": [supervision], "recording": recording})
    with gzip.open(tmp_path / "raw/libriheavy_cuts_large.jsonl.gz", "wt") as handle:
        handle.writelines(json.dumps(cut) + "\n" for cut in cuts)
    miniatures.write_jsonl(tmp_path / "raw/libriheavy_cuts_dev.jsonl", [cuts[0] | {"id": "dev/0"}])
    items, _ = make("libriheavy", tmp_path / "raw", tmp_path / "data/manifests")
    assert [(i.id, i.start_seconds, i.duration_seconds) for i in items["train"]] == [
        ("large/100/0", 0.0, 3.0),
        ("large/100/1", 3.0, 2.5),
    ]
    assert items["train"][0].path.samefile(audio) and items["train"][0].text == "With Case."
    assert [item.id for item in items["heldout"]] == ["dev/0"]


def test_what_lhotse_prepared_is_read(tmp_path):
    from lhotse.recipes import prepare_librispeech

    raw = miniatures.librispeech(tmp_path / "raw", 8)
    prepare_librispeech(raw / "LibriSpeech", dataset_parts=["train-clean-100"], output_dir=raw / "manifests")
    items, _ = make("lhotse", raw, tmp_path / "data/manifests")
    assert {i.id for i in items["train"]} == {e.id for e in scan_corpus("librispeech", raw).entries if not e.heldout}


def test_what_lhotse_changed_is_no_recording(tmp_path):
    from lhotse import CutSet
    from lhotse.recipes import prepare_librispeech

    raw = miniatures.librispeech(tmp_path / "raw", 8)
    prepared = prepare_librispeech(raw / "LibriSpeech", dataset_parts=["train-clean-100"])["train-clean-100"]
    cuts = CutSet.from_manifests(prepared["recordings"], prepared["supervisions"])
    (raw / "manifests").mkdir()
    (cuts + cuts.perturb_speed(0.9)).to_file(raw / "manifests" / "cuts.jsonl")
    items, summary = make("lhotse", raw, tmp_path / "data/manifests")
    assert len(items["train"]) == len(cuts) and not any("_sp" in item.id for item in items["train"])
    assert sum(count for reason, count in summary["quarantine"].items() if "not a recording" in reason) == len(cuts)


def test_nemo_manifests(tmp_path):
    miniatures.noise(tmp_path / "raw/en000/a.wav", 6)
    rows = [{"audio_filepath": "en000/a.wav", "duration": 2.0, "offset": 1.5, "text": "x"}]
    rows.append({"audio_filepath": "en000/a.wav", "duration": 1.0, "offset": 4.0, "id": "own"})
    miniatures.write_jsonl(tmp_path / "raw/en000.jsonl", rows)
    items, _ = make("yodas_granary", tmp_path / "raw", tmp_path / "data/manifests")
    assert [(i.id, i.start_seconds) for i in items["train"]] == [("en000/a-00001500", 1.5), ("own", 4.0)]


def test_tables_of_audio_corpora(tmp_path):
    vgg = tmp_path / "vgg"
    miniatures.noise(vgg / "clips/abcdefghijk_000030.wav", 1)
    miniatures.noise(vgg / "clips/-bcdefghijk_000001.flac", 1)
    (vgg / "vggsound.csv").write_text(
        'abcdefghijk,30,"people, talking",train\n-bcdefghijk,1,dog,test\nzzzzzzzzzzz,2,cat,train\n'
    )
    items, summary = make("vggsound", vgg, tmp_path / "data/manifests")
    assert items["train"][0].id == "vgg-abcdefghijk_000030" and items["train"][0].labels == {"class": "people, talking"}
    assert len(items["heldout"]) == 1 and summary["coverage"]["missing"] == 1

    fsd = tmp_path / "fsd"
    for folder, name in (("dev", "1"), ("dev", "2"), ("eval", "3")):
        miniatures.noise(fsd / f"FSD50K.{folder}_audio/{name}.wav", 1)
    (fsd / "FSD50K.ground_truth").mkdir()
    (fsd / "FSD50K.ground_truth/dev.csv").write_text(
        'fname,labels,mids,split\n1,"A,B","/m/1,/m/2",train\n2,A,/m/1,val\n'
    )
    (fsd / "FSD50K.ground_truth/eval.csv").write_text("fname,labels,mids\n3,A,/m/1\n")
    items, _ = make("fsd50k", fsd, tmp_path / "data/manifests")
    assert [i.id for i in items["train"]] == ["fsd-1"] and {i.id for i in items["heldout"]} == {"fsd-2", "fsd-3"}

    mtg = tmp_path / "mtg"
    miniatures.noise(mtg / "14/214.wav", 25)
    header = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
    (mtg / "raw_30s.tsv").write_text(
        f"{header}\ntrack_0000214\tartist_000014\talbum_000031\t14/214.wav\t25\tgenre\tmood\n"
    )
    items, _ = make("mtg_jamendo", mtg, tmp_path / "data/manifests", "--max-seconds", "10")
    assert [i.id for i in items["train"]] == [f"mtg_jamendo/14/214-w{n:04d}" for n in range(3)]
    assert items["train"][0].kind == "music" and items["train"][0].speaker == "artist_000014"

    music = tmp_path / "m4a"
    miniatures.noise(music / "audios/0009fFIM1eYThaPg.wav", 1)
    (music / "id_information.csv").write_text("id\tartist\tsong\talbum_name\n0009fFIM1eYThaPg\tCheryl\tRain\tWords\n")
    items, _ = make("music4all", music, tmp_path / "data/manifests")
    assert items["train"][0].id == "m4a-0009fFIM1eYThaPg"


def test_folders_of_one_kind_have_ids_of_their_own(tmp_path):
    for corpus in ("freesound", "bbc"):
        miniatures.noise(tmp_path / corpus / "a/1.wav", 1)
        items, _ = make(corpus, tmp_path / corpus, tmp_path / "data/manifests")
        assert [(i.id, i.kind, i.domain) for i in items["train"]] == [(f"{corpus}/a/1", "event", "audio")]


def test_voxpopuli_in_its_two_forms(tmp_path):
    """Segments by language and year, and whole sessions, which are cut into windows; a damaged file is listed."""
    raw = tmp_path / "raw"
    for language, year in (("en", 2009), ("de", 2019)):
        name = f"{year}0112-0900-PLENARY-3_{language}"
        miniatures.noise(raw / f"unlabelled_data/{language}/{year}/{name}_0.ogg", 2)
        miniatures.noise(raw / f"raw_audios/{language}/{year}/{name}.ogg", 25)
    (raw / "unlabelled_data/en/2009/20090113-0900-PLENARY-4_en_7.ogg").write_bytes(b"OggS and nothing more")
    items, summary = make("voxpopuli", raw, tmp_path / "data/manifests", "--max-seconds", "10")
    assert not items["heldout"] and {(i.kind, i.domain) for i in items["train"]} == {("speech", "speech")}
    ids = [item.id for item in items["train"]]
    assert "voxpopuli/unlabelled_data/de/2019/20190112-0900-PLENARY-3_de_0" in ids
    assert sum(name.startswith("voxpopuli/raw_audios/en/2009/20090112-0900-PLENARY-3_en-w") for name in ids) == 3
    assert sum(item.duration_seconds for item in items["train"]) == pytest.approx(54, abs=0.01)
    assert summary["coverage"]["bad"] == 1 and len(ids) == len(set(ids)) == 8


def test_headers_alone_can_be_read(tmp_path):
    raw = miniatures.librispeech(tmp_path / "raw", 4)
    victim = next(path for path in miniatures.audio_files(raw) if "train" in str(path))
    with open(victim, "r+b") as handle:
        handle.seek(victim.stat().st_size // 2)
        handle.write(b"\0" * 400)
    _, quick = make("librispeech", raw, tmp_path / "quick/manifests", "--decode", "false")
    _, full = make("librispeech", raw, tmp_path / "full/manifests")
    assert (quick["coverage"]["bad"], full["coverage"]["bad"]) == (0, 1)


@pytest.mark.parametrize("corpus", sorted(set(CORPORA) - {"folder", "lhotse", "nemo"}))
def test_a_folder_of_another_layout_is_explained(corpus, tmp_path):
    (tmp_path / "something.txt").write_text("x")
    with pytest.raises(DataError) as caught:
        scan_corpus(corpus, tmp_path)
    assert caught.value.expected


def test_an_unknown_corpus_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'librispeech'"):
        scan_corpus("libri_speech", tmp_path)
