"""Our features against kaldi-native-fbank."""

import numpy as np
import pytest
import textbook_fbank
import torch

from spear.audio import Fbank

knf = pytest.importorskip("kaldi_native_fbank")


def kaldi(wave: np.ndarray) -> np.ndarray:
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.samp_freq = 16000
    options.mel_opts.num_bins = 128
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = -400
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(16000, wave)
    computer.input_finished()
    return np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])


def signal(kind: str, samples: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    time = np.arange(samples) / 16000
    if kind == "chirp":
        return (0.4 * np.sin(2 * np.pi * (100 + 900 * time) * time) + 1e-3 * generator.standard_normal(samples)).astype(
            "f4"
        )
    return {"noise": 0.1, "loud": 1.0, "quiet": 1e-3}[kind] * generator.standard_normal(samples).astype("f4")


@pytest.mark.parametrize("kind", ["noise", "loud", "quiet", "chirp"])
@pytest.mark.parametrize("samples", [80, 201, 401, 16000, 16081, 80123])
def test_equal_to_kaldi_native_fbank(kind, samples):
    wave = signal(kind, samples)
    ours = Fbank()(torch.from_numpy(wave)[None])[0][0].numpy()
    theirs = kaldi(wave)
    assert ours.shape == theirs.shape
    difference = np.abs(ours - theirs)
    # Beside a loud tone, weak bands hold rounding errors of the tone; both then differ from double precision as much.
    largest, usual = (5e-2, 1e-2) if kind == "chirp" else (1e-3, 1.5e-4)
    assert difference.max() < largest
    exact = textbook_fbank.fbank(wave)
    our_error, their_error = (np.quantile(np.abs(x - exact), 0.999) for x in (ours, theirs))
    assert our_error < (1e-2 if kind == "chirp" else 1e-4)
    # Transforms round differently on every kind of CPU. Beyond the bound it has to be Kaldi's rounding: on one kind
    # 401 loud samples differ by 1.53e-4, where ours are 0.5e-4 from double precision and Kaldi's 1.5e-4.
    assert np.quantile(difference, 0.999) < usual or our_error < their_error / 2
