"""`spear embed-files` and `spear similar`: batches, windows, bad files, formats, neighbours."""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import spear
from spear.audio import load_audio, save_audio
from spear.bin import embed_files, similar
from spear.errors import CardError, ConfigError, DataError, MissingPackageError
from spear.manifest.recordings import Recording, batches_of, by_recording, cut_into_pieces
from spear.teachers.vectors import check_output, embed_recordings, load_vectors, nearest


@pytest.fixture(scope="module")
def embedded(encoder, recordings, command, tmp_path_factory):
    """All recordings, embedded by the command with frames in windows of 3 s, and what it printed."""
    output = tmp_path_factory.mktemp("embedded") / "x.npz"
    words = ("--checkpoint", encoder, "--output", output, "--device", "cpu", "--window-seconds", 3, "--frames")
    return output, command("embed-files", recordings, *words).stdout


def test_a_vector_is_the_mean_over_the_valid_frames_of_the_last_layer(encoder, recordings, embedded):
    found = np.load(embedded[0])
    row = [str(path) for path in found["paths"]].index(str(recordings / "low" / "b.flac"))
    model = spear.load_model(encoder)
    with torch.no_grad():
        out = model(torch.from_numpy(load_audio(recordings / "low" / "b.flac"))[None])
    assert found["frame_counts"][row] == out.encoder_out.shape[1]
    np.testing.assert_allclose(found["vectors"][row], out.encoder_out[0].mean(0).numpy(), atol=1e-5)
    start = int(found["frame_counts"][:row].sum())
    frames_TD = found["frames"][start : start + int(found["frame_counts"][row])]
    np.testing.assert_allclose(frames_TD, out.encoder_out[0].numpy(), atol=1e-5)


def test_vectors_do_not_depend_on_the_batch(encoder, recordings, embedded, tmp_path):
    words = ["--checkpoint", str(encoder), "--device", "cpu", "--window-seconds", "3"]
    embed_files.main([str(recordings), "--output", str(tmp_path / "y.npz"), "--batch-seconds", "0.1", *words])
    together, alone = (np.load(path) for path in (embedded[0], tmp_path / "y.npz"))
    assert together["paths"].tolist() == alone["paths"].tolist()
    np.testing.assert_allclose(together["vectors"], alone["vectors"], atol=1e-5)
    assert "frames" not in alone


def test_windows_of_a_long_recording_give_as_many_frames_as_the_whole(encoder, recordings, embedded, tmp_path):
    words = ["--checkpoint", str(encoder), "--device", "cpu", "--output", str(tmp_path / "whole.npz")]
    embed_files.main([str(recordings / "low" / "long.wav"), *words])
    whole, cut = np.load(tmp_path / "whole.npz"), np.load(embedded[0])
    row = [str(path) for path in cut["paths"]].index(str(recordings / "low" / "long.wav"))
    assert whole["frame_counts"][0] == cut["frame_counts"][row] == 346
    assert float(np.abs(whole["vectors"][0] - cut["vectors"][row]).max()) < 0.05 * float(np.abs(whole["vectors"]).max())


def test_pieces_cover_each_recording_once_on_the_grid():
    for seconds in (0.01, 29.9, 30.0, 31.0, 60.0, 61.37, 300.0):
        pieces = cut_into_pieces([Recording("x", seconds)], 30.0, 1.0)
        assert pieces[0].keep_start_seconds == 0 and pieces[-1].keep_stop_seconds == seconds
        assert all(a.keep_stop_seconds == b.keep_start_seconds for a, b in zip(pieces, pieces[1:]))
        assert all(piece.duration_seconds <= 30.0 and (piece.start_seconds / 0.16) % 1 < 1e-6 for piece in pieces)
        assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_windows_no_longer_than_their_overlaps_are_refused():
    with pytest.raises(ConfigError, match="overlap"):
        cut_into_pieces([Recording("x", 60.0)], 2.0, 1.0)


def test_batches_hold_similar_lengths_the_longest_first():
    pieces = cut_into_pieces([Recording("x", seconds) for seconds in (1.0, 9.0, 2.0, 8.0, 25.0)])
    lengths = [[piece.duration_seconds for piece in batch] for batch in batches_of(pieces, 18.0)]
    assert lengths == [[25.0], [9.0, 8.0], [2.0, 1.0]]


