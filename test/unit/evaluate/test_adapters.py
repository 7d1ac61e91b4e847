"""Other people's encoders behind the upstream protocol."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corpus import TinyEncoder
from torch import nn

from spear import teachers
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate.adapters import CallableUpstream
from spear.evaluate.cache import FeatureCache, item_key
from spear.evaluate.suites import read_all_items
from spear.evaluate.upstream import Upstream, load_upstream, upstream_hash


class Strided:
    """Frames of 160 samples at 8 kHz, and their squares."""

    sample_rate = 8000

    def __init__(self, returns="list"):
        self.returns = returns

    def __call__(self, waves_BS, lengths_B):
        frames_BTD = waves_BS[:, : waves_BS.shape[1] // 160 * 160].unflatten(1, (-1, 160))
        states = [frames_BTD, frames_BTD.square()]
        if self.returns == "list":
            return states
        if self.returns == "pair":
            return states, lengths_B // 160
        return {"hidden_states": states} if self.returns == "dict" else SimpleNamespace(hidden_states=states)


@pytest.mark.parametrize("returns", ["list", "pair", "dict", "object"])
def test_any_callable_with_a_rate_is_an_upstream(returns, data_dir, tmp_path):
    upstream = CallableUpstream(Strided(returns), "strided")
    assert isinstance(upstream, Upstream)
    assert (upstream.num_layers, upstream.stride_samples, upstream.sample_rate) == (2, 160, 8000)
    items = read_all_items(data_dir)[:5]
    cache = FeatureCache(tmp_path, upstream)
    cache.ensure(items, {item_key(item) for item in items})
    for item in items:
        states = cache.hidden_states(item_key(item)).float()
        assert states.shape[0] == 2 and states.shape[2] == 160
        assert abs(states.shape[1] - item.duration_seconds * 50) <= 1


def test_two_encoders_of_one_class_have_different_hashes():
    class Layer(nn.Linear):
        sample_rate = 16000

        def forward(self, waves_BS, lengths_B):
            return [super().forward(waves_BS.unflatten(1, (-1, 320)))]

    first, second = (CallableUpstream(Layer(320, 4), "same") for _ in range(2))
    assert upstream_hash(first) != upstream_hash(second)
    assert upstream_hash(first) == upstream_hash(CallableUpstream(first.encoder, "another name"))


def test_what_is_no_encoder_is_refused():
    with pytest.raises(ConfigError, match="sample_rate None"):
        CallableUpstream(lambda waves, lengths: [], "plain")
    flat = Strided()
    flat.__class__ = type("Flat", (Strided,), {"__call__": lambda self, waves, lengths: [waves]})
    with pytest.raises(DataError, match="time, channels"):
        CallableUpstream(flat, "flat")


def test_encoders_are_found_by_module_and_name(tmp_path, monkeypatch):
    (tmp_path / "their_model.py").write_text(
        "class Encoder:\n    sample_rate = 16000\n\n    def __call__(self, waves_BS, lengths_B):\n"
        "        return [waves_BS.unflatten(1, (-1, 320))]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    upstream = load_upstream("theirs=python:their_model:Encoder")
    assert upstream.name == "theirs" and upstream.num_layers == 1
    assert load_upstream("python:their_model:Encoder").name == "their_model_Encoder"
    with pytest.raises(ConfigError, match="no_such_model"):
        load_upstream("python:no_such_model:Encoder")
    sys.modules.pop("their_model", None)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("raise RuntimeError('no licence')", "importing the module failed: RuntimeError: no licence"),
        ("class Encoder:\n    def __init__(self): 1 / 0", "ZeroDivisionError"),
        ("def Encoder(): raise KeyError('weights')", "KeyError"),
        ("class Encoder:\n    sample_rate = 16000\n    def __call__(self, *_): raise MemoryError", "MemoryError"),
        ("class Encoder:\n    sample_rate = 16000\n    def __call__(self, *_): return 3", "TypeError"),
    ],
)
def test_encoders_that_fail_end_in_three_parts(tmp_path, monkeypatch, code, found):
    (tmp_path / "failing_model.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing_model", raising=False)
    with pytest.raises(SpearError, match=found) as caught:
        load_upstream("python:failing_model:Encoder")
    assert "SPEAR_TRACEBACK=1" in caught.value.fix


class BlockTeacher:
    """A teacher of three blocks, as the adapters of the registry are made."""

    name, sample_rate, frame_rate, frame_rule, dim, batch_invariant = "blocks", 16000, 50.0, "x", 8, True

    def __init__(self, path="", layer=None, device="cpu"):
        self.layer, self.device = layer, torch.device(device)
        torch.manual_seed(0)
        self._model = nn.ModuleDict(
            {"front": nn.Linear(320, 8), "blocks": nn.ModuleList(nn.Linear(8, 8) for _ in "abc")}
        )

    def fingerprint(self):
        return {"teacher": "blocks", "layer": self.layer}

    def embed(self, waves_BS, lengths_B):
        x_BTD = self._model["front"](waves_BS[:, : waves_BS.shape[1] // 320 * 320].unflatten(1, (-1, 320)))
        for block in self._model["blocks"]:
            x_BTD = block(x_BTD)
        return x_BTD, lengths_B // 320


def test_a_teacher_gives_all_its_layers_or_the_one_that_is_named(monkeypatch):
    monkeypatch.setitem(teachers.registry._FACTORIES, "blocks", BlockTeacher)
    every, one = load_upstream("all=teacher:blocks"), load_upstream("teacher:blocks@2")
    assert (every.num_layers, one.num_layers, every.stride_samples) == (4, 1, 320)
    assert upstream_hash(every) != upstream_hash(one)
    waves_BS, lengths_B = torch.randn(2, 3200), torch.tensor([3200, 1700])
    states, lens_B = every.extract(waves_BS, lengths_B)
    embedded_BTD, _ = one.teacher.embed(waves_BS, lengths_B)
    assert lens_B.tolist() == [10, 5] and states[0].shape == (2, 10, 8)
    np.testing.assert_allclose(states[-1].numpy(), embedded_BTD.detach().numpy(), rtol=1e-5)
    assert not np.allclose(states[0], states[-1])


def test_a_wav2vec2_of_the_registry_gives_the_states_that_transformers_gives(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, hidden_dropout=0.0, layerdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(config).eval()
    model.save_pretrained(tmp_path)
    upstream = load_upstream(f"teacher:wav2vec2:{tmp_path},normalise=false")
    wave_BS = 0.1 * torch.randn(1, 16000)
    states, lens_B = upstream.extract(wave_BS, torch.tensor([16000]))
    with torch.no_grad():
        expected = model(wave_BS, output_hidden_states=True).hidden_states
    assert len(states) == 4 and lens_B.tolist() == [49]
    for state, other in zip(states, expected):
        np.testing.assert_allclose(state.numpy(), other.numpy(), atol=1e-4)


def test_the_s3prl_upstream_gives_the_same_states(tmp_path, monkeypatch):
    import spear
    from spear.evaluate.s3prl_expert import spear_local

    monkeypatch.setattr(spear, "load_model", lambda path: TinyEncoder())
    expert = spear_local("checkpoint")
    waves = [torch.randn(16000), torch.randn(9000)]
    states = expert(waves)["hidden_states"]
    alone = expert(waves[:1])["hidden_states"]
    assert len(states) == 3 and states[0].shape[0] == 2 and expert.get_downsample_rates("hidden_states") == 320
    torch.testing.assert_close(states[1][0, :40], alone[1][0, :40])
