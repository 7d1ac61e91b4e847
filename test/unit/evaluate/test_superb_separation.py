"""SS of SUPERB-SG by values worked out by hand, and what the board's words stand for."""

import warnings

import numpy as np
import pytest
import superb_corpus
import torch

from spear.errors import DataError
from spear.evaluate.metrics import score_rows, shown, unit
from spear.evaluate.suites import SuperbTasks
from spear.evaluate.tasks import TASKS
from spear.evaluate.tasks.source_separation import _FFT, _Scorer, mask_loss, si_sdr


def test_si_sdr_by_hand():
    source, rest = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.1, 0.1])
    assert si_sdr(source + rest, source) == pytest.approx(20.0, abs=1e-4)
    assert si_sdr(7 * (source + rest), source) == pytest.approx(20.0, abs=1e-4)  # whatever the scale
    assert si_sdr(source + 10 * rest, source) == pytest.approx(0.0, abs=1e-4)
    assert np.isfinite([si_sdr(torch.zeros(4), source), si_sdr(source, torch.zeros(4)), si_sdr(source, source)]).all()


def test_the_loss_takes_the_better_assignment_and_leaves_padding_out():
    mixture_BTF = torch.full((1, 2, 1), 2.0)
    targets_BTSF = torch.tensor([[[[2.0], [0.0]], [[50.0], [50.0]]]])
    masks_BTSF = torch.tensor([[[[0.0], [0.5]], [[0.0], [0.0]]]])
    # One frame counts; masked magnitudes 0 and 1 against 0 and 2 (swapped): (0 + 1) / 2.
    assert float(mask_loss(masks_BTSF, mixture_BTF, targets_BTSF, torch.tensor([1]))) == pytest.approx(0.5)


def test_the_score_is_the_mean_gain_in_decibels():
    rows = [{"hypotheses": [{"si_sdr": a, "mixture": b}], "reference": []} for a, b in ((8.0, 1.0), (2.0, 5.0))]
    assert score_rows("si_sdri", rows) == pytest.approx(2.0)
    assert (unit("si_sdri"), shown("si_sdri", 2.0)) == ("dB", 2.0)
    assert (unit("legacy der"), shown("legacy der", 0.25)) == ("%", 25.0)


def test_samples_that_no_frame_reaches_are_scored_as_zeros_without_a_warning():
    hop, size = 320, 4 * 320 - 10  # the last frame's window ends 54 samples before the end
    waves_KS = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(_FFT)
    spectrum_TF = torch.stft(waves_KS[0], _FFT, hop, window=window, return_complex=True).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _Scorer(waves_KS, spectrum_TF, hop).score(torch.ones(len(spectrum_TF), 2, spectrum_TF.shape[1]))
    cut_S = torch.cat([waves_KS[0, :-54], torch.zeros(54)])  # a mask of ones gives the mixture back
    expected = np.mean([float(si_sdr(cut_S, source_S)) for source_S in waves_KS[1:]])
    assert found["si_sdr"] == pytest.approx(expected, abs=0.01)


def test_all_and_sg_are_the_two_boards(tmp_path):
    with pytest.raises(DataError, match="no manifest"):
        SuperbTasks(tmp_path).find(["sg"])
    for name in ("KS", "SS", "SD"):
        superb_corpus.write(tmp_path, name, [])
    assert [task.name for task in SuperbTasks(tmp_path).find(["all"])] == ["KS", "SD"]
    assert [task.name for task in SuperbTasks(tmp_path).find(["sg"])] == ["SS"]
    assert sum(task.board == "all" for task in TASKS.values()) == 10


def test_rows_without_two_sources_are_refused():
    refuse = TASKS["SS"].refuse
    assert refuse(["a.wav", "b.wav"]) is None and {refuse(t) for t in (["a"], [1, 2], None)} == {"not two sources"}