def test_bad_files_are_listed_and_the_rest_goes_on(recordings, embedded):
    output, printed = embedded
    skipped = [json.loads(line) for line in output.with_name("x.npz.skipped.jsonl").read_text().splitlines()]
    assert {row["path"].rsplit("/", 1)[1] for row in skipped} == {"damaged.wav", "text.mp3"}
    assert all(row["reason"] for row in skipped)
    assert "6 vectors of 32 numbers" in printed and "left out" in printed and "2 left out" in printed
    assert len(np.load(output)["paths"]) == 6


def test_a_file_that_only_fails_when_it_is_decoded_is_listed_too(encoder, recordings, tmp_path):
    flac = bytearray((recordings / "low" / "b.flac").read_bytes())
    flac[len(flac) // 2 : len(flac) // 2 + 3000] = bytes(3000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "holes.flac").write_bytes(flac)
    (tmp_path / "in" / "good.wav").write_bytes((recordings / "low" / "a.wav").read_bytes())
    output = tmp_path / "x.npz"
    embed_files.main([str(tmp_path / "in"), "--checkpoint", str(encoder), "--device", "cpu", "--output", str(output)])
    assert [path.rsplit("/", 1)[1] for path in np.load(output)["paths"]] == ["good.wav"]
    assert "holes.flac" in output.with_name("x.npz.skipped.jsonl").read_text()


def test_nothing_that_can_be_heard_is_an_error(encoder, recordings, tmp_path):
    words = ["--checkpoint", str(encoder), "--output", str(tmp_path / "x.npz")]
    with pytest.raises(DataError, match="no recording"):
        embed_files.main([str(recordings / "low" / "text.mp3"), str(tmp_path / "missing.wav"), *words])


def test_other_suffixes_and_a_missing_pyarrow_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="pyarrow"):
        embed_files.main(["nothing.wav", "--checkpoint", "nothing", "--output", str(tmp_path / "x.parquet")])
    with pytest.raises(ConfigError, match=r"\.npz or \.parquet"):
        embed_files.main(["nothing.wav", "--checkpoint", "nothing", "--output", str(tmp_path / "x.csv")])


def test_similar_finds_the_recordings_of_the_same_pitch_first(encoder, recordings, embedded, command):
    query = recordings / "low" / "a.wav"
    done = command("similar", query, embedded[0], "--checkpoint", encoder, "--device", "cpu", "--top", 2, "--json")
    rows = json.loads(done.stdout)
    assert {row["path"].rsplit("/", 1)[1] for row in rows} == {"b.flac", "long.wav"}  # never the query itself
    assert rows[0]["cosine"] >= rows[1]["cosine"]


