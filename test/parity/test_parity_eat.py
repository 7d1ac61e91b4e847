"""EAT beside numbers of the authors' code (cwx-worst-one/EAT, commit 06c1c34), made with weights of a formula."""

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from spear.errors import ConfigError
from spear.teachers import kaldi, load_teacher
from spear.teachers.align import expected_frames

DIM, HIDDEN, HEADS, TIMES = 16, 24, 4, 64
# The first four channels of each frame of two seconds, and twenty of the fourth frame's patches side by side.
MEANS = [
    -0.14165, -0.39857, 0.00096, -1.04725, -0.13894, -0.45049, 0.0527, -1.12576, -0.12584, -0.30036, 0.00735,
    -0.95346, -0.25448, -0.01986, -0.22611, -0.41858, -0.27513, 0.06614, -0.31376, -0.28527, -0.29056, 0.00372,
    -0.30535, -0.57117, -0.18839, -0.35523, -0.26612, -0.86098, -0.10659, -0.56718, -0.12398, -1.18248, -0.08057,
    -0.46209, -0.0899, -0.98208, -0.27898, -0.11681, -0.25469, -0.42397, -0.35518, 0.08794, -0.31245, -0.14199,
    -0.33992, 0.00863, -0.36014, -0.21473,
]  # fmt: skip
SIDE_BY_SIDE = [
    -0.8009, 0.13716, -0.43278, 0.04035, -0.61266, 1.70274, 0.16911, -0.00711, -0.37279, 1.38747, -2.3545, 0.22347,
    -1.03249, 1.42765, -0.27651, 0.80804, 0.49308, -0.41082, -0.23231, -0.73543,
]  # fmt: skip


def positions() -> torch.Tensor:
    """Sines and cosines of the band, then of the time, of each patch."""
    rates_C = 10000.0 ** (-torch.arange(DIM // 4, dtype=torch.float64) / (DIM / 4))
    rows = []
    for time in range(TIMES):
        for band in range(8):
            parts = [function(place * rates_C) for place in (band, time) for function in (torch.sin, torch.cos)]
            rows.append(torch.cat(parts))
    return torch.stack(rows).float()[None]


def state_of_a_formula() -> dict[str, torch.Tensor]:
    """Weights under the names of released checkpoints, sines of their places."""
    front = "modality_encoders.IMAGE."
    shapes = {f"{front}extra_tokens": (1, 1, DIM), f"{front}fixed_positional_encoder.positions": (1, TIMES * 8, DIM)}
    shapes |= {f"{front}local_encoder.proj.weight": (DIM, 1, 16, 16), f"{front}local_encoder.proj.bias": (DIM,)}
    shapes |= {f"{front}context_encoder.norm.{part}": (DIM,) for part in ("weight", "bias")}
    for block in range(2):
        for name, outputs, inputs in (
            ("attn.qkv", 3 * DIM, DIM),
            ("attn.proj", DIM, DIM),
            ("mlp.fc1", HIDDEN, DIM),
            ("mlp.fc2", DIM, HIDDEN),
        ):
            shapes |= {f"blocks.{block}.{name}.weight": (outputs, inputs), f"blocks.{block}.{name}.bias": (outputs,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{part}": (DIM,) for part in ("weight", "bias")}
    state = {}
    for number, name in enumerate(sorted(shapes)):
        count = int(np.prod(shapes[name]))
        values = torch.sin(torch.arange(count, dtype=torch.float64) * 1.7 + number) * 0.3
        scales = name.endswith("weight") and len(shapes[name]) == 1
        state[name] = (values + float(scales)).view(shapes[name]).float()
    return {**state, f"{front}fixed_positional_encoder.positions": positions()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("eat") / "small.pt"
    torch.save({"model": state_of_a_formula() | {"_ema": torch.zeros(2)}, "cfg": {"num_heads": HEADS}}, path)
    return path


def wave(samples: int) -> torch.Tensor:
    n = torch.arange(samples, dtype=torch.float64)
    return (0.3 * torch.sin(n * n * 2e-6) + 0.1 * torch.sin(n * 0.9)).float()


def test_spectra_are_those_of_kaldi():
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0, True
    options.frame_opts.window_type, options.mel_opts.num_bins = "hanning", 128
    options.mel_opts.high_freq, options.energy_floor = 0, 0.0
    computer = kaldi_native_fbank.OnlineFbank(options)
    heard = wave(8000)
    computer.accept_waveform(16000, heard.numpy().tolist())
    computer.input_finished()
    expected = np.stack([computer.get_frame(place) for place in range(computer.num_frames_ready)])
    found = kaldi.log_mel(heard, 128)
    assert len(found) == kaldi.num_frames(8000) == len(expected) == 48
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=2e-3)


def test_frames_are_those_of_the_authors_code(checkpoint):
    heard = wave(32000)[None], torch.tensor([32000])
    x_BTD, lens_B = load_teacher(f"eat:{checkpoint}").embed(*heard)
    assert lens_B.tolist() == [12] and x_BTD.shape == (1, 12, DIM)
    torch.testing.assert_close(x_BTD[0, :, :4].flatten(), torch.tensor(MEANS), rtol=1e-4, atol=1e-4)
    x_BTD, _ = load_teacher(f"eat:{checkpoint}@-1,bands=concat").embed(*heard)
    torch.testing.assert_close(x_BTD[0, 3, :20], torch.tensor(SIDE_BY_SIDE), rtol=1e-4, atol=1e-4)


def test_layers_are_the_residual_stream(checkpoint):
    heard = wave(16000)[None], torch.tensor([16000])
    last = load_teacher(f"eat:{checkpoint}@2").embed(*heard)[0]
    torch.testing.assert_close(last, load_teacher(f"eat:{checkpoint}").embed(*heard)[0])
    states = load_teacher(f"eat:{checkpoint}")
    assert states.watch_states() == [DIM] * 3
    torch.testing.assert_close(states.embed(*heard)[0][..., 2 * DIM :], last)
    with pytest.raises(ConfigError, match="-1 to 2"):
        load_teacher(f"eat:{checkpoint}@3")


def test_frames_do_not_depend_on_the_batch_and_counts_are_exact(checkpoint):
    teacher = load_teacher(f"eat:{checkpoint}")
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


def test_names_of_the_hub_and_other_checkpoints(checkpoint, tmp_path):
    state = state_of_a_formula()
    renamed = {f"model.{name.removeprefix('modality_encoders.IMAGE.')}": value for name, value in state.items()}
    torch.save({"model": renamed, "cfg": {"num_heads": HEADS}}, tmp_path / "hub.pt")
    first, second = (load_teacher(f"eat:{path}").fingerprint() for path in (checkpoint, tmp_path / "hub.pt"))
    assert first == second
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="with a"):
        load_teacher(f"eat:{tmp_path / 'other.pt'}")
    with pytest.raises(ConfigError, match="at most 10.24"):
        load_teacher(f"eat:{checkpoint}@-1,window_seconds=20")
