"""Files: round trip, refusal of what does not fit, the authors' format."""

import pytest
import torch

from spear.errors import CardError, DataError
from spear.fs import read_json, write_json
from spear.quantize import (
    TrainedQuantizer,
    channel_statistics,
    load_quantizer,
    save_authors_file,
    save_quantizer,
)

TEACHER = {"teacher": "spear", "weights_sha256": "abc", "layer": 3, "dim": 24}


@pytest.fixture
def saved(tmp_path, trained, frames):
    mean, std = channel_statistics(frames)
    card = save_quantizer(tmp_path / "q", trained[0], mean, std, TEACHER, trained[1])
    return tmp_path / "q", card, TrainedQuantizer(trained[0], mean, std, card)


def test_round_trip(saved, frames):
    directory, card, original = saved
    loaded = load_quantizer(directory)
    assert loaded.card == card and {p.name for p in directory.iterdir()} == {"quantizer.safetensors", "card.json"}
    assert card["num_codebooks"] == 4 and card["codebook_size"] == 32 and card["dim"] == 24 and card["normalise"]
    assert card["teacher"] == TEACHER and len(card["content_sha256"]) == 64 and card["metrics"]["dead_codes"]
    codes = original.encode(frames[:100])
    assert torch.equal(loaded.encode(frames[:100].numpy()), codes) and torch.equal(
        loaded.to("cpu").encode(frames[:100]), codes
    )
    torch.testing.assert_close(loaded.decode(codes), original.quantizer.decode(codes) * original.std + original.mean)


def test_the_content_hash_is_of_the_content(saved, trained, frames, tmp_path):
    _, card, original = saved
    again = save_quantizer(tmp_path / "again", original.quantizer, original.mean, original.std)
    assert again["content_sha256"] == card["content_sha256"]
    other = save_quantizer(tmp_path / "other", original.quantizer, original.mean, original.std * 1.001)
    bare = save_quantizer(tmp_path / "bare", original.quantizer)
    assert len({card["content_sha256"], other["content_sha256"], bare["content_sha256"]}) == 3
    assert torch.equal(load_quantizer(tmp_path / "bare").encode(frames[:9]), trained[0].encode(frames[:9]))


def test_tensors_of_another_card_are_refused(saved, tmp_path):
    directory, card, original = saved
    save_quantizer(tmp_path / "other", original.quantizer)
    (tmp_path / "other" / "quantizer.safetensors").rename(directory / "quantizer.safetensors")
    with pytest.raises(CardError, match=card["content_sha256"][:16]):
        load_quantizer(directory)


def test_sizes_that_contradict_the_card_are_refused(saved):
    directory, card, _ = saved
    write_json(directory / "card.json", {**card, "dim": 25})
    with pytest.raises(CardError, match="dim = 24.*\n.*dim = 25"):
        load_quantizer(directory)


def test_another_teacher_or_dim_is_refused_naming_both(saved):
    loaded = load_quantizer(saved[0])
    loaded.check(dim=24, teacher={"layer": 3})
    with pytest.raises(CardError, match="layer = 3.*\n.*layer = 5"):
        loaded.check(teacher={**TEACHER, "layer": 5})
    with pytest.raises(CardError, match="dim = 24.*\n.*dim = 1024"):
        loaded.check(dim=1024)
    with pytest.raises(DataError):
        loaded.encode(torch.zeros(2, 25))


def test_damaged_and_foreign_files_are_refused(saved, tmp_path):
    directory, card, _ = saved
    with pytest.raises(DataError, match="nowhere"):
        load_quantizer(tmp_path / "nowhere")
    data = (directory / "quantizer.safetensors").read_bytes()
    (directory / "quantizer.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="quantizer.safetensors"):
        load_quantizer(directory)
    write_json(directory / "card.json", {"format": "something else"})
    with pytest.raises(DataError, match="card"):
        load_quantizer(directory)
    (tmp_path / "noise.pt").write_bytes(b"not a pickle")
    with pytest.raises(DataError, match="noise.pt"):
        load_quantizer(tmp_path / "noise.pt")
    torch.save({"quantizer": {"weight": torch.zeros(2)}}, tmp_path / "foreign.pt")
    with pytest.raises(DataError, match="no quantizer"):
        load_quantizer(tmp_path / "foreign.pt")


def test_authors_file(saved, frames, tmp_path):
    _, card, original = saved
    save_authors_file(tmp_path / "q.pt", original)
    content = torch.load(tmp_path / "q.pt", weights_only=True)
    assert set(content) == {"quantizer", "mean", "std"} and "centers" in content["quantizer"]
    loaded = load_quantizer(tmp_path / "q.pt")
    assert loaded.card["content_sha256"] == card["content_sha256"]
    assert torch.equal(loaded.encode(frames[:50]), original.encode(frames[:50]))


def test_authors_files_without_statistics_or_with_float16_ones(trained, frames, tmp_path):
    state = trained[0].state_dict()
    torch.save({"quantizer": state, "mean": None, "std": None}, tmp_path / "none.pt")
    torch.save(state, tmp_path / "bare.pt")
    for name in ("none.pt", "bare.pt"):
        loaded = load_quantizer(tmp_path / name)
        assert not loaded.card["normalise"]
        assert torch.equal(loaded.encode(frames[:9]), trained[0].encode(frames[:9]))
    std = torch.ones(24).half()
    std[2] = 0  # a constant channel
    torch.save({"quantizer": state, "mean": torch.zeros(24).half(), "std": std}, tmp_path / "half.pt")
    loaded = load_quantizer(tmp_path / "half.pt")
    assert torch.equal(loaded.encode(frames[:9]), trained[0].encode(frames[:9]))


def test_no_card_means_no_quantizer(saved):
    directory = saved[0]
    assert read_json(directory / "card.json")
    (directory / "card.json").unlink()
    with pytest.raises(DataError):
        load_quantizer(directory)