def test_similar_keeps_vectors_in_exp_dir_alone_and_embeds_what_changed(encoder, recordings, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("low/b.flac", "high/c.wav"):
        (folder / name.rsplit("/", 1)[1]).write_bytes((recordings / name).read_bytes())
    query = str(recordings / "low" / "a.wav")
    words = [query, str(folder), "--checkpoint", str(encoder), "--device", "cpu"]
    similar.main(words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
    assert sorted(path.name for path in folder.iterdir()) == ["b.flac", "c.wav"]
    for change in (lambda: None, lambda: (folder / "b.flac").unlink(), lambda: None):
        capsys.readouterr()
        change()
        (folder / "c.wav").write_bytes((recordings / "high/short.wav").read_bytes())
        similar.main([*words, "--exp-dir", str(tmp_path / "exp")])
        kept = load_vectors(next((tmp_path / "exp" / "vectors").iterdir()))
        assert [path.rsplit("/", 1)[1] for path in kept.paths] == sorted(path.name for path in folder.iterdir())
        assert len(capsys.readouterr().out.splitlines()) == len(kept.paths)


def test_a_folder_is_no_query(encoder, recordings, embedded):
    with pytest.raises(ConfigError, match="high, a folder"):
        similar.main([str(recordings / "high"), str(embedded[0]), "--checkpoint", str(encoder), "--device", "cpu"])


def test_a_recording_of_which_several_pieces_fail_is_told_once_and_the_others_come_in_order(recordings):
    files = [Recording(recordings / "low/long.wav", 7.0), Recording(recordings / "low/text.mp3", 7.0)]
    pieces, refused = cut_into_pieces(files, 2.0, 0.16), []
    found = by_recording(
        files,
        pieces[::-1],
        lambda batch, *_: [piece.start_seconds for piece in batch],
        lambda *bad: refused.append(bad),
        "x",
    )
    assert [number for number, _ in refused] == [1] and list(found) == [0]
    assert [said for _, said in found[0]] == [piece.start_seconds for piece in pieces if piece.recording == 0]


def test_vectors_of_another_layer_are_refused(encoder, recordings, embedded):
    words = [str(recordings / "low" / "a.wav"), str(embedded[0]), "--checkpoint", str(encoder), "--device", "cpu"]
    with pytest.raises(CardError, match="layer"):
        similar.main([*words, "--layer", "2"])


def test_a_damaged_or_foreign_npz_is_refused_by_name(embedded, tmp_path):
    (tmp_path / "cut.npz").write_bytes(embedded[0].read_bytes()[:2000])
    np.savez(tmp_path / "foreign.npz", vectors=np.zeros((2, 3)))
    np.savez(tmp_path / "pickled.npz", paths=np.array([{"a": 1}], dtype=object))
    for name in ("cut.npz", "foreign.npz", "pickled.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            load_vectors(tmp_path / name)


def test_whatever_is_called_npz_and_is_none_is_refused(embedded, tmp_path):
    arrays = {name: value for name, value in np.load(embedded[0]).items() if name != "frames"}
    np.savez_compressed(tmp_path / "holes.npz", **arrays)
    damaged = bytearray((tmp_path / "holes.npz").read_bytes())
    damaged[200:260] = bytes(60)
    (tmp_path / "holes.npz").write_bytes(damaged)
    with open(tmp_path / "array.npz", "wb") as handle:
        np.save(handle, np.zeros(3))
    np.savez(tmp_path / "narrow.npz", **arrays | {"vectors": arrays["vectors"][:, :5]})
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("holes.npz", "array.npz", "narrow.npz", "pipe.npz"):
        with pytest.raises(DataError, match=name):
            load_vectors(tmp_path / name)


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("")
    check_output(tmp_path / "new" / "below" / "x.npz")
    for name in ("folder.npz", "file/x.npz"):
        with pytest.raises(ConfigError, match=name):
            check_output(tmp_path / name)


def test_a_file_that_goes_or_changes_while_others_are_embedded_costs_itself_alone(tmp_path):
    paths = [tmp_path / f"{name}.wav" for name in ("a", "b", "c")]
    for path in paths:
        save_audio(path, np.full(3200, 0.1), 16000)
    before = paths[0].stat()

    def embed(waves_BS, lengths_B):
        paths[1].unlink(missing_ok=True)
        save_audio(paths[0], np.full(4800, 0.1), 16000)
        return waves_BS[:, :, None], lengths_B

    rest = {"dim": 1, "device": "cpu", "sample_rate": 16000, "frame_rate": 16000, "fingerprint": dict}
    found = embed_recordings(
        SimpleNamespace(embed=embed, **rest), [Recording(path, 0.2) for path in paths], lambda *_: 0
    )
    assert found.states[0].tolist() == [before.st_size, before.st_mtime_ns] and str(paths[2]) in found.paths


def test_lengths_that_are_no_numbers_are_refused():
    pieces = cut_into_pieces([Recording("x", 60.0)])
    for windows in ((float("nan"), 1.0), (float("inf"), 1.0), (30.0, float("nan"))):
        with pytest.raises(ConfigError, match="windows of"):
            cut_into_pieces([Recording("x", 60.0)], *windows)
    with pytest.raises(ConfigError, match="nan"):
        batches_of(pieces, float("nan"))


def test_the_nearest_by_cosine():
    vectors_ND = np.array([[1.0, 0.0], [10.0, 10.0], [-1.0, 0.1], [0.0, 0.0]])
    assert [row for row, _ in nearest(np.array([2.0, 0.5]), vectors_ND, 3)] == [0, 1, 3]


class _Table(SimpleNamespace):
    def replace_schema_metadata(self, metadata):
        return _Table(columns=self.columns, metadata=metadata)


def test_parquet_gets_a_row_for_each_recording(encoder, recordings, tmp_path, monkeypatch):
    # What pyarrow is told; the package itself is no requirement.
    written = []
    parquet = SimpleNamespace(write_table=lambda table, path: written.append(table))
    pyarrow = SimpleNamespace(table=lambda columns: _Table(columns=columns), parquet=parquet)
    monkeypatch.setitem(sys.modules, "pyarrow", pyarrow)
    output = tmp_path / "x.parquet"
    words = ["--checkpoint", str(encoder), "--device", "cpu", "--output", str(output), "--frames"]
    embed_files.main([str(recordings / "high"), *words])
    (table,) = written
    assert list(table.columns) == ["path", "seconds", "vector", "frames"]
    assert len(table.columns["path"]) == 3 and output.exists()
    np.testing.assert_allclose(np.mean(table.columns["frames"][0], axis=0), table.columns["vector"][0], atol=1e-5)
    assert json.loads(table.metadata["card"])["teacher"] == "spear"
