"""Which states an upstream has, at which stride, and SUPERB's own filterbank."""

import json

import numpy as np
import pytest
import torch
from corpus import TinyEncoder
from torch import nn

from spear.errors import ConfigError
from spear.evaluate.adapters import CallableUpstream
from spear.evaluate.upstream import FbankUpstream, SpearUpstream, SuperbFbankUpstream, load_upstream, upstream_hash


def save_transformer(folder, name, blocks, pre_norm):
    """A tiny model of transformers with so many blocks; returns it."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(
        hidden_size=16, num_hidden_layers=blocks, num_attention_heads=2, intermediate_size=16, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, hidden_dropout=0.0, layerdrop=0.0,
    )  # fmt: skip
    norm = "layer" if pre_norm else "group"
    config = getattr(transformers, f"{name}Config")(do_stable_layer_norm=pre_norm, feat_extract_norm=norm, **sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():  # a final norm that shows
        for parameter in model.encoder.layer_norm.parameters():
            parameter.add_(0.3)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["WavLM", "Hubert"])
def test_a_teacher_of_24_blocks_has_25_states(tmp_path, name):
    model = save_transformer(tmp_path, name, 24, pre_norm=True)
    spec = f"teacher:{name.lower()}:{tmp_path},normalise=false"
    raw, normed = load_upstream(spec), load_upstream(f"{spec},final_norm=true")
    assert raw.num_layers == normed.num_layers == 25
    wave_BS = 0.1 * torch.randn(1, 8000)
    states, lens_B = raw.extract(wave_BS, torch.tensor([8000]))
    with torch.no_grad():
        output = model(wave_BS, output_hidden_states=True)
    expected = output.hidden_states
    assert len(expected) == 25
    assert lens_B.tolist() == [24]
    for state, other in zip(states[:-1], expected):
        torch.testing.assert_close(state, other, atol=1e-4, rtol=1e-4)
    normed_BTD = model.encoder.layer_norm(states[-1]).detach()
    torch.testing.assert_close(normed_BTD, output.last_hidden_state, atol=1e-4, rtol=1e-4)
    last = normed.extract(wave_BS, torch.tensor([8000]))[0][-1]
    torch.testing.assert_close(last, output.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert raw.fingerprint()["final_norm"] == "not applied"
    assert normed.fingerprint()["final_norm"] == "applied to the last state"
    assert raw.fingerprint()["num_states"] == 25 and upstream_hash(raw) != upstream_hash(normed)
    one = load_upstream(f"{spec.partition(',')[0]}@21,normalise=false")
    torch.testing.assert_close(one.extract(wave_BS, torch.tensor([8000]))[0][0], states[21])


def test_where_no_norm_is_behind_the_last_block_the_option_changes_nothing(tmp_path):
    save_transformer(tmp_path, "WavLM", 2, pre_norm=False)
    raw, normed = (load_upstream(f"teacher:wavlm:{tmp_path}{norm}") for norm in ("", ",final_norm=true"))
    assert raw.num_layers == 3 and upstream_hash(raw) == upstream_hash(normed)
    assert raw.fingerprint()["final_norm"] == "none behind the last block"
    waves = torch.randn(2, 6000), torch.tensor([6000, 4000])
    for one, other in zip(raw.extract(*waves)[0], normed.extract(*waves)[0]):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spec", ["@1,final_norm=true", ",final_norm=yes"])
def test_a_final_norm_that_cannot_be_is_refused(tmp_path, spec):
    with pytest.raises(ConfigError, match="final_norm="):
        load_upstream(f"teacher:wavlm:{tmp_path}{spec}")


def test_a_whisper_hears_long_audio_in_its_windows_with_all_states(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=16, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=16, max_source_positions=100, num_mel_bins=80, vocab_size=60,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=[],
        begin_suppress_tokens=[],
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.WhisperModel(config).save_pretrained(tmp_path)
    upstream = load_upstream(f"teacher:whisper:{tmp_path},overlap_seconds=0.2")
    assert upstream.num_layers == 3 and upstream.fingerprint()["final_norm"] == "not applied"
    waves_BS, lengths_B = 0.1 * torch.randn(2, 80000), torch.tensor([80000, 20000])
    states, lens_B = upstream.extract(waves_BS, lengths_B)
    assert lens_B.tolist() == [250, 62] and all(state.shape == (2, 250, 16) for state in states)
    alone = upstream.extract(waves_BS[1:, :20000], lengths_B[1:])[0]
    for state, other in zip(states, alone):
        torch.testing.assert_close(state[1:, :62], other, atol=1e-4, rtol=1e-4)


def test_a_dasheng_gives_all_states_of_audio_longer_than_its_pieces(tmp_path):
    from spear.teachers.dasheng import DashengEncoder

    torch.manual_seed(0)
    model = DashengEncoder(dim=64, depth=3, num_heads=1, hidden=32, piece_patches=10)
    torch.save({"model": model.state_dict(), "config": {}}, tmp_path / "dasheng.pt")
    upstream = load_upstream(f"teacher:dasheng:{tmp_path / 'dasheng.pt'}")
    assert (upstream.num_layers, upstream.stride_samples) == (4, 640)
    waves = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
    states, lens_B = upstream.extract(*waves)
    assert lens_B.tolist() == [25, 14] and all(state.shape == (2, 25, 64) for state in states)
    one = load_upstream(f"teacher:dasheng:{tmp_path / 'dasheng.pt'}@2").extract(*waves)[0][0]
    torch.testing.assert_close(states[2], one)


class UsadModel(nn.Module):
    """What a USAD returns, with three layers."""

    def forward(self, waves_BS):
        x_BTD = waves_BS[:, : waves_BS.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        return {"x": -x_BTD, "hidden_states": [x_BTD, x_BTD + 1, x_BTD + 2]}


def test_a_usad_gives_the_states_that_it_counts_for_each_of_a_batch(monkeypatch):
    monkeypatch.setattr("spear.teachers.usad.load_with_code", lambda *_: UsadModel())
    monkeypatch.setattr("spear.teachers.usad.transformers_for", lambda _: pytest.importorskip("transformers"))
    waves_BS, lengths_B = torch.randn(2, 3200), torch.tensor([3200, 1700])
    for norm, last in ((None, 2), ("true", None)):
        option = f",final_norm={norm}" if norm else ""
        upstream = load_upstream(f"teacher:usad:x,trust_remote_code=true{option}")
        states, lens_B = upstream.extract(waves_BS, lengths_B)
        assert upstream.num_layers == 3 and lens_B.tolist() == [10, 5]
        frames_TD = waves_BS[1, :1600].unflatten(0, (5, 320))
        torch.testing.assert_close(states[1][1, :5], frames_TD + 1)
        torch.testing.assert_close(states[2][1, :5], frames_TD + 2 if last else -frames_TD)


def test_our_encoder_as_a_teacher_has_the_states_of_the_checkpoint(tmp_path):
    from spear import SpearConfig, SpearModel
    from spear.models.loading import save_model

    sizes = {"encoder_dim": "32,48", "encoder_unmasked_dim": "32", "feedforward_dim": "32", "num_heads": "1"}
    torch.manual_seed(0)
    config = SpearConfig(num_encoder_layers="1,1", downsampling_factor="1,2", cnn_module_kernel="7,7", **sizes)
    save_model(SpearModel(config), tmp_path / "run")
    teacher, own = load_upstream(f"teacher:spear:{tmp_path / 'run'}"), load_upstream(str(tmp_path / "run"))
    assert teacher.num_layers == own.num_layers == 3 and teacher.stride_samples == own.stride_samples == 320
    waves = torch.randn(1, 16000), torch.tensor([16000])
    for state, other in zip(teacher.extract(*waves)[0], own.extract(*waves)[0]):
        torch.testing.assert_close(state, other, atol=2e-2, rtol=2e-2)  # the checkpoint runs in bfloat16 where fast
    assert own.fingerprint()["states"] == "input of the first layer and output of every layer"
    with pytest.raises(ConfigError, match="no further norm"):
        load_upstream(f"teacher:spear:{tmp_path / 'run'},final_norm=true")


def test_fingerprints_tell_which_states_are_counted():
    upstream = SpearUpstream(TinyEncoder(), "tiny", "checkpoint")
    assert upstream.fingerprint()["states"] == "output of every layer"
    assert upstream.fingerprint()["num_states"] == 3


class Convolution(nn.Module):
    """Frames of 400 samples every `stride`, as of a convolution without padding; the stride is not told."""

    def __init__(self, stride, rate=16000):
        super().__init__()
        self.stride, self.sample_rate = stride, rate

    def forward(self, waves_BS, lengths_B):
        return [waves_BS.unfold(1, 400, self.stride)[:, :, :4]], (lengths_B - 400) // self.stride + 1


@pytest.mark.parametrize("stride, rate", [(320, 16000), (160, 16000), (640, 16000), (320, 24000), (256, 22050)])
def test_a_stride_that_is_not_told_is_measured_well(stride, rate):
    upstream = CallableUpstream(Convolution(stride, rate), "convolution")
    assert upstream.stride_samples == upstream.fingerprint()["stride_samples"] == stride


def test_the_filterbank_of_superb_is_that_of_kaldi_with_differences_and_normalised():
    kaldi = pytest.importorskip("kaldi_native_fbank")
    options = kaldi.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0.0, True
    options.mel_opts.num_bins, options.energy_floor = 80, 0.0
    online = kaldi.OnlineFbank(options)
    wave = (0.1 * np.random.default_rng(0).standard_normal(9000)).astype(np.float32)
    online.accept_waveform(16000, wave.tolist())
    online.input_finished()
    x_TF = np.stack([online.get_frame(t) for t in range(online.num_frames_ready)])
    parts = [x_TF]
    for _ in range(2):  # the regression written out
        padded = np.pad(parts[-1], ((2, 2), (0, 0)), mode="edge")
        windows = np.stack([padded[t : t + 5] for t in range(len(x_TF))])
        parts.append(np.einsum("tkf,k->tf", windows, np.arange(-2, 3)) / 10)
    expected = np.concatenate(parts, axis=1)
    expected = (expected - expected.mean(0)) / expected.std(0, ddof=1)
    upstream = load_upstream("fbank-superb")
    waves_BS = torch.zeros(2, 10240)
    waves_BS[0, :9000], waves_BS[1] = torch.from_numpy(wave), torch.randn(10240)
    states, lens_B = upstream.extract(waves_BS, torch.tensor([9000, 1600]))
    assert (upstream.name, upstream.num_layers, upstream.stride_samples) == ("fbank-superb", 1, 160)
    assert lens_B.tolist() == [54, 8] and states[0].shape == (2, 54, 240)
    np.testing.assert_allclose(states[0][0].numpy(), expected, atol=2e-3)


def test_the_filterbank_of_superb_is_defined_for_silence_and_for_very_short_audio():
    upstream = SuperbFbankUpstream()
    states, lens_B = upstream.extract(torch.zeros(4, 5120), torch.tensor([5120, 400, 399, 1]))
    assert lens_B.tolist() == [30, 1, 0, 0] and torch.isfinite(states[0]).all()
    assert upstream_hash(upstream) != upstream_hash(FbankUpstream())
    assert json.dumps(upstream.fingerprint())
