"""The features' properties; their values are tested in test/golden and test/parity."""

import math
import pickle

import numpy as np
import pytest
import textbook_fbank
import torch

from spear.audio import LOG_FLOOR, Fbank, FbankConfig
from spear.errors import ConfigError

SILENCE = math.log(2.0**-23)


def waves(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), max(lengths), generator=generator) * 0.1, torch.tensor(lengths)


@pytest.mark.parametrize("length", [80, 81, 119, 120, 121, 199, 200, 239, 240, 280, 399, 400, 401, 559, 560, 16000])
def test_agrees_with_the_textbook(length):
    wave, _ = waves(length)
    features, lens = Fbank()(wave)
    assert lens.tolist() == [features.shape[1]] == [(length + 80) // 160]
    np.testing.assert_allclose(features[0].numpy(), textbook_fbank.fbank(wave[0].numpy()), atol=1e-3)


@pytest.mark.parametrize("length, frames", [(1, 0), (79, 0), (80, 1), (239, 1), (240, 2), (16000, 100)])
def test_any_length_from_one_sample_up(length, frames):
    wave, _ = waves(length)
    features, lens = Fbank()(wave)
    assert features.shape == (1, frames, 128) and lens.tolist() == [frames]
    assert FbankConfig().num_frames(length) == frames and Fbank().num_frames(torch.tensor([length])).tolist() == [
        frames
    ]
    assert torch.isfinite(features).all()


def test_an_utterance_in_a_batch_equals_itself_alone():
    lengths = [1, 79, 80, 100, 401, 8000, 48017, 160000]
    batch, lens = waves(*lengths)
    fbank = Fbank()
    features, feature_lens = fbank(batch, lens)
    for row, length in enumerate(lengths):
        alone, alone_lens = fbank(batch[row : row + 1, :length])
        frames = int(alone_lens[0])
        assert frames == int(feature_lens[row])
        torch.testing.assert_close(features[row, :frames], alone[0], atol=1e-5, rtol=0)
        assert (features[row, frames:] == LOG_FLOOR).all()


def test_what_lies_beyond_an_utterance_is_ignored():
    batch, lens = waves(3000, 16000)
    spoiled = batch.clone()
    spoiled[0, 3000:] = math.nan
    assert torch.equal(Fbank()(batch, lens)[0], Fbank()(spoiled, lens)[0])


def test_long_audio_equals_its_pieces():
    wave, _ = waves(16000 * 60)
    whole, _ = Fbank()(wave)
    piece, _ = Fbank()(wave[:, 16000 * 20 : 16000 * 40])
    torch.testing.assert_close(whole[0, 2001:3998], piece[0, 1:1998], atol=1e-5, rtol=0)


def test_silence_and_a_constant_have_the_floor():
    features, _ = Fbank()(torch.stack([torch.zeros(1600), torch.full((1600,), 0.5)]))
    np.testing.assert_allclose(features.numpy(), SILENCE, atol=1e-5)


def test_an_empty_batch_and_an_empty_utterance():
    features, lens = Fbank()(torch.zeros(0, 1600), torch.zeros(0, dtype=torch.int64))
    assert features.shape == (0, 10, 128) and lens.shape == (0,)
    features, lens = Fbank()(torch.zeros(2, 1600), torch.tensor([0, 1600]))
    assert lens.tolist() == [0, 10] and (features[0] == LOG_FLOOR).all()


def test_settings_of_precision_do_not_change_the_features():
    wave, _ = waves(16000)
    expected, _ = Fbank()(wave)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Fbank()(wave)[0], expected)
    assert torch.equal(Fbank().to(torch.bfloat16)(wave)[0], expected)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(Fbank()(wave)[0], expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_it_has_no_state_and_travels_to_workers():
    fbank = pickle.loads(pickle.dumps(Fbank()))
    assert not fbank.state_dict() and not list(fbank.parameters())
    wave, _ = waves(1600)
    assert torch.equal(fbank(wave)[0], Fbank()(wave)[0])


def test_lengths_on_a_device_are_not_looked_at():
    # On the meta device every attempt of the host to read a value raises.
    features, lens = Fbank()(torch.zeros(2, 4000, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta"))
    assert features.shape == (2, 25, 128) and lens.device.type == "meta"


def test_the_definition_changes_with_every_setting():
    hashes = {FbankConfig().definition_hash()}
    for change in (
        {"num_mel_bins": 80},
        {"low_hz": 0.0},
        {"high_hz": 8000.0},
        {"shift_ms": 20.0},
        {"energy_floor": 1e-10},
    ):
        hashes.add(FbankConfig(**change).definition_hash())
    assert len(hashes) == 6
    assert FbankConfig().definition()["num_mel_bins"] == 128


@pytest.mark.parametrize(
    "wave, lens",
    [
        (torch.zeros(1600), None),
        (torch.zeros(2, 1600), torch.tensor([1600])),
        (torch.zeros(1, 1600), torch.tensor([1601])),
        (torch.zeros(1, 1600), torch.tensor([-1])),
    ],
)
def test_shapes_that_do_not_fit_are_refused(wave, lens):
    with pytest.raises(ConfigError):
        Fbank()(wave, lens)


@pytest.mark.parametrize("change", [{"low_hz": 7700.0}, {"high_hz": 9000.0}, {"shift_ms": 0.0}, {"window_ms": 5.0}])
def test_definitions_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError):
        Fbank(FbankConfig(**change))
