"""Extraction: the same bytes whatever happens, bad cuts listed, the limit kept."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from token_fakes import BlockTeacher, Cut, SignQuantizer, make_cuts, make_streams

from spear.audio import load_audio
from spear.errors import CardError, DataError
from spear.shards import ShardStore, ShardWriter
from spear.tokens.budget import estimate
from spear.tokens.command import REQUEUE_EXIT_CODE, interruptible
from spear.tokens.extract import ExtractSettings, extract, pending_streams, remove_stale, write_quarantine
from spear.tokens.streams import embedding_stream, token_stream
from spear.tokens.units import plan_units

SETTINGS = ExtractSettings(max_seconds=5.0, num_workers=1, max_bad_fraction=0.05)


def _run(cuts, output, leak=False, rank=0, world_size=1, unit_seconds=4.0, settings=SETTINGS, streams=None):
    streams = streams or make_streams(output, leak)
    for stream in streams:
        stream.prepare(overwrite=False)
    units = plan_units({"train": cuts}, unit_seconds)
    report = extract(units, streams, settings, rank=rank, world_size=world_size)
    write_quarantine(output / "quarantine.jsonl", units, streams)
    return report, units, streams


def _bytes(output):
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("leak", [False, True])
def test_tokens_are_those_of_each_cut_alone(cuts, tmp_path, leak):
    report, units, streams = _run(cuts, tmp_path / "out", leak)
    assert report.units_done == len(units) > 3 and report.quarantined == {}
    for stream in streams:
        store = ShardStore(stream.directory)
        expected = [cut for cut in cuts if stream.name != "audio" or cut.domain == "audio"]
        assert sorted(store.ids) == sorted(cut.id for cut in expected)
        for cut in expected:
            wave = torch.from_numpy(load_audio(cut.path))[None]
            x_BTD, _ = stream.teacher.embed(wave, torch.tensor([wave.shape[1]]))
            np.testing.assert_array_equal(store.read(cut.id), stream.quantizer.encode(x_BTD[0]).numpy())
    # Streams of one teacher share its forward pass.
    batches = len(streams[0].teacher.batches)
    assert (batches == len(streams[1].teacher.batches)) and streams[0].teacher is streams[1].teacher


def test_padded_batches_keep_the_limit_and_leaky_teachers_get_equal_lengths(cuts, tmp_path):
    _, _, streams = _run(cuts, tmp_path / "a")
    for lengths in streams[0].teacher.batches:
        assert int(lengths.max()) * len(lengths) <= 5.0 * 16000
    assert max(len(lengths) for lengths in streams[0].teacher.batches) > 1
    _, _, streams = _run(cuts, tmp_path / "b", leak=True)
    assert all(len(set(lengths.tolist())) == 1 for lengths in streams[0].teacher.batches)


def test_ranks_and_reruns_give_the_same_bytes(cuts, tmp_path):
    _run(cuts, tmp_path / "one")
    for rank in (1, 0):
        _run(cuts, tmp_path / "two", rank=rank, world_size=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.npy")}
    report, _, _ = _run(cuts, tmp_path / "one")
    assert report.units_done == 0 and report.units_before > 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.npy")}


def _run_until_killed(cuts, output, fatal_event):
    """Ends by SIGKILL at the given event: an encoding, an item added, or a file about to be renamed into place."""
    torch.set_num_threads(1)
    events = itertools.count(1)

    def fatal(function):
        def wrapper(*arguments, **options):
            if next(events) == fatal_event:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    ShardWriter.add, os.replace = fatal(ShardWriter.add), fatal(os.replace)
    streams = make_streams(output)
    for stream in streams:
        stream.rows = fatal(stream.rows)
    _run(cuts, output, streams=streams)


def test_killed_ten_times_gives_the_same_bytes(cuts, tmp_path):
    _run(cuts, tmp_path / "calm")
    generator = np.random.default_rng(0)
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        arguments = (cuts, tmp_path / "killed", int(generator.integers(1, 30)))
        process = context.Process(target=_run_until_killed, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    _run(cuts, tmp_path / "killed")
    assert _bytes(tmp_path / "calm") == _bytes(tmp_path / "killed")


def _spoil(cuts, tmp_path):
    """One cut of every bad kind, at the end of a copy of the list."""
    corpus = tmp_path / "bad"
    corpus.mkdir()
    (corpus / "text.wav").write_text("this is no audio")
    shutil.copy(cuts[0].path, corpus / "wrong.wav")
    shutil.copy(cuts[1].path, corpus / "tiny.wav")
    return [
        *cuts,
        Cut("no-audio", corpus / "text.wav", 1.0, 16000),
        Cut("absent", corpus / "absent.wav", 1.0, 16000),
        Cut("tiny", corpus / "tiny.wav", 0.01, 160),
        Cut("too-long", corpus / "wrong.wav", 9.0, 9 * 16000),
    ]


def test_bad_cuts_are_listed_and_the_run_goes_on(cuts, tmp_path):
    spoiled = _spoil(cuts, tmp_path)
    report, _, streams = _run(spoiled, tmp_path / "out", settings=ExtractSettings(5.0, 1, 0.5))
    assert set(report.quarantined) == {"no-audio", "absent", "tiny", "too-long"}
    store = ShardStore(streams[0].directory)
    assert len(store) == len(cuts)
    entries = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["id"] for entry in entries} == set(report.quarantined)
    assert {entry["stream"] for entry in entries} == {"speech", "speech2"}
    assert all(entry["reason"] and entry["path"].startswith(str(tmp_path)) for entry in entries)
    # Shards must not know where the corpus lies.
    for path in (tmp_path / "out" / "speech").glob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_too_many_bad_cuts_stop_the_run_but_keep_what_is_done(cuts, tmp_path):
    spoiled = _spoil(cuts, tmp_path)
    with pytest.raises(DataError, match="of 34 cuts"):
        _run(spoiled, tmp_path / "out")
    assert len(ShardStore(tmp_path / "out" / "speech")) == len(cuts)
    report, _, _ = _run(spoiled, tmp_path / "out", settings=ExtractSettings(5.0, 1, 0.5))
    assert report.units_done <= 1


def test_retry_quarantined_repeats_only_those_units(cuts, tmp_path):
    spoiled = [*cuts, Cut("later", tmp_path / "later.wav", 1.0, 16000)]
    _run(spoiled, tmp_path / "out")
    shutil.copy(cuts[0].path, tmp_path / "later.wav")
    fixed = [*cuts, Cut("later", tmp_path / "later.wav", 1.0, 16000)]
    report, units, _ = _run(fixed, tmp_path / "out")
    assert report.units_done == 0 and "later" in report.quarantined
    samples = load_audio(cuts[0].path)
    from spear.audio import save_audio

    save_audio(tmp_path / "later.wav", np.resize(samples, 16000), 16000)
    report, _, streams = _run(fixed, tmp_path / "out", settings=ExtractSettings(5.0, 1, 0.05, retry_quarantined=True))
    assert report.units_done == 1 and report.quarantined == {}
    assert "later" in ShardStore(streams[0].directory)


@pytest.mark.parametrize(("extra", "trimmed", "bad"), [(0, 0, 0), (1, 30, 0), (-1, 30, 0), (2, 0, 30)])
def test_one_frame_is_trimmed_and_more_is_refused(cuts, tmp_path, extra, trimmed, bad):
    teacher = BlockTeacher(extra_frames=extra)
    streams = [token_stream("s", teacher, SignQuantizer(teacher), "q", tmp_path / "out" / "s")]
    settings = ExtractSettings(5.0, 1, 1.0)
    report, _, _ = _run(cuts, tmp_path / "out", streams=streams, settings=settings)
    assert report.trimmed == trimmed and len(report.quarantined) == bad
    store = ShardStore(tmp_path / "out" / "s")
    for cut in cuts if not bad else []:
        assert store.rows(cut.id) == cut.num_samples // 320 + min(extra, 0)


def test_not_a_number_is_quarantined(cuts, tmp_path):
    teacher = BlockTeacher()
    stream = embedding_stream(teacher, tmp_path / "out" / "e", 1000, 0)
    teacher.projection = teacher.projection * 1e6  # beyond float16
    report, _, _ = _run(cuts, tmp_path / "out", streams=[stream], settings=ExtractSettings(5.0, 1, 1.0))
    assert len(report.quarantined) == len(cuts) and "float16" in report.quarantined["cut-000"]
    teacher.projection = teacher.projection * float("nan")
    stream = embedding_stream(teacher, tmp_path / "out" / "f", 1000, 0)
    report, _, _ = _run(cuts, tmp_path / "out", streams=[stream], settings=ExtractSettings(5.0, 1, 1.0))
    assert "not finite" in report.quarantined["cut-000"]


def test_embeddings_are_float16_frames_with_the_teacher_in_their_card(cuts, tmp_path):
    teacher = BlockTeacher()
    _run(cuts, tmp_path / "out", streams=[embedding_stream(teacher, tmp_path / "out" / "e", 1000, 0)])
    store = ShardStore(tmp_path / "out" / "e")
    assert store.meta["teacher"] == teacher.fingerprint() and store.dtype == np.float16 and store.width == 6
    wave = torch.from_numpy(load_audio(cuts[3].path))[None]
    x_BTD, _ = teacher.embed(wave, torch.tensor([wave.shape[1]]))
    np.testing.assert_allclose(store.read(cuts[3].id), x_BTD[0].numpy(), rtol=1e-3, atol=1e-3)


def test_another_quantizer_is_refused_and_overwrite_replaces(cuts, tmp_path):
    teacher = BlockTeacher()
    old = token_stream("s", teacher, SignQuantizer(teacher), "q", tmp_path / "s")
    _run(cuts, tmp_path, streams=[old])
    new = token_stream("s", teacher, SignQuantizer(teacher, "c" * 64), "q", tmp_path / "s")
    with pytest.raises(CardError, match="(?s)aaaa.*cccc.*overwrite"):
        new.prepare(overwrite=False)
    new.prepare(overwrite=True)
    units = plan_units({"train": cuts}, 4.0)
    assert all(pending_streams(unit, [new]) for unit in units)
    assert extract(units, [new], SETTINGS).units_done == len(units)


def test_changed_cuts_redo_only_what_changed_and_stale_shards_go(cuts, tmp_path):
    _run(cuts, tmp_path / "out")
    fewer = cuts[:20]
    streams = make_streams(tmp_path / "out")
    units = plan_units({"train": fewer}, 4.0)
    assert remove_stale(units, streams) > 0
    report = extract(units, streams, SETTINGS)
    assert report.units_done <= 1 < report.units_before
    assert sorted(ShardStore(tmp_path / "out" / "speech").ids) == sorted(cut.id for cut in fewer)


def test_estimate_is_an_upper_bound_of_the_disk(cuts, tmp_path):
    output = tmp_path / "out"
    streams = make_streams(output)
    units = plan_units({"train": cuts}, 4.0)
    cost = estimate(units, streams, output)
    assert cost.items == len(cuts) and cost.seconds_per_process > 0 and "free" in str(cost)
    _run(cuts, output)
    used = sum(path.stat().st_blocks * 512 for path in output.rglob("*.npy"))
    used += sum(path.stat().st_blocks * 512 for path in output.rglob("train-*.json"))
    assert used <= cost.bytes_needed <= 2 * used
    assert estimate(units, streams, output).bytes_needed == 0


def test_full_disk_is_refused_before_it_starts(cuts, tmp_path, monkeypatch):
    monkeypatch.setattr("spear.tokens.budget.free_bytes", lambda path: 1000)
    cost = estimate(plan_units({"train": cuts}, 4.0), make_streams(tmp_path / "out"), tmp_path / "out", measure=False)
    with pytest.raises(DataError, match="1.0 kB free"):
        cost.require_space(tmp_path / "out")


def test_real_recordings(tmp_path):
    root = os.path.join(os.path.dirname(__file__), *[".."] * 4, "shared", "data", "real-mini", "audio", "fsdd")
    if not os.path.isdir(root):
        pytest.skip("../shared/data/real-mini is not beside the checkout")
    from pathlib import Path

    from spear.audio import probe

    cuts = []
    for path in sorted(Path(root).glob("*.flac"))[:20]:
        duration = probe(path).duration_seconds
        cuts.append(Cut(path.stem, path, duration, round(duration * 16000)))
    report, _, streams = _run(cuts, tmp_path / "out")
    assert report.quarantined == {} and len(ShardStore(streams[0].directory)) == 20


def test_make_cuts_is_deterministic(tmp_path):
    first, second = make_cuts(tmp_path / "a", 3), make_cuts(tmp_path / "b", 3)
    assert [a.path.read_bytes() for a in first] == [b.path.read_bytes() for b in second]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_scheduler_signals_leave_whole_units_and_ask_for_a_requeue(cuts, tmp_path, number):
    streams = make_streams(tmp_path / "out")
    calls = itertools.count(1)
    rows = streams[0].rows

    def rows_then_signal(frames):
        if next(calls) == 5:
            os.kill(os.getpid(), number)
        return rows(frames)

    streams[0].rows = rows_then_signal
    with pytest.raises(SystemExit) as caught, interruptible():
        _run(cuts, tmp_path / "out", streams=streams)
    assert caught.value.code == REQUEUE_EXIT_CODE
    assert not [path for path in (tmp_path / "out").rglob(".*")]
    _run(cuts, tmp_path / "out")
    _run(cuts, tmp_path / "calm")
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "calm")
