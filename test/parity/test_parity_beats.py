"""BEATs beside numbers of the authors' code (microsoft/unilm, commit 768a3c8), made with weights of a formula."""

import pytest
import torch

from spear.errors import ConfigError, DataError
from spear.teachers import load_teacher
from spear.teachers.align import expected_frames
from spear.teachers.beats import BeatsEncoder

CONFIG = {"input_patch_size": 16, "embed_dim": 12, "encoder_layers": 2, "encoder_embed_dim": 16, "deep_norm": True}
CONFIG |= {"encoder_ffn_embed_dim": 20, "encoder_attention_heads": 4, "relative_position_embedding": True}
CONFIG |= {"gru_rel_pos": True, "num_buckets": 16, "max_distance": 40, "conv_pos": 8, "conv_pos_groups": 4}
# The first four channels of each frame of two seconds, and twenty of the fourth frame's patches side by side.
MEANS = [
    -1.66323, 0.61996, -0.36549, -1.1262, -0.73629, 0.89455, -0.55073, -1.19239, -1.02534, 0.95354, -0.50611,
    -1.21908, -1.5001, 1.3675, -0.53649, -1.21974, -1.45257, 1.06664, -0.47881, -1.17016, -0.95595, 0.71054,
    -0.44597, -1.25218, -1.17465, 1.04035, -0.48151, -1.15739, -0.69069, 1.2918, -0.60161, -1.35726, -0.07485,
    0.93204, -0.6152, -1.19171, -1.71308, 1.0112, -0.46231, -1.25238, -1.54308, 0.96372, -0.45818, -1.1777,
    -1.52642, 1.13495, -0.46434, -1.27983,
]  # fmt: skip
SIDE_BY_SIDE = [
    -0.78128, 0.14793, -0.45955, -1.27357, 2.37674, -0.34382, -1.00802, 0.98148, 1.67359, -0.36687, -1.74506,
    3.2242, 0.10909, -0.65783, -0.54623, 0.42553, -3.03288, 1.51434, -0.3709, -1.23381,
]  # fmt: skip


def state_of_a_formula() -> dict[str, torch.Tensor]:
    """Weights under the names of released checkpoints, sines of their places."""
    model, state = BeatsEncoder(12, 16, 2, 20, 4, positions=8, groups=4, num_buckets=16, max_distance=40), {}
    shapes = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value.shape
        for name, value in model.state_dict().items()
    }
    for number, name in enumerate(sorted(shapes)):
        count = shapes[name].numel()
        values = torch.sin(torch.arange(count, dtype=torch.float64) * 1.7 + number) * 0.3
        scales = (name.endswith("weight") and len(shapes[name]) == 1) or name.endswith(("weight_g", "grep_a"))
        state[name] = (values + float(scales)).view(shapes[name]).float()
    table = "self_attn.relative_attention_bias.weight"
    return {**state, f"encoder.layers.1.{table}": state[f"encoder.layers.0.{table}"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("beats") / "small.pt"
    state = state_of_a_formula() | {"predictor.weight": torch.zeros(5, 16), "predictor.bias": torch.zeros(5)}
    torch.save({"cfg": CONFIG, "model": state}, path)
    return path


def wave(samples: int) -> torch.Tensor:
    n = torch.arange(samples, dtype=torch.float64)
    noise = torch.sin(n * 12.9898) * 43758.5453
    return (0.3 * torch.sin(n * n * 2e-6) + 0.1 * (noise - noise.floor() - 0.5)).float()


def test_frames_are_those_of_the_authors_code(checkpoint):
    heard = wave(32000)[None], torch.tensor([32000])
    x_BTD, lens_B = load_teacher(f"beats:{checkpoint}").embed(*heard)
    assert lens_B.tolist() == [12] and x_BTD.shape == (1, 12, 16)
    torch.testing.assert_close(x_BTD[0, :, :4].flatten(), torch.tensor(MEANS), rtol=1e-4, atol=1e-4)
    x_BTD, _ = load_teacher(f"beats:{checkpoint}@-1,bands=concat").embed(*heard)
    assert x_BTD.shape == (1, 12, 128)
    torch.testing.assert_close(x_BTD[0, 3, :20], torch.tensor(SIDE_BY_SIDE), rtol=1e-4, atol=1e-4)


def test_layers_are_the_residual_stream(checkpoint):
    heard = wave(16000)[None], torch.tensor([16000])
    last = load_teacher(f"beats:{checkpoint}@2").embed(*heard)[0]
    torch.testing.assert_close(last, load_teacher(f"beats:{checkpoint}").embed(*heard)[0])
    both = load_teacher(f"beats:{checkpoint}@-1,bands=concat")
    assert both.watch_layers([1, 2]) == [128, 128]
    x_BTD = both.embed(*heard)[0]
    torch.testing.assert_close(x_BTD[..., 128:].unflatten(2, (8, 16)).mean(2), last)
    states = load_teacher(f"beats:{checkpoint}")
    assert states.watch_states() == [16] * 3
    torch.testing.assert_close(states.embed(*heard)[0][..., 32:], last)
    with pytest.raises(ConfigError, match="-1 to 2"):
        load_teacher(f"beats:{checkpoint}@3")


def test_frames_do_not_depend_on_the_batch_and_counts_are_exact(checkpoint):
    teacher = load_teacher(f"beats:{checkpoint}")
    lengths = [16000, 320, 2799, 2800, 7777]
    waves_BS = torch.full((5, 16000), torch.nan)
    for row, length in enumerate(lengths):
        waves_BS[row, :length] = wave(length)
    x_BTD, lens_B = teacher.embed(waves_BS, torch.tensor(lengths))
    assert lens_B.tolist() == [6, 0, 0, 1, 2] and x_BTD.isfinite().all()
    for row, (length, count) in enumerate(zip(lengths, lens_B.tolist())):
        alone, _ = teacher.embed(waves_BS[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(alone[0], x_BTD[row, :count], rtol=1e-4, atol=1e-4)
    x_BTD, lens_B = teacher.embed(wave(640000)[None], torch.tensor([640000]))
    assert int(lens_B[0]) == x_BTD.shape[1] == expected_frames(640000, teacher) == 249
    assert x_BTD.abs().sum(2).min() > 0


def test_other_checkpoints_are_refused(checkpoint, tmp_path):
    state = state_of_a_formula()
    for number, (content, kind, message) in enumerate(
        (
            ({"cfg": CONFIG | {"layer_norm_first": True}, "model": state}, ConfigError, "layer_norm_first = True"),
            ({"cfg": CONFIG | {"max_distance": "far"}, "model": state}, ConfigError, "max_distance = 'far'"),
            ({"cfg": CONFIG, "model": {"a": torch.ones(2)}}, ConfigError, "with a"),
            ({"cfg": CONFIG, "model": state | {"encoder.extra": torch.ones(2)}}, ConfigError, "encoder.extra"),
            ({"cfg": CONFIG, "model": state | {"layer_norm.bias": torch.full((12,), torch.nan)}}, DataError, "NaN"),
            ([1], DataError, "holds a list"),
        )
    ):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(kind, match=message):
            load_teacher(f"beats:{tmp_path / f'{number}.pt'}")
    with pytest.raises(DataError, match="nothing at"):
        load_teacher("beats:nowhere.pt")
