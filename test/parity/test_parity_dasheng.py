"""Our Dasheng encoder against the package `dasheng`: the same random weights, alone and in padded batches.

The package needs torchaudio. Where there is none, its two transforms are taken from transformers.audio_utils, which is
as independent of our front end as torchaudio is.
"""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from spear.errors import ConfigError, DataError
from spear.teachers import Teacher, load_teacher
from spear.teachers.align import expected_frames

pytest.importorskip("einops")
pytest.importorskip("transformers")
if importlib.util.find_spec("dasheng") is None:
    pytest.skip("needs the package dasheng (pip install --no-deps dasheng)", allow_module_level=True)

DEPTH, HEADS = 3, 4


class MelSpectrogram(nn.Module):
    """torchaudio's transform of this name, for the settings that Dasheng uses."""

    def __init__(self, sample_rate, n_fft, win_length, hop_length, f_min, f_max, n_mels, center):
        super().__init__()
        from transformers import audio_utils

        assert center and win_length == n_fft
        filters = audio_utils.mel_filter_bank(n_fft // 2 + 1, n_mels, f_min, f_max, sample_rate)
        self.settings = {"frame_length": n_fft, "hop_length": hop_length, "power": 2.0, "mel_filters": filters}
        self.settings |= {"window": audio_utils.window_function(n_fft, "hann"), "mel_floor": 0.0, "dtype": np.float64}
        self.spectrogram = audio_utils.spectrogram

    def forward(self, waves_BS):
        return torch.stack([torch.tensor(self.spectrogram(w.numpy(), **self.settings)) for w in waves_BS]).float()


class AmplitudeToDB(nn.Module):
    """Decibels with the floor that torchaudio takes from the loudest value of a whole (B, F, T) batch."""

    def __init__(self, top_db):
        super().__init__()
        self.top_db = top_db

    def forward(self, x_BFT):
        x_BFT = 10 * x_BFT.clamp(min=1e-10).log10()
        return x_BFT.clamp(min=x_BFT.max() - self.top_db)


@pytest.fixture(scope="module")
def package():
    if importlib.util.find_spec("torchaudio") is None:
        transforms = types.ModuleType("torchaudio.transforms")
        transforms.MelSpectrogram, transforms.AmplitudeToDB = MelSpectrogram, AmplitudeToDB
        top = types.ModuleType("torchaudio")
        top.transforms = transforms
        sys.modules.update({"torchaudio": top, "torchaudio.transforms": transforms})
    from dasheng.pretrained import pretrained

    yield pretrained
    if getattr(sys.modules.get("torchaudio"), "__file__", None) is None:
        for name in ("torchaudio", "torchaudio.transforms"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model(package):
    torch.manual_seed(0)
    model = package.Dasheng(embed_dim=32, depth=DEPTH, num_heads=HEADS, mlp_ratio=2).eval()
    with torch.no_grad():
        batch_norm = model.init_bn[1]
        batch_norm.running_mean.normal_(-20, 5)
        batch_norm.running_var.uniform_(100, 300)
        for name, parameter in model.named_parameters():
            if "blocks" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("dasheng") / "dasheng_small.pt"
    torch.save({"model": model.state_dict(), "config": {"num_heads": HEADS, "embed_dim": 32}}, path)
    return path


def waves(*lengths):
    generator = torch.Generator().manual_seed(1)
    waves_BS = torch.zeros(len(lengths), max(lengths))
    for number, length in enumerate(lengths):
        waves_BS[number, :length] = torch.randn(length, generator=generator).cumsum(0).sin() * 0.5 / (number + 1)
    return waves_BS, torch.tensor(lengths)


def close(x, y):
    torch.testing.assert_close(x, y, rtol=0, atol=1e-4 * max(1.0, float(y.abs().max())))


@pytest.mark.parametrize("length", [640, 16000, 16480, 161280, 250001])
def test_the_package_gives_the_same(model, checkpoint, length):
    teacher = load_teacher(f"dasheng:{checkpoint}")
    assert isinstance(teacher, Teacher) and (teacher.dim, teacher.frame_rate, teacher.layer) == (32, 25, -1)
    waves_BS, lengths_B = waves(length)
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    with torch.no_grad():
        expected = model(waves_BS, x_length=lengths_B)
    assert lens_B.tolist() == [length * 25 // 16000] and x_BTD.shape[1] == int(lens_B[0])
    close(x_BTD[0], expected[0, : x_BTD.shape[1]])
    if expected.shape[1] == x_BTD.shape[1]:
        with torch.no_grad():
            close(x_BTD, model(waves_BS))


@pytest.mark.parametrize("layer", range(DEPTH + 1))
def test_a_layer_is_the_residual_stream(model, checkpoint, layer):
    seen = []
    block = model.blocks[max(0, layer - 1)]
    hook = block.register_forward_hook(lambda module, given, out: seen.append(out if layer else given[0]))
    waves_BS, lengths_B = waves(16000)
    with torch.no_grad():
        model(waves_BS, x_length=lengths_B)
    hook.remove()
    close(load_teacher(f"dasheng:{checkpoint}@{layer}").embed(waves_BS, lengths_B)[0], seen[0])


@pytest.mark.parametrize("layer", [-1, 2])
def test_alone_equals_in_a_padded_batch(checkpoint, layer):
    teacher = load_teacher(f"dasheng:{checkpoint}@{layer}")
    assert teacher.batch_invariant
    waves_BS, lengths_B = waves(16000, 200000, 9000, 640, 300)
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    assert lens_B.tolist()[-1] == 0
    for row, (length, count) in enumerate(zip(lengths_B.tolist(), lens_B.tolist())):
        alone_BTD, alone_lens = teacher.embed(waves_BS[row : row + 1, :length], lengths_B[row : row + 1])
        assert alone_lens.tolist() == [count] and alone_BTD.shape[1] == count
        if count:
            close(x_BTD[row, :count], alone_BTD[0])


def test_a_padded_batch_of_the_package_is_close(model, checkpoint):
    """Its last patches see the padding; all patches further from the end are the same."""
    waves_BS, lengths_B = waves(80000, 48000)
    x_BTD, _ = load_teacher(f"dasheng:{checkpoint}@1").embed(waves_BS, lengths_B)
    seen = []
    hook = model.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model(waves_BS, x_length=lengths_B)
    hook.remove()
    x_BTD, _ = load_teacher(f"dasheng:{checkpoint}@0").embed(waves_BS, lengths_B)
    close(x_BTD[1, :74], seen[0][1, :74])


def test_counts_from_20_ms_to_40_s(checkpoint):
    teacher = load_teacher(f"dasheng:{checkpoint}@1")
    for length in (320, 639, 640, 641, 1279, 1280, 161279, 161280, 161919, 161920, 640000):
        x_BTD, lens_B = teacher.embed(*waves(length))
        assert x_BTD.shape[1] == int(lens_B[0]) == expected_frames(length, teacher) == length // 640


def test_every_form_of_the_weights_has_one_hash(model, checkpoint, tmp_path):
    from safetensors.torch import save_file

    save_file({f"encoder.{k}": v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"encoder_kwargs": {"num_heads": 4}}')
    first, second = load_teacher(f"dasheng:{checkpoint}"), load_teacher(f"dasheng:{tmp_path}")
    assert first.fingerprint() == second.fingerprint()
    assert load_teacher(f"dasheng:{checkpoint.parent}").fingerprint() == first.fingerprint()
    close(first.embed(*waves(16000))[0], second.embed(*waves(16000))[0])


def test_wrong_files_are_explained(checkpoint, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "damaged.pt").write_bytes(b"xyz")
    (tmp_path / "empty").mkdir()
    for spec, kind, message in (
        (f"dasheng:{tmp_path / 'other.pt'}", ConfigError, "weights such as weight"),
        (f"dasheng:{tmp_path / 'damaged.pt'}", DataError, "cannot be read"),
        (f"dasheng:{tmp_path / 'empty'}", DataError, "nothing in it"),
        (f"dasheng:{tmp_path / 'nowhere'}", DataError, "nothing at"),
        (f"dasheng:{checkpoint}@{DEPTH + 1}", ConfigError, f"-1 to {DEPTH}"),
    ):
        with pytest.raises(kind, match=message):
            load_teacher(spec)
