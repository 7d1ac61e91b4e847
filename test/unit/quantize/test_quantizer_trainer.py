"""Training: lower error than residual k-means, even use of the codes, exact restarts."""

from dataclasses import replace

import pytest
import torch

from spear.errors import DataError
from spear.quantize import QuantizerTrainConfig, channel_statistics, fit, relative_error, train_quantizer
from spear.quantize.search import search_all
from spear.quantize.start import residual_kmeans
from spear.quantize.tables import SearchTables

CONFIG = QuantizerTrainConfig(codebook_size=32, rounds=4, logits_epochs=1)


def silent(state):
    pass


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_error_is_clearly_below_residual_kmeans(trained, frames):
    config = QuantizerTrainConfig(codebook_size=32, rounds=6, heldout_fraction=0)
    quantizer, _ = train_quantizer(frames[:5000], 4, config, silent)
    x = frames[5000:]
    tables = SearchTables(residual_kmeans(frames[:5000], 4, 32, 20, seed=0))
    plain = relative_error(x, tables.decode(search_all(tables, x, 1, 1)))
    by_passes = [relative_error(x, quantizer.decode(quantizer.encode(x, passes))) for passes in (0, 1, 5)]
    assert by_passes[2] <= by_passes[1] < 0.92 * plain and by_passes[1] < by_passes[0]
    assert trained[1]["relative_error"]["5"] < trained[1]["start_error"] < 0.9 * plain


def test_codes_are_used_evenly(trained):
    _, metrics = trained
    assert max(metrics["index_entropy_loss"]) < 0.08 and sum(metrics["dead_codes"]) <= 2
    assert metrics["bits_per_frame"] == 20 and metrics["heldout_frames"] == 300


def test_a_codebook_that_would_be_used_unevenly_learns_from_fewer_combinations(frames):
    config = {"codebook_size": 32, "rounds": 0, "logits_epochs": 0}
    (strict, _), (free, _) = (
        train_quantizer(frames, 4, QuantizerTrainConfig(**config, uneven=limit), silent) for limit in (0.0, 1.0)
    )
    alike = [torch.equal(a, b) for a, b in zip(strict.centers, free.centers)]
    assert alike == [True, False, False, False]  # the first has no combinations to choose from


def test_the_linear_layer_guesses_codes(trained, frames):
    quantizer, metrics = trained
    x = frames[:1000]
    codes = quantizer.encode(x)
    hits = (quantizer.encode(x, 0) == codes).float().mean()
    assert hits > 5 / 32  # chance is 1 / 32
    losses = quantizer.losses(x, codes)
    assert losses["logprob"] < 0.85 * torch.tensor(32.0).log() and losses["logits_entropy"] < 0.1
    assert metrics["relative_error"]["0"] < 1


def test_training_with_bfloat16_products_is_nearly_as_good(frames):
    plain, low = (train_quantizer(frames, 4, replace(CONFIG, bfloat16=value), silent) for value in (False, True))
    assert not same(plain[0], low[0])
    assert low[1]["relative_error"]["1"] < 1.02 * plain[1]["relative_error"]["1"]


def test_steps_bound_the_epochs_of_the_linear_layer(frames):
    one, bounded, many = (
        train_quantizer(frames, 2, replace(CONFIG, rounds=0, logits_epochs=epochs, logits_steps=steps), silent)[0]
        for epochs, steps in ((1, 300), (50, 5), (2, 300))
    )
    assert same(one, bounded) and not same(one, many)  # 5,700 frames are five steps of 1024


def test_training_is_deterministic_and_seeded(frames):
    first, _ = train_quantizer(frames[:2000], 2, CONFIG, silent)
    torch.manual_seed(123)  # the global generator plays no part
    second, _ = train_quantizer(frames[:2000].numpy(), 2, CONFIG, silent)
    assert same(first, second) and first.id == second.id
    third, _ = train_quantizer(frames[:2000], 2, QuantizerTrainConfig(**{**vars(CONFIG), "seed": 1}), silent)
    assert not same(first, third)


