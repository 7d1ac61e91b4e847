"""ATST-Frame beside numbers of the authors' code (Audio-WestlakeU/audiossl, commit ec3a14d), by a formula's weights."""

import numpy as np
import pytest
import torch

from spear.errors import ConfigError
from spear.teachers import load_teacher
from spear.teachers.align import expected_frames

DIM, HIDDEN, HEADS, PLACES = 16, 24, 4, 251
# The first three channels of each frame of one second, and the eighth frame.
CHANNELS = [
    -1.52644, 1.79622, 0.05741, -0.47576, 0.57191, 0.69575, -0.87765, 0.99938, 1.96892, -0.69688, 0.5849, 0.10449,
    -1.06216, 1.32945, 0.91643, -1.19232, 1.41439, 1.14613, -1.00304, 0.8579, 0.56231, -0.88634, 1.36528, 0.52925,
    -0.59846, 0.7255, 2.05612, -1.42475, 1.81926, -0.11356, -0.511, 1.04635, 0.08484, -0.65477, 0.98559, 1.78972,
    -1.22646, 1.62968, 0.19357, -0.73761, 1.25596, 0.05716, -0.38694, 0.83287, 1.69256, -0.72535, 0.57029, 0.54465,
    -0.38432, 1.01979, 0.17795, 0.03808, 0.16682, 1.78942, -1.13469, 1.24829, 1.13243, -0.80362, 1.19659, 1.18421,
    0.12302, -0.09991, 1.83991, -1.198, 1.3772, 0.4083, -0.61917, 1.20342, 1.02677, 0.16372, -0.18898, 1.82015,
    -1.0024, 1.83022, -0.94259,
]  # fmt: skip
FRAME = [
    -0.88634, 1.36528, 0.52925, -0.61571, -0.38184, 1.31012, -0.18409, -0.12794, -0.89586, 1.99055, -0.30408,
    -0.50681, -0.58189, 2.94429, -1.53382, -0.10464,
]  # fmt: skip


def state_of_a_formula() -> dict[str, torch.Tensor]:
    """Weights under the names of released checkpoints, sines of their places."""
    shapes = {"mask_embed": (1, 1, DIM), "pos_embed": (1, PLACES, DIM)}
    shapes |= {"patch_embed.patch_embed.weight": (DIM, 256), "patch_embed.patch_embed.bias": (DIM,)}
    shapes |= {f"norm_frame.{part}": (DIM,) for part in ("weight", "bias")}
    for block in range(2):
        layers = (("attn.proj", DIM, DIM), ("mlp.fc1", HIDDEN, DIM), ("mlp.fc2", DIM, HIDDEN))
        for name, outputs, inputs in layers:
            shapes |= {f"blocks.{block}.{name}.weight": (outputs, inputs), f"blocks.{block}.{name}.bias": (outputs,)}
        shapes[f"blocks.{block}.attn.qkv.weight"] = (3 * DIM, DIM)
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{part}": (DIM,) for part in ("weight", "bias")}
    state = {}
    for number, name in enumerate(sorted(shapes)):
        values = torch.sin(torch.arange(int(np.prod(shapes[name])), dtype=torch.float64) * 1.7 + number) * 0.3
        scales = name.endswith("weight") and len(shapes[name]) == 1
        state[name] = (values + float(scales)).view(shapes[name]).float()
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("atst") / "small.ckpt"
    named = {f"model.teacher.encoder.{name}": value for name, value in state_of_a_formula().items()}
    student = {f"model.student.encoder.{name}": value * 0 for name, value in state_of_a_formula().items()}
    torch.save({"state_dict": student | named, "encoder": {"num_heads": HEADS}, "epoch": 3}, path)
    return path


def wave(samples: int) -> torch.Tensor:
    n = np.arange(float(samples))
    noise = np.sin(n * 12.9898) * 43758.5453
    return torch.from_numpy(0.3 * np.sin(n * n * 2e-6) + 0.1 * (noise - np.floor(noise) - 0.5)).float()


def test_frames_are_those_of_the_authors_code(checkpoint):
    x_BTD, lens_B = load_teacher(f"atst:{checkpoint}").embed(wave(16000)[None], torch.tensor([16000]))
    assert lens_B.tolist() == [25] and x_BTD.shape == (1, 25, DIM)
    torch.testing.assert_close(x_BTD[0, :, :3].flatten(), torch.tensor(CHANNELS), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x_BTD[0, 7], torch.tensor(FRAME), rtol=1e-4, atol=1e-4)


def test_layers_are_the_residual_stream_before_the_norm(checkpoint):
    heard = wave(16000)[None], torch.tensor([16000])
    last = load_teacher(f"atst:{checkpoint}@2").embed(*heard)[0]
    state = state_of_a_formula()
    normed = torch.nn.functional.layer_norm(last, (DIM,), state["norm_frame.weight"], state["norm_frame.bias"], 1e-6)
    torch.testing.assert_close(normed, load_teacher(f"atst:{checkpoint}").embed(*heard)[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="-1 to 2"):
        load_teacher(f"atst:{checkpoint}@3")


def test_frames_do_not_depend_on_the_batch_and_counts_are_exact(checkpoint):
    teacher = load_teacher(f"atst:{checkpoint}")
    lengths = [16000, 320, 639, 640, 7777]
    waves_BS = torch.full((5, 16000), torch.nan)
    for row, length in enumerate(lengths):
        waves_BS[row, :length] = wave(length)
    x_BTD, lens_B = teacher.embed(waves_BS, torch.tensor(lengths))
    assert lens_B.tolist() == [25, 0, 0, 1, 12] and x_BTD.isfinite().all()
    for row, (length, count) in enumerate(zip(lengths, lens_B.tolist())):
        alone, _ = teacher.embed(waves_BS[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(alone[0], x_BTD[row, :count], rtol=1e-4, atol=1e-4)
    x_BTD, lens_B = teacher.embed(wave(640000)[None], torch.tensor([640000]))
    assert int(lens_B[0]) == x_BTD.shape[1] == expected_frames(640000, teacher) == 1000
    assert x_BTD.abs().sum(2).min() > 0


def test_other_checkpoints_are_refused(tmp_path, checkpoint):
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="with a"):
        load_teacher(f"atst:{tmp_path / 'other.ckpt'}")
    with pytest.raises(ConfigError, match="at most 10"):
        load_teacher(f"atst:{checkpoint}@-1,window_seconds=20")
