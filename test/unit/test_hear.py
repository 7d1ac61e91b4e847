"""The interface of HEAR: shapes, frame centres, no influence of the batch, bounded memory, the official validator."""

import sys
from types import SimpleNamespace

import pytest
import torch

import spear
from spear import hear
from spear.errors import ConfigError
from spear.evaluate import windows
from spear.evaluate.adapters import CallableUpstream
from spear.evaluate.upstream import load_upstream


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny encoder of ours on disk."""
    torch.manual_seed(0)
    config = spear.SpearConfig(
        num_encoder_layers="1,1", encoder_dim="16,24", feedforward_dim="24,24", num_heads="2,2",
        downsampling_factor="1,2",
        encoder_unmasked_dim="16,16", cnn_module_kernel="7,7", pos_dim=8, query_head_dim="8", value_head_dim="6",
        pos_head_dim="2",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    return str(spear.save_model(spear.SpearModel(config), folder))


class Convolutions:
    """Frames as wav2vec 2.0 counts them; each state is of the samples that the frame hears."""

    sample_rate, stride_samples = 16000, 320

    def __init__(self):
        self.most_samples = 0

    def __call__(self, waves_BS, lengths_B):
        self.most_samples = max(self.most_samples, waves_BS.numel())
        frames_BTW = waves_BS.unfold(1, 400, 320)
        state_BTD = torch.stack([frames_BTW.mean(dim=2), frames_BTW.std(dim=2)], dim=2)
        return [state_BTD, torch.cat([state_BTD, 2 * state_BTD], dim=2)], (lengths_B - 400) // 320 + 1


def test_embeddings_have_the_shapes_that_the_model_tells(checkpoint):
    audio = 0.1 * torch.randn(3, 16000)
    sizes = {}
    for states in windows.STATES:
        model = hear.load_model(f"{checkpoint}#{states}")
        embeddings, milliseconds = hear.get_timestamp_embeddings(audio, model)
        scenes = hear.get_scene_embeddings(audio, model)
        assert model.sample_rate == 16000 and embeddings.dtype == scenes.dtype == torch.float32
        assert embeddings.shape == (*milliseconds.shape, model.timestamp_embedding_size)
        assert scenes.shape == (3, model.scene_embedding_size)
        torch.testing.assert_close(scenes, embeddings.mean(dim=1), atol=1e-5, rtol=1e-4)
        sizes[states] = model.scene_embedding_size
    assert sizes["concat"] > sizes["mean"] >= sizes["last"]
    last = hear.load_model(checkpoint)
    torch.testing.assert_close(
        hear.get_scene_embeddings(audio, last), hear.get_scene_embeddings(audio, hear.load_model(f"{checkpoint}#last"))
    )


def test_an_embedding_does_not_depend_on_its_batch(checkpoint):
    audio = 0.1 * torch.randn(17, 24000)
    model = hear.load_model(checkpoint)
    together, _ = hear.get_timestamp_embeddings(audio, model)
    for row in (0, 16):
        alone, _ = hear.get_timestamp_embeddings(audio[row : row + 1], model)
        cosine_T = torch.nn.functional.cosine_similarity(alone[0], together[row], dim=1)
        assert cosine_T.min() >= 1 - 1e-6


@pytest.mark.parametrize("spec, first", [("fbank", 5.0), ("fbank-superb", 12.5)])
def test_frame_centres_of_filterbanks(spec, first):
    _, milliseconds = hear.get_timestamp_embeddings(torch.randn(2, 8000), hear.load_model(spec))
    torch.testing.assert_close(milliseconds[1, :3], torch.tensor([first, first + 10, first + 20]))


def test_the_first_frame_of_a_zipformer_is_centred_on_the_nine_that_it_hears(checkpoint):
    assert windows.first_centre_seconds(load_upstream(checkpoint)) == pytest.approx(0.045)


def test_the_first_frame_of_convolutions_of_25_ms_is_at_half_of_them():
    assert windows.first_centre_seconds(CallableUpstream(Convolutions(), "c")) == pytest.approx(0.0125)


def test_twenty_minutes_take_bounded_memory_and_equal_the_whole():
    encoder = Convolutions()
    upstream = CallableUpstream(encoder, "c")
    wave_1S = 0.1 * torch.randn(1, 20 * 60 * 16000)
    pieces = list(windows.stretches(upstream, wave_1S))
    assert encoder.most_samples <= 80 * 16000 and len(pieces) == 20
    whole = encoder(wave_1S, torch.tensor([wave_1S.shape[1]]))[0]
    for layer, state in enumerate(whole):
        together = torch.cat([states[layer] for states in pieces], dim=1)
        torch.testing.assert_close(together[:, : state.shape[1]], state)
        assert abs(together.shape[1] - state.shape[1]) <= 1
    encoder.most_samples = 0
    list(windows.stretches(upstream, torch.zeros(64, 10 * 16000)))
    assert encoder.most_samples <= 81 * 16000


def test_what_the_interface_does_not_allow_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="weighted"):
        hear.load_model("fbank#weighted")
    encoder = Convolutions()
    encoder.sample_rate = 24000
    monkeypatch.setattr(hear, "load_upstream", lambda spec, device: CallableUpstream(encoder, "c"))
    with pytest.raises(ConfigError, match="24000 Hz"):
        hear.load_model("python:a:b")
    with pytest.raises(ConfigError, match="shape"):
        hear.get_scene_embeddings(torch.zeros(16000), None)


def test_the_official_validator_accepts_it(checkpoint, monkeypatch):
    # The validator imports tensorflow to ask whether a model is of it; ours is not.
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(Module=type("Module", (), {})))
    validate = pytest.importorskip("hearvalidator.validate")
    for spec in (checkpoint, f"{checkpoint}#concat", ""):
        validate.ValidateModel("spear.hear", spec, "cpu")()
