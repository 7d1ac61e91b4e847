"""Stored frames of a teacher are verified and compared with READY as tokens are; a sample of the cuts is enough."""

import numpy as np
import pytest
from token_fakes import BlockTeacher, make_streams, write_cuts

from spear import seal
from spear.bin import verify_tokens as command
from spear.errors import CardError
from spear.fs import read_json
from spear.shards import ShardStore, ShardWriter, read_index
from spear.tokens.extract import ExtractSettings, extract
from spear.tokens.features import open_features
from spear.tokens.ready import check_ready
from spear.tokens.streams import embedding_stream
from spear.tokens.units import plan_units, read_cuts


@pytest.fixture
def place(cuts, tmp_path):
    """Tokens of all cuts and frames of half of them, side by side: (tokens directory, cuts file)."""
    tokens = tmp_path / "data" / "tokens"
    file = write_cuts(tmp_path / "data" / "manifests" / "cuts.jsonl", cuts[:12])
    half = write_cuts(tmp_path / "half" / "cuts.jsonl", cuts[:6])
    streams = make_streams(tokens)[:1]
    frames = [embedding_stream(BlockTeacher(25), tokens / "frames", 10_000, 0)]
    for chosen, path in ((streams, file), (frames, half)):
        for stream in chosen:
            stream.prepare(overwrite=False)
        extract(plan_units(read_cuts([path]), 1000.0), chosen, ExtractSettings(5.0, 1, 0.5))
    return tokens, file


def verify(tokens, file) -> int:
    return command.main(["--tokens", str(tokens), "--cuts", str(file)])


def rewrite(directory, change) -> None:
    """Writes the shard again after `change(rows)` of each cut."""
    [shard] = ShardStore(directory).shards
    index, rows = read_index(directory, shard), np.load(directory / f"{shard}.npy")
    kept = {key: index[key] for key in ("unit_sha256", "quarantined", "trimmed")}
    with ShardWriter(directory, shard, np.float16, rows.shape[1], kept) as writer:
        for item, start, stop in zip(index["ids"], index["offsets"], index["offsets"][1:]):
            writer.add(item, change(rows[start:stop].copy()))


def test_frames_of_a_sample_are_ready_beside_tokens(place, capsys):
    tokens, file = place
    assert verify(tokens, file) == 0
    assert "warning: frames: counts: 6 of 12 cuts have none" in capsys.readouterr().out
    assert set(read_json(tokens.parent / "READY")["streams"]) == {"frames", "speech"}
    found = check_ready(tokens.parent, [file], {"frames": tokens / "frames"})
    assert not found.problems and "card and checksums of 'frames'" in found.compared


def test_what_is_wrong_with_frames_is_named(place, capsys):
    tokens, file = place
    assert verify(tokens, file) == 0
    rewrite(tokens / "frames", lambda rows: np.where(np.arange(len(rows))[:, None] == 2, np.nan, rows))
    ready = tokens.parent / "READY"
    kept = ready.read_bytes()
    assert verify(tokens, file) == 1 and not ready.exists()
    assert "frames of shard cuts-00000 are not finite" in capsys.readouterr().out
    ready.write_bytes(kept)
    [problem] = check_ready(tokens.parent, [file], {"frames": tokens / "frames"}).problems
    assert "the shards in" in problem and "are others than those that were verified" in problem
    rewrite(tokens / "frames", lambda rows: np.nan_to_num(rows)[:-3])
    assert verify(tokens, file) == 1
    assert "problem: frames: lengths: 6 cuts differ" in capsys.readouterr().out


def test_a_card_that_does_not_fit_is_refused(place):
    tokens, _ = place
    card = read_json(tokens / "frames" / "card.json")
    card.pop("seal", None)
    for change, words in (
        ({"dim": 7}, "rows of 6 x float16"),
        ({"dim": 0}, "dim"),
        ({"frame_rule": None}, "frame_rule"),
    ):
        teacher = {key: value for key, value in {**card["teacher"], **change}.items() if value is not None}
        seal.write_json(tokens / "frames" / "card.json", {**card, "teacher": teacher})
        with pytest.raises(CardError, match=words):
            open_features(tokens / "frames")
    with pytest.raises(CardError, match="not a card of embeddings"):
        open_features(tokens / "speech")
