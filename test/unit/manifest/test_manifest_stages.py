"""Stages 1 and 2 on small folders of real files: splits, held-out items, lhotse's own reading, restarts."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spear import fs
from spear.audio import load_audio
from spear.bin import fbank, manifests
from spear.errors import ConfigError, DataError
from spear.manifest import read_items, summarise
from spear.manifest.examine import split_windows
from spear.shards import ShardStore

RATE = 16000
TASKS = """
tasks:
  - {name: digits, head: classify, target: 'label:digit', metric: accuracy, select: {kind: speech},
     split: {by: speaker, test: [s3], dev: [s2]}}
  - {name: sounds, head: classify, target: 'label:class', metric: accuracy, select: {kind: event},
     split: {by: id_regex, pattern: '-f(\\d)-', test: [2], dev_fraction: 0.2}}
  - {name: pieces, head: classify, target: 'label:class', metric: accuracy, select: {kind: music}, split: {by: random}}
  - {name: absent, head: ctc, target: phones, metric: per, split: {by: random}}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    data = tmp_path_factory.mktemp("corpus")
    real = data / "elsewhere"
    rng = np.random.default_rng(0)
    rows = []

    def add(item, kind, label, speaker="", text=""):
        path = real / kind / f"{item}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(int(rng.uniform(0.3, 1.2) * RATE)), RATE)
        rows.append(f"{item}\t{kind}/{item}.flac\t\t{kind}\t{speaker}\t{text}\t{label}\tCC0")

    for speaker in range(4):
        for digit in range(3):
            for take in range(2):
                add(f"d{digit}-s{speaker}-{take}", "speech", f"digit={digit};lang=en", f"s{speaker}", f"word {digit}")
    add("mixed", "speech", "overlap;sources=d0-s3-0+d1-s0-0", "s3+s0")
    for name in ("bird", "rain"):
        for number in range(10):
            add(f"{name}-f{1 + number % 2}-{number}", "event", f"class={name}")
    for name, count in (("piano", 8), ("drum", 8), ("gong", 2)):
        for number in range(count):
            add(f"{name}{number}", "music", f"class={name}")
    header = "id\tpath\tduration\tkind\tspeaker\ttext\tlabel\tlicence"
    (real / "manifest.tsv").write_text("\n".join([header, *rows]) + "\n")
    (data / "raw").symlink_to(real)
    (data / "tasks.yaml").write_text(TASKS)
    return data


def prepare(corpus: Path, output: str, *more: str) -> dict[str, object]:
    tasks = ["--tasks", str(corpus / "tasks.yaml")]
    manifests.main(["--raw", str(corpus / "raw"), "--output", str(corpus / output), "--num-jobs", "1", *tasks, *more])
    names = ("speech_train", "audio_train", "heldout")
    return {item.id: item for name in names for item in read_items(corpus / output / f"cuts_{name}.jsonl")}


@pytest.fixture(scope="module")
def items(corpus):
    return prepare(corpus, "manifests")


def test_splits_are_kept_out_of_pretraining(corpus, items):
    assert len(items) == 24 + 1 + 20 + 18
    for item in items.values():
        away = any(split != "train" for split in item.task_splits.values()) or item.id == "mixed"
        assert item.split == ("heldout" if away else "train")
    for item in items.values():
        if "digit" in item.labels:
            assert item.task_splits["digits"] == {"s2": "dev", "s3": "test"}.get(item.speaker, "train")
        if item.kind == "event":
            assert (item.task_splits["sounds"] == "test") == ("-f2-" in item.id)
    held = read_items(corpus / "manifests" / "cuts_heldout.jsonl")
    assert {item.split for item in held} == {"heldout"}
    assert {item.domain for item in read_items(corpus / "manifests" / "cuts_audio_train.jsonl")} == {"audio"}