@pytest.mark.parametrize("start_frames", [65_536, 900])
@pytest.mark.parametrize("place", [{"codebook": 1}, {"codebook": 2}, {"round": 0}, {"round": 1}])
def test_a_killed_run_continues_exactly(frames, tmp_path, place, start_frames):
    config = replace(CONFIG, start_frames=start_frames)
    whole, _ = train_quantizer(frames[:2000], 2, config, silent)
    path = tmp_path / "state.safetensors"

    def kill(state):
        if place.items() <= state.items():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_quantizer(frames[:2000], 2, config, kill, path)
    later = []
    resumed, metrics = train_quantizer(frames[:2000], 2, config, later.append, path)
    assert not any(place.items() <= state.items() for state in later)
    assert same(whole, resumed) and not path.exists() and metrics["start_error"] > 0


def test_the_state_of_other_frames_is_not_continued(frames, tmp_path):
    path = tmp_path / "state.safetensors"

    def kill(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_quantizer(frames[:2000], 2, CONFIG, kill, path)
    states = []
    train_quantizer(frames[1000:3000], 2, CONFIG, states.append, path)
    assert states[0]["codebook"] == 1


def test_progress_reports_heldout_error_and_rounds_never_raise_it(frames):
    states = []
    _, metrics = train_quantizer(frames[:3000], 2, CONFIG, states.append)
    assert [s["codebook"] for s in states if "codebook" in s] == [1, 2]
    rounds = [s for s in states if "round" in s]
    errors = [s["heldout_error"] for s in rounds]
    assert len(rounds) > 1 and rounds == metrics["rounds"] and all(0 < s["train_error"] < 1 for s in rounds)
    assert errors == sorted(errors, reverse=True) and metrics["start_error"] == errors[0]


def test_the_last_round_is_on_all_frames(frames):
    few = replace(CONFIG, start_frames=600, heldout_fraction=0.1)
    rounds = train_quantizer(frames, 2, few, silent)[1]["rounds"]
    alone = train_quantizer(frames[: 600 + 60], 2, replace(few, heldout_fraction=1 / 11), silent)[1]["rounds"]
    gains = [before["heldout_error"] - after["heldout_error"] for before, after in zip(rounds, rounds[1:])]
    # With ten times the frames, held-out ones gain more at the end than they lost on the way.
    assert gains[-1] > max(gains[1:-1], default=0) and rounds[-1]["heldout_error"] < alone[-1]["heldout_error"]


def test_normalisation_is_part_of_the_result(frames):
    scales = torch.logspace(-3, 3, 24)
    stretched = (frames * scales + 50 * scales).half().float()
    stretched[:, 0] = 7.0  # a constant channel
    quantizer, metrics = fit(stretched, 4, CONFIG, progress=silent)
    mean, std = channel_statistics(stretched)
    torch.testing.assert_close(quantizer.mean, mean)
    torch.testing.assert_close(std[1:], stretched.std(dim=0, correction=0)[1:] + 1e-5, rtol=1e-3, atol=1e-6)
    decoded = quantizer.decode(quantizer.encode(stretched))
    normal = relative_error((stretched - mean) / std, (decoded - mean) / std)
    assert normal < 0.5 and abs(normal - metrics["relative_error"]["5"]) < 0.1
    assert quantizer.card["normalise"] and torch.isfinite(decoded).all()
    plain, _ = fit(stretched, 4, CONFIG, normalise=False, progress=silent)
    assert plain.mean is None and not plain.card["normalise"]


def test_frames_that_cannot_be_used(frames):
    with pytest.raises(DataError, match="at least 32"):
        train_quantizer(frames[:31], 2, CONFIG)
    with pytest.raises(DataError):
        train_quantizer(frames[0], 2, CONFIG)
    broken = frames[:100].clone()
    broken[5:8, 2] = float("nan")
    with pytest.raises(DataError, match="3 of 100 rows"):
        fit(broken, 2, CONFIG)


@pytest.mark.parametrize("make", [torch.zeros, torch.ones])
def test_degenerate_frames_do_not_crash(make):
    quantizer, metrics = train_quantizer(make(200, 5), 2, CONFIG, silent)
    assert torch.isfinite(quantizer.centers).all() and metrics["frames"] == 190


def test_few_frames(frames):
    quantizer, _ = fit(frames[:40], 2, CONFIG, progress=silent)
    assert quantizer.encode(frames[:40]).shape == (40, 2)
