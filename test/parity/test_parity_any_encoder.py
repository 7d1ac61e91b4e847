"""`hf`, for any encoder of transformers, beside transformers itself; and `python`, for teachers of one's own."""

import pytest
import torch

from spear.errors import ConfigError, DataError
from spear.teachers import load_teacher
from spear.teachers.align import expected_frames

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    """A small HuBERT that hears the wave, normalised."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    config = transformers.HubertConfig(**SIZES, conv_dim=[8] * 7, num_conv_pos_embeddings=16)
    model = transformers.HubertModel(config).eval()
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return f"hf:{folder}", model


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small w2v-BERT that hears pairs of log-mel spectra."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.Wav2Vec2BertConfig(**SIZES, feature_projection_input_dim=160, conv_depthwise_kernel_size=5)
    model = transformers.Wav2Vec2BertModel(config).eval()
    model.save_pretrained(folder)
    transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80).save_pretrained(folder)
    return f"hf:{folder}", model


def wave(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


RULES = {"hubert": "hop_samples=320,window_samples=400", "bert": "hop_samples=320,window_samples=560"}


@pytest.mark.parametrize("layer", [-1, 0, 2])
def test_a_model_that_hears_waves(hubert, layer):
    spec, model = hubert
    heard = wave(16000)
    inputs = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)(
        heard.numpy(), sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        out = model(inputs.input_values, output_hidden_states=True)
    teacher = load_teacher(f"{spec}@{layer},{RULES['hubert']}")
    x_BTD, lens_B = teacher.embed(heard[None], torch.tensor([16000]))
    expected = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    torch.testing.assert_close(x_BTD, expected, rtol=1e-4, atol=1e-4)
    assert lens_B.tolist() == [49] and teacher.frame_rate == 50 and teacher.fingerprint()["model"] == "HubertModel"


def test_a_model_that_hears_spectra(bert):
    spec, model = bert
    heard = wave(16000)
    extractor = transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80)
    inputs = extractor(heard.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model(inputs.input_features).last_hidden_state
    teacher = load_teacher(f"{spec},{RULES['bert']}")
    x_BTD, lens_B = teacher.embed(heard[None], torch.tensor([16000]))
    torch.testing.assert_close(x_BTD, expected[:, : int(lens_B[0])], rtol=1e-4, atol=1e-4)
    assert lens_B.tolist() == [49]


@pytest.mark.parametrize("kind", ["hubert", "bert"])
def test_frames_do_not_depend_on_the_batch_and_are_as_declared(kind, request):
    spec, _ = request.getfixturevalue(kind)
    teacher = load_teacher(f"{spec},{RULES[kind]}")
    lengths = [16000, 320, 400, 560, 12345]
    waves_BS = torch.full((5, 16000), torch.nan)
    for row, length in enumerate(lengths):
        waves_BS[row, :length] = wave(length, row)
    x_BTD, lens_B = teacher.embed(waves_BS, torch.tensor(lengths))
    assert lens_B.tolist() == [expected_frames(length, teacher) for length in lengths] and x_BTD.isfinite().all()
    for row, (length, count) in enumerate(zip(lengths, lens_B.tolist())):
        alone, _ = teacher.embed(waves_BS[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(alone[0], x_BTD[row, :count], rtol=1e-4, atol=1e-4)
    x_BTD, lens_B = teacher.embed(wave(640000)[None], torch.tensor([640000]))
    assert int(lens_B[0]) == x_BTD.shape[1] == expected_frames(640000, teacher) and x_BTD.abs().sum(2).min() > 0


def test_layers_side_by_side(hubert):
    spec = f"{hubert[0]},{RULES['hubert']}"
    teacher, whole = load_teacher(spec), load_teacher(spec)
    assert teacher.watch_layers([2, -1]) == [32, 32] and whole.watch_states() == [32] * 4
    heard = wave(8000)[None], torch.tensor([8000])
    x_BTD, states_BTD = teacher.embed(*heard)[0], whole.embed(*heard)[0]
    torch.testing.assert_close(x_BTD[..., :32], states_BTD[..., 64:96])


def test_what_was_declared_wrongly_is_told(hubert, tmp_path):
    spec = hubert[0]
    for options, kind, message in (
        ("", ConfigError, "hop_samples="),
        (",hop_samples=0", ConfigError, "a number of samples"),
        ("@9,hop_samples=320", ConfigError, "-1 .* to 3"),
        (",hop_samples=320,window_samples=x", ConfigError, "window_samples=x"),
    ):
        with pytest.raises(kind, match=message):
            load_teacher(spec + options)
    with pytest.raises(DataError, match="as hop_samples and window_samples say"):
        load_teacher(f"{spec},hop_samples=160").embed(wave(16000)[None], torch.tensor([16000]))
    with pytest.raises(ConfigError, match="without a path"):
        load_teacher("hf", hop_samples=320)


OWN = """
import torch

class Mine:
    name, sample_rate, frame_rate, frame_rule = "mine", 16000, 50.0, "hop320-window320"
    dim, batch_invariant = 2, True

    def __init__(self, device, layer=4, scale="1"):
        self.device, self.layer, self.scale = torch.device(device), layer, float(scale)

    def fingerprint(self):
        return {"teacher": self.name, "weights_sha256": "0" * 64, "layer": self.layer, "frame_rate_hz": 50.0,
                "sample_rate_hz": 16000, "dim": DIM, "frame_rule": self.frame_rule}

    def embed(self, waves_BS, lengths_B):
        x = waves_BS[:, : waves_BS.shape[1] // 320 * 320].unflatten(1, (-1, 320))[..., :2] * self.scale
        return x, lengths_B // 320
"""


def test_a_teacher_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_at_home.py").write_text(OWN.replace("DIM", "2"))
    (tmp_path / "mine_that_lies.py").write_text(OWN.replace("DIM", "3"))
    teacher = load_teacher("python:mine_at_home:Mine@7,scale=3")
    assert (teacher.layer, teacher.scale) == (7, 3.0) and load_teacher("python:mine_at_home:Mine").layer == 4
    x_BTD, lens_B = teacher.embed(torch.ones(1, 1000), torch.tensor([1000]))
    assert x_BTD.tolist() == [[[3.0, 3.0]] * 3] and lens_B.tolist() == [expected_frames(1000, teacher)]
    for spec, message in (
        ("python:mine_at_home", "MODULE:FACTORY"),
        ("python:mine_nowhere:Mine", "ModuleNotFoundError"),
        ("python:mine_at_home:Yours", "AttributeError"),
        ("python:mine_that_lies:Mine", "whose dim is missing"),
        ("python:collections:Counter", "without name"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_teacher(spec)


def test_rules_of_hop_and_window_need_no_registration():
    assert [expected_frames(n, "hop320-window400") for n in (0, 399, 400, 719, 720)] == [0, 0, 1, 1, 2]
    assert expected_frames(16000, {"frame_rule": "hop2560-window2800"}) == 6
    with pytest.raises(ConfigError, match="hop0-window3"):
        expected_frames(1, "hop0-window3")
