"""The spear teacher: layers, rates, independence of the batch, fingerprint."""

import pytest
import torch
from tiny import SEVEN_STACKS

from spear import SpearConfig, SpearModel, save_model
from spear.errors import ConfigError
from spear.teachers import Teacher, load_teacher
from spear.teachers.align import expected_frames
from spear.teachers.spear import average_pairs

LAYERS = 8


def _config(**changes):
    return SpearConfig(**SEVEN_STACKS | {"num_encoder_layers": "1,1,2,1,1,1,1"} | changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random weights, with convolutions and biases strong enough for padding to show if it leaked."""
    out = {}
    for factor in (1, 2):
        torch.manual_seed(factor)
        model = SpearModel(_config(output_downsampling_factor=factor))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "convnext" in name or name.endswith("downsample.bias"):
                    parameter.normal_(std=0.3)
        out[factor] = tmp_path_factory.mktemp(f"teacher{factor}")
        save_model(model, out[factor])
    return out


def _waves(*lengths):
    generator = torch.Generator().manual_seed(0)
    waves_BS = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(waves_BS, lengths):
        row[:length] = torch.randn(length, generator=generator) * 0.1
    return waves_BS, torch.tensor(lengths)


@pytest.mark.parametrize(
    ("factor", "layer", "rate"), [(1, -1, None), (1, -1, 25), (2, -1, None), (1, 3, None), (2, 0, None), (2, 7, "25")]
)
def test_alone_equals_in_a_padded_batch(folders, factor, layer, rate):
    options = {} if rate is None else {"frame_rate_hz": rate}
    teacher = load_teacher("spear", folders[factor], layer, **options)
    assert isinstance(teacher, Teacher) and teacher.batch_invariant
    assert teacher.frame_rate == (25 if rate or (factor == 2 and layer == -1) else 50)
    waves_BS, lengths_B = _waves(16000, 1520, 11111, 7777, 15999)
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    assert x_BTD.dtype == torch.float32 and x_BTD.shape[2] == teacher.dim == 32
    scale = x_BTD.abs().mean()
    for row, length in enumerate(lengths_B.tolist()):
        alone_BTD, alone_lens_B = teacher.embed(waves_BS[row : row + 1, :length], lengths_B[row : row + 1])
        frames = expected_frames(length, teacher)
        assert alone_lens_B.tolist() == [frames] == [int(lens_B[row])] == [alone_BTD.shape[1]]
        assert (x_BTD[row, :frames] - alone_BTD[0]).abs().max() < 1e-4 * scale.clamp(min=1)


def test_frames_are_exact_from_the_shortest_to_long(folders):
    for factor in (1, 2):
        teacher = load_teacher("spear", folders[factor])
        for length in (1360, 1519, 1520, 1679, 1680, 4000, 16000, 16079, 16080, 50001):
            frames = expected_frames(length, teacher)
            if frames:
                x_BTD, lens_B = teacher.embed(*_waves(length))
                assert x_BTD.shape[1] == int(lens_B[0]) == frames


def test_layers_are_those_of_the_model(folders):
    import spear

    waves_BS, lengths_B = _waves(16000)
    out = spear.load_model(folders[1])(waves_BS, lengths_B)
    for layer in (0, 3, LAYERS - 1):
        x_BTD, _ = load_teacher("spear", folders[1], layer).embed(waves_BS, lengths_B)
        torch.testing.assert_close(x_BTD, out.hidden_states[layer], rtol=1e-4, atol=1e-4)
    x_BTD, _ = load_teacher("spear", folders[1]).embed(waves_BS, lengths_B)
    torch.testing.assert_close(x_BTD, out.encoder_out, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_close_and_has_its_own_fingerprint(folders):
    exact, rough = load_teacher("spear", folders[1]), load_teacher("spear", folders[1], dtype="bfloat16")
    waves_BS, lengths_B = _waves(16000, 9000)
    x_BTD, _ = exact.embed(waves_BS, lengths_B)
    y_BTD, _ = rough.embed(waves_BS, lengths_B)
    assert y_BTD.dtype == torch.float32
    assert (x_BTD - y_BTD).norm() < 0.05 * x_BTD.norm()
    assert exact.fingerprint()["weights_sha256"] == rough.fingerprint()["weights_sha256"]
    assert exact.fingerprint()["dtype"] != rough.fingerprint()["dtype"]


def test_fingerprint_is_of_the_weights_not_of_the_place(folders, tmp_path):
    import spear

    first = load_teacher("spear", folders[1])
    save_model(spear.load_model(folders[1]), tmp_path / "copy")
    copy = load_teacher(f"spear:{tmp_path / 'copy'}@-1")
    assert first.fingerprint() == copy.fingerprint()
    assert "path" not in str(first.fingerprint()) and str(folders[1]) not in str(first.fingerprint())
    assert first.fingerprint() != load_teacher("spear", folders[2]).fingerprint()


def test_wrong_layers_rates_and_options_are_refused(folders):
    for spec, message in (
        (f"spear:{folders[1]}@{LAYERS}", f"to {LAYERS - 1}"),
        (f"spear:{folders[1]},frame_rate_hz=30", "frame_rate_hz = 30"),
        (f"spear:{folders[2]},frame_rate_hz=50", "25"),
        (f"spear:{folders[1]},dtype=int8", "bfloat16"),
        (f"spear:{folders[1]},frame_rate=25", "frame_rate_hz"),
        ("spear@-1", "path"),
        ("sper:x@1", "did you mean 'spear'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_teacher(spec)


def test_average_pairs_leaves_a_last_single_frame():
    x_BTD = torch.arange(10.0).reshape(2, 5, 1)
    y_BTD, lens_B = average_pairs(x_BTD, torch.tensor([5, 3]))
    assert lens_B.tolist() == [3, 2]
    assert y_BTD[0, :, 0].tolist() == [0.5, 2.5, 4.0] and y_BTD[1, :2, 0].tolist() == [5.5, 7.0]
