"""Encoders behind the interfaces of `mteb` and X-ARES."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from spear.audio import load_audio, save_audio
from spear.audio.load import resampled
from spear.errors import DataError
from spear.hear import get_scene_embeddings
from spear.runners import MtebEncoder, XaresEncoder

PITCHES = (300, 900, 2500)


class Attending(nn.Module):
    """An encoder whose frames see all others of a row, padding as well, as many have it."""

    def __init__(self):
        super().__init__()
        self.sample_rate, self.stride_samples = 16000, 320
        torch.manual_seed(0)
        self.layer = nn.Linear(320, 24)

    def forward(self, waves_BS, lengths_B):
        frames_BTF = waves_BS[:, : waves_BS.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        x_BTD = self.layer(frames_BTF)
        x_BTD = x_BTD + torch.softmax(x_BTD @ x_BTD.mT, dim=-1) @ x_BTD
        return [x_BTD, x_BTD.tanh()], torch.div(lengths_B, 320, rounding_mode="floor")


@pytest.fixture(scope="module")
def spec():
    module = types.ModuleType("encoder_of_the_test")
    module.make = Attending
    sys.modules[module.__name__] = module
    yield f"python:{module.__name__}:make"
    del sys.modules[module.__name__]


def tone(pitch, seconds, seed, rate=16000):
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    return (0.2 * np.sin(2 * np.pi * pitch * times) + 0.05 * rng.standard_normal(len(times))).astype(np.float32)


def items(waves, rate=16000):
    return [{"array": wave, "sampling_rate": rate} for wave in waves]


@pytest.mark.parametrize("name", ["fbank", "attending"])
def test_an_embedding_is_the_same_alone_and_in_any_batch(spec, name):
    encoder = MtebEncoder(spec if name == "attending" else name)
    waves = [tone(PITCHES[n % 3], (0.4, 1.1, 0.4, 2.3, 1.1)[n], n) for n in range(5)]
    alone_ND = np.concatenate([encoder.encode([{"audio": items([wave])}]) for wave in waves])
    for batches in ([waves], [waves[:2], waves[2:]], [[wave] for wave in waves]):
        found_ND = encoder.encode([{"audio": items(batch)} for batch in batches])
        assert found_ND.dtype == np.float32 and found_ND.shape == alone_ND.shape
        assert encoder.similarity_pairwise(found_ND, alone_ND).min() > 1 - 1e-6
    turned_ND = encoder.encode([{"audio": items(waves[::-1])}])[::-1].copy()
    assert encoder.similarity_pairwise(turned_ND, alone_ND).min() > 1 - 1e-6
    expected_ND = torch.cat([get_scene_embeddings(torch.from_numpy(w)[None], encoder.model) for w in waves])
    np.testing.assert_allclose(alone_ND, expected_ND.numpy(), rtol=1e-5, atol=1e-6)


def test_other_rates_and_channels_are_those_of_the_file(tmp_path):
    wave = tone(900, 0.5, 0, 44100)
    save_audio(tmp_path / "a.wav", wave, 44100)
    written, expected = load_audio(tmp_path / "a.wav", 44100), load_audio(tmp_path / "a.wav", 16000)
    np.testing.assert_allclose(resampled(written, 44100, 16000), expected, atol=1e-4)
    encoder = MtebEncoder("fbank")
    (one_D, two_D) = encoder.encode([{"audio": items([written, np.stack([written, written])], 44100)}])
    np.testing.assert_allclose(one_D, two_D, atol=1e-5)


@pytest.mark.parametrize("batch", [{"text": ["a"]}, {"audio": items([np.zeros(0)])}, {"audio": items([[np.nan] * 9])}])
def test_what_is_no_audio_is_refused(batch):
    with pytest.raises(DataError, match="audio"):
        MtebEncoder("fbank").encode([batch])


def test_similarities_are_cosines():
    encoder = MtebEncoder("fbank")
    a, b = np.asarray([[1.0, 0.0], [3.0, 4.0]]), np.asarray([[2.0, 0.0], [-4.0, 3.0]])
    np.testing.assert_allclose(encoder.similarity(a, b), [[1.0, -0.8], [0.6, 0.0]], atol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(a, b), [1.0, 0.0], atol=1e-6)


def test_an_encoder_as_x_ares_asks_for_it():
    class StudentEncoder(XaresEncoder):
        path = "fbank"

    encoder = StudentEncoder()
    found_BTD = encoder(torch.randn(2, 50000))
    assert isinstance(encoder, nn.Module) and encoder.sampling_rate == 16000
    assert found_BTD.shape[::2] == (2, encoder.output_dim) and found_BTD.dtype == torch.float32
    assert abs(50000 / 16 / found_BTD.shape[1] - encoder.hop_size_in_ms) < 0.1 * encoder.hop_size_in_ms
    assert encoder(torch.randn(8000)).shape[0] == 1


def test_what_mteb_asks_of_a_model(monkeypatch):
    """With a stand-in for its class; `test/parity/mteb_task.py` runs mteb itself."""
    stand_in = types.SimpleNamespace(ModelMeta=types.SimpleNamespace(create_empty=dict))
    monkeypatch.setitem(sys.modules, "mteb", types.ModuleType("mteb"))
    monkeypatch.setitem(sys.modules, "mteb.models", stand_in)
    encoder = MtebEncoder("fbank#mean")
    facts = encoder.mteb_model_meta
    assert facts["name"] == "spear/fbank-mean" and facts["modalities"] == ["audio"] and len(facts["revision"]) == 16
    assert facts["embed_dim"] == encoder.encode([{"audio": items([tone(900, 0.3, 0)])}]).shape[1] == 128
    assert MtebEncoder("fbank", "of my own").mteb_model_meta["revision"] == "of my own"