def test_speed_perturbed_copies_are_of_speech_and_for_pretraining_alone(corpus, items):
    found = prepare(corpus, "perturbed", "--speed-perturb", "[0.8, 1.1]", "--max-seconds", "1.25")
    copies = {name: item for name, item in found.items() if "_sp" in name}
    assert found.keys() - copies.keys() == items.keys()
    speech = [item for item in items.values() if item.split == "train" and item.kind == "speech"]
    slow = [item for item in speech if item.duration_seconds / 0.8 <= 1.25]
    assert copies.keys() == {f"{item.id}_sp0.8" for item in slow} | {f"{item.id}_sp1.1" for item in speech}
    assert 0 < len(slow) < len(speech)
    for name, copy in copies.items():
        original, _, speed = name.rpartition("_sp")
        original = items[original]
        assert copy.speed == float(speed) and copy.split == "train" and not copy.task_splits
        assert (copy.path.name, copy.labels) == (original.path.name, original.labels)
        samples = load_audio(copy.path, RATE, copy.start_seconds, copy.duration_seconds, copy.speed)
        assert len(samples) == pytest.approx(copy.num_samples, abs=1)
        assert len(samples) == pytest.approx(original.num_samples / copy.speed, abs=1)
    from lhotse import CutSet

    for cut in CutSet.from_file(corpus / "perturbed/cuts_speech_train.jsonl"):
        assert cut.duration == pytest.approx(found[cut.id].duration_seconds)
    with pytest.raises(ConfigError, match="0.5 to 2"):
        prepare(corpus, "refused", "--speed-perturb", "[1.0]")


def test_what_lhotse_changed_is_read_changed_or_refused(corpus, items, tmp_path):
    from lhotse import CutSet

    cuts = CutSet.from_file(corpus / "manifests/cuts_speech_train.jsonl").to_eager()
    folder = corpus / "by_lhotse"
    folder.mkdir()
    cuts.perturb_speed(1.1).to_file(folder / "speed.jsonl")
    for item in read_items(folder / "speed.jsonl"):
        assert item.speed == 1.1 and item.id.removesuffix("_sp1.1") in items
    cuts.perturb_volume(0.5).to_file(folder / "volume.jsonl")
    assert {item.gain for item in read_items(folder / "volume.jsonl")} == {0.5}
    cuts.perturb_tempo(1.1).to_file(folder / "tempo.jsonl")
    with pytest.raises(DataError, match="Tempo"):
        read_items(folder / "tempo.jsonl")


def test_random_split_is_stratified_and_drops_small_classes(corpus, items):
    by_class = {}
    for item in items.values():
        if item.kind == "music":
            by_class.setdefault(item.labels["class"], []).append(item.task_splits.get("pieces"))
    assert set(by_class["gong"]) == {None}
    for name in ("piano", "drum"):
        assert by_class[name].count("test") == 2 and by_class[name].count("train") >= 4
    summary = fs.read_json(corpus / "manifests" / "summary.json")
    assert "absent" not in summary["tasks"]
    assert any("gong" in note for note in summary["notes"]) and any("absent is skipped" in n for n in summary["notes"])
    tasks = (corpus / "manifests" / "tasks.yaml").read_text()
    assert "classes:\n  - drum\n  - piano" in tasks and "CC0" not in tasks


def test_items_say_what_the_manifest_said(items):
    item = items["d1-s0-1"]
    assert item.text == "word 1" and item.speaker == "s0" and item.labels == {"digit": "1", "lang": "en"}
    assert item.num_samples == soundfile.info(item.path).frames and item.start_seconds == 0
    assert items["mixed"].labels["note"] == "overlap" and items["bird-f1-0"].speaker is None
    assert pickle.loads(pickle.dumps(item)) == item
    assert summarise(items.values())["groups"]["train speech"]["items"] == 12


def test_recordings_are_relative_and_lhotse_reads_the_cuts(corpus, items, monkeypatch):
    from lhotse import CutSet
    from lhotse.qa import validate

    path = corpus / "manifests" / "cuts_heldout.jsonl"
    assert all(cut["recording"]["sources"][0]["source"].startswith("raw/") for cut in fs.read_jsonl(path))
    monkeypatch.chdir(corpus)
    cuts = CutSet.from_jsonl(path)
    for cut in cuts:
        validate(cut)
    cut = next(iter(cuts))
    assert cut.load_audio().shape == (1, cut.num_samples) == (1, items[cut.id].num_samples)


