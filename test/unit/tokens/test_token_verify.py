"""Verification finds what is wrong, names it, and only then withholds READY."""

import json

import numpy as np
import pytest
from token_fakes import Cut, make_streams, write_cuts

from spear import seal
from spear.bin import verify_tokens as command
from spear.shards import ShardStore, ShardWriter, read_index
from spear.tokens.extract import ExtractSettings, extract
from spear.tokens.recompute import recompute
from spear.tokens.units import plan_units, read_cuts
from spear.tokens.verify import codebook_use, verify_tokens


@pytest.fixture
def extracted(cuts, tmp_path):
    """Two cuts files and the tokens of three streams: (tokens directory, cuts files)."""
    files = [
        write_cuts(tmp_path / "data" / "manifests" / "cuts_a.jsonl", cuts[:20]),
        write_cuts(tmp_path / "data" / "manifests" / "cuts_b.jsonl", cuts[20:]),
    ]
    streams = make_streams(tmp_path / "data" / "tokens")
    for stream in streams:
        stream.prepare(overwrite=False)
    extract(plan_units(read_cuts(files), 4.0), streams, ExtractSettings(5.0, 1, 0.5))
    return tmp_path / "data" / "tokens", files


def _main(tokens, files):
    return command.main(["--tokens", str(tokens), "--cuts", *map(str, files)])


def _rewrite(directory, change):
    """Writes the first shard again after `change(id, rows)`, which returns new rows or None to leave it out."""
    shard = ShardStore(directory).shards[0]
    index = read_index(directory, shard)
    rows = np.load(directory / f"{shard}.npy")
    kept = {key: index[key] for key in ("unit_sha256", "quarantined", "trimmed")}
    with ShardWriter(directory, shard, np.uint8, rows.shape[1], kept) as writer:
        for item, start, stop in zip(index["ids"], index["offsets"], index["offsets"][1:]):
            new = change(item, rows[start:stop])
            if new is not None:
                writer.add(item, new)
    return index["ids"][0]


def test_good_tokens_are_ready_and_ready_is_reproducible(extracted, capsys):
    tokens, files = extracted
    assert _main(tokens, files) == 0
    ready = tokens.parent / "READY"
    content = json.loads(ready.read_text())
    assert set(content["streams"]) == {"audio", "speech", "speech2"}
    assert set(content["cuts"]) == {"cuts_a.jsonl", "cuts_b.jsonl"}
    before = ready.read_bytes()
    assert _main(tokens, files) == 0 and ready.read_bytes() == before
    assert "perplexity" in capsys.readouterr().out


def test_flipped_byte_is_named_and_takes_ready_away(extracted, capsys):
    tokens, files = extracted
    assert _main(tokens, files) == 0
    shard = ShardStore(tokens / "speech").shards[1]
    path = tokens / "speech" / f"{shard}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    assert _main(tokens, files) == 1
    out = capsys.readouterr().out
    assert shard in out and read_index(tokens / "speech", shard)["ids"][-1] in out
    assert not (tokens.parent / "READY").exists()


def test_missing_cut_is_named(extracted):
    tokens, files = extracted
    first = []
    gone = _rewrite(tokens / "speech", lambda item, rows: rows if first else first.append(item))
    problems = verify_tokens(tokens, files).problems
    assert [(p.stream, p.check) for p in problems] == [("speech", "counts")] and gone in problems[0].detail


@pytest.mark.parametrize(("rows_less", "accepted"), [(0, True), (1, True), (2, False), (-1, False)])
def test_lengths_may_lack_one_frame(extracted, rows_less, accepted):
    tokens, files = extracted
    _rewrite(tokens / "speech", lambda item, rows: rows[: len(rows) - rows_less] if rows_less >= 0 else
             np.concatenate([rows, rows[:1]]))  # fmt: skip
    problems = verify_tokens(tokens, files).problems
    assert (not problems) == accepted
    assert accepted or problems[0].check == "lengths"


def test_quarantined_cuts_are_a_warning_not_a_problem(cuts, tmp_path):
    bad = Cut("lost", tmp_path / "lost.wav", 1.0, 16000)
    file = write_cuts(tmp_path / "data" / "manifests" / "cuts.jsonl", [*cuts, bad])
    streams = make_streams(tmp_path / "tokens")
    for stream in streams:
        stream.prepare(overwrite=False)
    extract(plan_units(read_cuts([file]), 4.0), streams, ExtractSettings(5.0, 1, 0.5))
    report = verify_tokens(tmp_path / "tokens", [file])
    assert report.problems == [] and any("lost" in warning.detail for warning in report.warnings)
    assert {s.name: s.quarantined for s in report.streams} == {"speech": 1, "speech2": 1, "audio": 0}


def test_foreign_cards_and_empty_directories_are_problems(extracted, tmp_path, capsys):
    tokens, files = extracted
    (tokens / "speech" / "card.json").unlink()
    card = json.loads((tokens / "audio" / "card.json").read_text())
    (tokens / "audio" / "card.json").write_text(json.dumps({**card, "fbank_sha256": "another"}))
    (tokens / "speech2").rename(tokens / "renamed")
    assert {(p.stream, p.check) for p in verify_tokens(tokens, files).problems} == {
        ("speech", "card"),
        ("audio", "card"),
        ("renamed", "card"),
    }
    assert _main(tmp_path / "nothing", files) == 1 and "extract-tokens" in capsys.readouterr().out


def test_code_beyond_the_codebook_is_a_problem(extracted):
    tokens, files = extracted
    path = tokens / "speech" / "card.json"
    card = json.loads(path.read_text())
    card["quantizer"]["codebook_size"] = 4
    del card[seal.KEY]
    seal.write_json(path, card)
    assert any(p.check == "codes" and "less than 4" in p.detail for p in verify_tokens(tokens, files).problems)


def test_codebook_use_counts_perplexity_and_dead_codes():
    counts = np.array([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0]])
    perplexity, dead = codebook_use(counts)
    np.testing.assert_allclose(perplexity, [4, 1, 2])
    assert dead.tolist() == [0, 3, 2]


def test_dry_run_writes_nothing(extracted):
    tokens, files = extracted
    assert command.main(["--tokens", str(tokens), "--cuts", *map(str, files), "--dry-run"]) == 0
    assert not (tokens.parent / "READY").exists()


# Tokens made again from the audio ------------------------------------------------------------------------------------


def test_recomputed_tokens_are_those_that_were_stored(extracted):
    tokens, files = extracted
    for stream in make_streams(tokens):
        found = recompute(stream, [item for group in read_cuts(files).values() for item in group], 6)
        assert len(found.shares) == 6 and found.mean == 1 and found.problems() == []


def test_exchanged_audio_and_other_teachers_are_found_by_recomputing(extracted):
    tokens, files = extracted
    items = [item for group in read_cuts(files).values() for item in group]
    (first, second), stream = items[:2], make_streams(tokens)[0]
    audio = [item.path.read_bytes() for item in (first, second)]
    first.path.write_bytes(audio[1]), second.path.write_bytes(audio[0])
    problems = recompute(stream, items, len(items)).problems()
    assert problems and {line.split(":")[0] for line in problems} <= {first.id, second.id}
    first.path.write_bytes(audio[0]), second.path.write_bytes(audio[1])
    stream.teacher.projection = stream.teacher.projection.flip(0)
    assert recompute(stream, items, 6).problems()
