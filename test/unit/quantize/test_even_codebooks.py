"""Codebooks of like energy: `structure` "even"."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from spear.bench._coders import Job, build
from spear.bin import train_quantizer as command
from spear.errors import ConfigError
from spear.fs import read_json, write_json
from spear.quantize import (
    QuantizerTrainConfig,
    evenness,
    fit,
    load_quantizer,
    relative_error,
    save_authors_file,
    save_quantizer,
    train_quantizer,
    write_quantizer_report,
)
from spear.quantize.even import deal, even_start

CONFIG = QuantizerTrainConfig(codebook_size=32, rounds=2, logits_epochs=1, structure="even")


def silent(state):
    pass


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


@pytest.fixture(scope="module")
def even(frames):
    return fit(frames[:5000], 4, replace(CONFIG, rounds=6), normalise=False, progress=silent)


def test_energy_and_information_are_shared_evenly(even, trained, frames):
    quantizer, metrics = even[0].quantizer, even[1]
    found = evenness(quantizer.effective_centers(), quantizer.encode(frames))
    for values in (metrics, found):
        assert max(values["energy_shares"]) <= 1.5 / 4 and abs(sum(values["energy_shares"]) - 1) < 1e-3
        assert max(values["entropy_nats"]) - min(values["entropy_nats"]) <= 0.1
        assert min(values["entropy_nats"]) > math.log(32) - 0.25
    assert trained[1]["energy_shares"][0] > 1.5 / 4  # which the hierarchy does not hold
    assert metrics["structure"] == "even" and trained[1]["structure"] == "residual"


def test_rounds_lower_the_error_of_even_codebooks(even, trained):
    errors = [state["heldout_error"] for state in even[1]["rounds"]]
    assert len(errors) > 7 and errors == sorted(errors, reverse=True)  # a hierarchy has six rounds at most
    assert even[1]["relative_error"]["5"] < 0.92 * even[1]["start_error"]
    # On rows of twenty small clusters, which suit a hierarchy; the bench tells of embeddings.
    assert even[1]["relative_error"]["5"] < 1.2 * trained[1]["relative_error"]["5"]


def test_directions_are_dealt_out_by_energy_and_bits():
    hands, counts = deal([4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0], 4, 256)
    assert set(counts.values()) == {1} and sum(len(hand.parts) for hand in hands) == 8
    assert max(hand.energy for hand in hands) <= 1.25 * 4 and min(hand.energy for hand in hands) >= 3
    # One direction that is more than a codebook may carry is split among several.
    hands, counts = deal([8.0, 1.0, 1.0, 1.0, 1.0], 4, 256)
    assert counts[0] == 3 and max(hand.energy for hand in hands) <= 1.25 * 3
    assert sorted(place for hand in hands for place, _ in hand.parts) == [0, 0, 0, 1, 2, 3, 4]
    assert all(len({place for place, _ in hand.parts}) == len(hand.parts) for hand in hands)


def test_parts_of_a_direction_are_uncorrelated():
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0, 1.0, 1.0])
    centers = even_start(x, 4, 16, 4, seed=1)
    spread = centers.var(dim=1)
    assert (spread[:, 0] > 5).all() and spread.sum(dim=1).max() < 1.6 * spread.sum(dim=1).mean()


def test_frames_of_one_strong_direction_are_said_not_to_be_even(caplog):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 12, generator=generator) * torch.tensor([30.0] + [1.0] * 11)
    with caplog.at_level(logging.WARNING):
        _, metrics = train_quantizer(x, 4, replace(CONFIG, rounds=1), silent)
    uneven = max(metrics["energy_shares"]) > 1.5 / 4
    assert uneven == any("cannot be even" in message for message in caplog.messages)


@pytest.mark.parametrize("make", [torch.zeros, torch.ones])
def test_degenerate_frames_do_not_crash(make):
    quantizer, metrics = train_quantizer(make(200, 3), 4, CONFIG, silent)
    assert torch.isfinite(quantizer.centers).all() and metrics["structure"] == "even"


def test_training_is_deterministic_and_seeded(frames):
    x = frames[:1000]
    first, _ = train_quantizer(x, 2, CONFIG, silent)
    torch.manual_seed(123)  # the global generator plays no part
    second, _ = train_quantizer(x, 2, CONFIG, silent)
    third, _ = train_quantizer(x, 2, replace(CONFIG, seed=1), silent)
    assert same(first, second) and not same(first, third)


@pytest.mark.parametrize("place", [{"codebook": 2}, {"round": 0}, {"round": 1}])
def test_a_killed_run_continues_exactly(frames, tmp_path, place):
    config, path = replace(CONFIG, start_frames=600), tmp_path / "state.safetensors"
    whole, _ = train_quantizer(frames[:1000], 2, config, silent)

    def kill(state):
        if place.items() <= state.items():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_quantizer(frames[:1000], 2, config, kill, path)
    later = []
    resumed, _ = train_quantizer(frames[:1000], 2, config, later.append, path)
    assert not any(place.items() <= state.items() for state in later) and same(whole, resumed)


def test_an_unknown_structure_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        QuantizerTrainConfig(structure="flat")
    assert "flat" in caught.value.found and "residual, even" in caught.value.expected and caught.value.fix
    with pytest.raises(ConfigError, match="flat"):
        command.main(["--embeddings", "e", "--output", str(tmp_path / "q"), "--structure", "flat"])
    with pytest.raises(ConfigError, match="method 'product'"):
        replace(CONFIG, method="product")


def test_the_format_is_that_of_multi_quantization(even, frames, tmp_path):
    peer = pytest.importorskip("multi_quantization")
    trained = even[0]
    save_authors_file(tmp_path / "even.pt", trained)
    state = torch.load(tmp_path / "even.pt", weights_only=True)["quantizer"]
    theirs = peer.Quantizer(dim=24, num_codebooks=4, codebook_size=32)
    theirs.load_state_dict(state)
    x, codes = frames[:300], trained.encode(frames[:300])
    torch.testing.assert_close(theirs.decode(codes.long()), trained.decode(codes), atol=1e-4, rtol=1e-4)
    found = theirs.encode(x, refine_indexes_iters=5)
    assert relative_error(x, trained.decode(found)) < 1.15 * relative_error(x, trained.decode(codes))


def test_the_card_says_the_structure_and_older_cards_need_not(even, tmp_path):
    assert even[0].card["structure"] == "even"
    details = {"structure": "even"}
    save_quantizer(tmp_path, even[0].quantizer, metrics=even[1], details=details)
    card = load_quantizer(tmp_path).card
    assert card["structure"] == "even" and card["metrics"]["energy_shares"] == even[1]["energy_shares"]
    assert "even; shares of energy" in write_quantizer_report(tmp_path, card).read_text()
    older = read_json(tmp_path / "card.json")
    del older["structure"], older["metrics"]["energy_shares"], older["metrics"]["entropy_nats"]
    write_json(tmp_path / "card.json", {k: v for k, v in older.items() if k != "seal_sha256"})
    loaded = load_quantizer(tmp_path)
    assert same(loaded.quantizer, even[0].quantizer)
    assert "not stated" in write_quantizer_report(tmp_path, loaded.card).read_text()


def test_the_bench_trains_both_structures(frames):
    shares = {}
    for structure in ("residual", "even"):
        train = {"structure": structure, "codebook_size": 32, "rounds": 1, "logits_epochs": 0}
        settings = {"train": train, "searches": [(1, 5, False)]}
        coders, _ = build(Job("ours", "ours", 4, settings), frames[:2000])
        found = evenness(coders[0].centers, coders[0].encode(frames[:2000]))
        shares[structure] = max(found["energy_shares"])
    assert shares["even"] <= 1.5 / 4 < shares["residual"]
