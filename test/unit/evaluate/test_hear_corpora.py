"""HEAR's archives to tasks, and the small tasks of its kinds from real recordings."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import hear_corpus
import pytest

from spear.errors import DataError
from spear.evaluate.corpora import hear_mini, prepare_corpus
from spear.evaluate.hear.layout import read_layout, read_rows
from spear.evaluate.hear.suite import HearTasks

REAL_MINI = Path(__file__).resolve().parents[4] / "shared" / "data" / "real-mini"


def test_archives_and_folders_become_tasks_and_what_is_missing_is_counted(tmp_path, caplog):
    made, raw = hear_corpus.make(tmp_path / "made", each=1) / "tasks", tmp_path / "raw"
    (raw / "archives").mkdir(parents=True)
    with tarfile.open(raw / "archives" / "hear2021-animals-v1.0-full-48000.tar.gz", "w:gz") as tar:
        tar.add(made / "animals-v1.0-full", "hear-2021.0.6/tasks/animals-v1.0-full")
    shutil.copytree(made / "chords-v1-full", raw / "tasks" / "chords-v1-full")
    gone = sorted((raw / "tasks" / "chords-v1-full" / "48000" / "fold01").iterdir())[:2]
    for path in gone:
        path.unlink()
    for _ in range(2):  # the second time nothing is unpacked
        counts = prepare_corpus("hear", raw, tmp_path / "data")
        assert counts == {
            "animals-v1.0-full": {"train": 3, "valid": 3, "test": 3},
            "chords-v1-full": {"fold00": 3, "fold01": 1, "fold02": 3, "absent": 2},
        }
        assert "chords-v1-full is a partial copy: 2 recordings are not there" in caplog.text
    suite = HearTasks(tmp_path / "data")
    animals, chords = suite.find(["all"])
    assert len(suite.table(animals).rows) == 9
    skipped = suite.table(chords).skipped
    assert {bad["id"] for bad in skipped} == {f"fold01/{path.name}" for path in gone}


def test_damaged_and_hostile_archives_are_left_out_and_the_others_become_tasks(tmp_path, caplog):
    made, raw = hear_corpus.make(tmp_path / "made", each=1) / "tasks", tmp_path / "raw"
    raw.mkdir()
    for name in ("animals-v1.0-full", "chords-v1-full"):
        with tarfile.open(raw / f"{name}.tar.gz", "w:gz") as tar:
            tar.add(made / name, f"tasks/{name}")
    whole = (raw / "chords-v1-full.tar.gz").read_bytes()
    (raw / "chords-v1-full.tar.gz").write_bytes(whole[: len(whole) // 2])
    (raw / "text.tar.gz").write_text("no archive")
    link = tarfile.TarInfo("tasks/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    device = tarfile.TarInfo("tasks/device")
    device.type = tarfile.CHRTYPE
    for name, member in (("up", tarfile.TarInfo("../../up.txt")), ("link", link), ("device", device)):
        with tarfile.open(raw / f"{name}.tar.gz", "w:gz") as tar:
            tar.addfile(member, io.BytesIO())
    assert prepare_corpus("hear", raw, tmp_path / "data").keys() == {"animals-v1.0-full"}
    for name in ("chords-v1-full", "text", "up", "link", "device"):
        assert f"{name}.tar.gz" in caplog.text and not (tmp_path / "data/.done" / f"{name}.txt").exists()
    assert not list(tmp_path.rglob("up.txt"))


def test_what_an_archive_holds_never_says_that_it_is_unpacked_and_another_one_of_its_name_is_another(tmp_path):
    made, raw = hear_corpus.make(tmp_path / "made", each=1) / "tasks", tmp_path / "raw"
    raw.mkdir()
    for names in (("animals-v1.0-full",), ("chords-v1-full",)):
        with tarfile.open(raw / "x.tar.gz", "w:gz") as tar:
            tar.addfile(tarfile.TarInfo(".done"), io.BytesIO())
            for name in names:
                tar.add(made / name, f"tasks/{name}")
        whole = (raw / "x.tar.gz").read_bytes()
        (raw / "x.tar.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="no task of HEAR below"):
            prepare_corpus("hear", raw, tmp_path / "data")
        (raw / "x.tar.gz").write_bytes(whole)
        assert prepare_corpus("hear", raw, tmp_path / "data").keys() == set(names)
    (raw / "...tar.gz").write_bytes(whole)  # which would be unpacked above the others
    assert prepare_corpus("hear", raw, tmp_path / "data").keys() == {"chords-v1-full"}


def test_an_archive_for_which_the_disk_has_no_room_is_told_and_not_unpacked(tmp_path, caplog, monkeypatch):
    made, raw = hear_corpus.make(tmp_path / "made", each=1) / "tasks", tmp_path / "raw"
    raw.mkdir()
    for name in ("animals-v1.0-full", "chords-v1-full"):
        with tarfile.open(raw / f"{name}.tar.gz", "w:gz") as tar:
            tar.add(made / name, f"tasks/{name}")
    with open(raw / "animals-v1.0-full.tar.gz", "ab") as handle:  # what follows an archive is not read
        handle.write(bytes(10_000_000))
    with monkeypatch.context() as patch:
        patch.setattr("spear.fs.free_bytes", lambda path: 10_000_000)
        assert prepare_corpus("hear", raw, tmp_path / "data").keys() == {"chords-v1-full"}
    assert "animals-v1.0-full.tar.gz, and 10.0 MB of free disk" in caplog.text
    assert not any((tmp_path / "data/unpacked/animals-v1.0-full").iterdir())


def test_tasks_with_damaged_files_are_told_and_the_folder_itself_may_be_named_with_a_dot(tmp_path, monkeypatch):
    tasks = hear_corpus.make(tmp_path / "made", each=1) / "tasks"
    (tasks / "chords-v1-full" / "fold00.json").write_text("[[1], 2]")
    (tasks / "chords-v1-full" / "\u00b2").mkdir()  # a digit to Python, and no number
    (tasks / "animals-v1.0-full" / "\u00b2").mkdir()
    (tasks / "pitches-v2.2-5h" / "labelvocabulary.csv").write_text(f"idx,label\n0,{'x' * 200_000}\n")
    counts = prepare_corpus("hear", tasks, tmp_path / "data")
    assert counts["chords-v1-full"] == counts["pitches-v2.2-5h"] == {}
    assert sum(counts["animals-v1.0-full"].values()) == 9
    assert len(read_rows(read_layout(tasks / "animals-v1.0-full"))[0]) == 9
    monkeypatch.chdir(tasks / "animals-v1.0-full")
    assert prepare_corpus("hear", Path(), tmp_path / "other").keys() == {"animals-v1.0-full"}
    assert (tmp_path / "other" / "tasks" / "animals-v1.0-full" / "train.json").is_file()


def test_a_folder_without_tasks_is_told(tmp_path):
    with pytest.raises(DataError, match="no task of HEAR below"):
        prepare_corpus("hear", tmp_path, tmp_path / "data")


@pytest.mark.skipif(not REAL_MINI.is_dir(), reason="../shared/data/real-mini is not beside the checkout")
def test_small_tasks_of_every_kind_come_from_real_recordings(tmp_path):
    counts = prepare_corpus("hear_mini", REAL_MINI, tmp_path, max_clips=9)
    assert len(counts) == 18
    kinds = set()
    for name in counts:
        layout = read_layout(tmp_path / "tasks" / f"{name}-v1-mini")
        rows, skipped = read_rows(layout)
        assert len(rows) == sum(counts[name].values()) and not skipped
        kinds.add((layout.metadata.embedding_type, layout.metadata.prediction_type, layout.metadata.is_folded))
    assert kinds == {
        ("scene", "multiclass", False),
        ("scene", "multiclass", True),
        ("scene", "multilabel", False),
        ("event", "multilabel", False),
        ("event", "multilabel", True),
    }
    melody = json.loads((tmp_path / "tasks" / "notes_in_time-v1-mini" / "fold00.json").read_text())
    assert all(52 <= int(event["label"]) < 77 for events in melody.values() for event in events)
    percussion = read_rows(read_layout(tmp_path / "tasks" / "percussion-v1-mini"))[0]
    assert {(row.id.split("/")[0], row.id.split("/")[1].split("_")[0]) for row in percussion} == {
        ("fold00", "drumhits"), ("fold01", "pearl-drums"), ("fold02", "sonic-pi"),
    }  # fmt: skip


@pytest.mark.skipif(not REAL_MINI.is_dir(), reason="../shared/data/real-mini is not beside the checkout")
def test_a_second_folder_adds_recordings_of_the_same_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(hear_mini, "_TASKS", {name: hear_mini._TASKS[name] for name in ("wake_words", "sounds")})
    more = tmp_path / "more" / "audio"
    for source in ("wakeword", "esc10", "other"):
        hear_corpus.save_audio(more / source / "new.wav", hear_corpus.np.zeros(1600, "float32"), 16000)
    lines = ["id\tpath\tduration\tkind\tspeaker\ttext\tlabel"]
    lines += [
        f"{s}_new\taudio/{s}/new.wav\t0.1\tspeech\t\t\tkeyword=alexa;class=dog" for s in ("wakeword", "esc10", "other")
    ]
    (more.parent / "manifest.tsv").write_text("\n".join(lines) + "\n")
    found = [prepare_corpus("hear_mini", REAL_MINI, tmp_path / "data", more=more) for more in ("", more.parent)]
    sizes = [{name: sum(counts.values()) for name, counts in one.items()} for one in found]
    assert sizes[1] == sizes[0] | {"wake_words": sizes[0]["wake_words"] + 1}