def test_a_rerun_decodes_nothing_and_a_changed_file_again(corpus, items, tmp_path, monkeypatch):
    before = fs.sha256_file(corpus / "manifests" / "cuts_heldout.jsonl")
    monkeypatch.setattr("spear.manifest.examine.open_sound", lambda path, **_: pytest.fail("decoded again"))
    prepare(corpus, "manifests")
    assert fs.sha256_file(corpus / "manifests" / "cuts_heldout.jsonl") == before
    monkeypatch.undo()
    path = items["gong0"].path
    content, state = path.read_bytes(), path.stat()
    path.write_bytes(b"")
    try:
        assert "gong0" not in prepare(corpus, "again")
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_stored_features_match_and_lost_shards_come_back(corpus, items):
    arguments = ["--manifests", str(corpus / "manifests"), "--output", str(corpus / "fbank"), "--num-jobs", "1"]
    assert fbank.main(arguments) == 0
    store = ShardStore(corpus / "fbank")
    assert set(store.ids) == set(items) and store.width == 128 and store.verify() == []
    assert store.rows("mixed") == (items["mixed"].num_samples + 80) // 160
    stats = fs.read_json(corpus / "stats.json")
    assert stats["fbank_sha256"] == store.meta["fbank_sha256"] and stats["num_frames"] == store.num_rows
    shard = corpus / "fbank" / "fbank-00000.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-8])
    fbank.main(arguments)
    assert shard.read_bytes() == content


def test_too_little_disk_is_refused_first(corpus, items, monkeypatch):
    monkeypatch.setattr(fs, "free_bytes", lambda path: 1000)
    with pytest.raises(ConfigError, match="(?s)1.0 kB free.*on-the-fly"):
        fbank.main(["--manifests", str(corpus / "manifests"), "--output", str(corpus / "no_room")])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("head: classified, target: speaker, metric: accuracy", "head 'classified'"),
        ("head: classify, target: speaker, metric: accuracy, splitt: {by: random}", "splitt"),
        ("head: classify, target: speaker, metric: accuracy, split: {by: fold}", "split by 'fold'"),
        ("head: classify, target: gender, metric: accuracy", "target 'gender'"),
    ],
)
def test_wrong_task_files_are_refused_by_name(corpus, tmp_path, line, words):
    (tmp_path / "t.yaml").write_text(f"tasks: [{{name: x, {line}}}]")
    with pytest.raises(ConfigError, match=words):
        manifests.main(["--raw", str(corpus / "raw"), "--output", str(tmp_path), "--tasks", str(tmp_path / "t.yaml")])


def test_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(DataError, match="no audio file"):
        manifests.main(["--raw", str(tmp_path), "--output", str(tmp_path / "m")])


@pytest.mark.parametrize("samples", [1, 319_999, 320_000, 320_001, 57_600_000])
def test_windows_cover_a_recording_within_the_limit(samples):
    windows = split_windows(samples, 16000, 20.0)
    assert sum(count for _, count in windows) == samples and windows[0][0] == 0
    assert all(start + count == following for (start, count), (following, _) in zip(windows, windows[1:]))
    assert max(count for _, count in windows) <= 320_000
    assert min(count for _, count in windows) >= max(count for _, count in windows) - 1


def test_real_recordings(tmp_path):
    root = Path(__file__).resolve().parents[3]
    raw = root.parent / "shared" / "data" / "real-mini"
    if not raw.is_dir():
        pytest.skip("../shared/data/real-mini is not beside the checkout")
    tasks = root / "egs" / "mini" / "spear" / "conf" / "tasks_real.yaml"
    manifests.main(["--raw", str(raw), "--output", str(tmp_path / "m"), "--tasks", str(tasks), "--num-jobs", "2"])
    summary = fs.read_json(tmp_path / "m" / "summary.json")
    assert summary["coverage"]["usable"] == 1531 and summary["coverage"]["bad"] == 0
    assert {"spoken_digits", "speaker_identification", "sound_events", "instruments"} <= set(summary["tasks"])
    digits = [
        i for i in read_items(tmp_path / "m" / "cuts_heldout.jsonl") if i.task_splits.get("spoken_digits") == "test"
    ]
    assert len(digits) == 200 and {item.speaker for item in digits} == {"fsdd-theo", "fsdd-yweweler"}
