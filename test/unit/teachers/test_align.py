"""Frame counts and alignment, with the reference's own numbers."""

import pytest
import torch

from spear.errors import ConfigError, DataError
from spear.teachers.align import (
    FRAME_RULES,
    IGNORE,
    align_targets,
    aligned_codebooks,
    expected_frames,
    rate_ratio,
    resampled_samples,
)


def test_frame_counts_of_ten_seconds():
    counts = {name: expected_frames(160000, name) for name in FRAME_RULES}
    assert counts["zipformer-50hz"] == 496 and counts["zipformer-25hz"] == 248
    assert counts["wav2vec2-50hz"] == 499 and counts["dasheng-25hz"] == 250


@pytest.mark.parametrize("rule", sorted(FRAME_RULES))
def test_counts_never_fall_and_start_at_zero(rule):
    counts = [expected_frames(n, rule) for n in range(0, 40 * 160, 7)]
    assert counts[0] == 0 and all(a <= b <= a + 1 for a, b in zip(counts, counts[1:]))


def test_wav2vec2_rule_is_that_of_the_convolutions():
    for num_samples in (320, 399, 400, 719, 720, 16000, 16001, 639999):
        wave = torch.zeros(1, 1, num_samples)
        try:
            for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
                wave = torch.nn.functional.conv1d(wave, torch.ones(1, 1, kernel), stride=stride)
            frames = wave.shape[-1]
        except RuntimeError:
            frames = 0
        assert expected_frames(num_samples, "wav2vec2-50hz") == frames


def test_rule_from_card_and_unknown_rule():
    assert expected_frames(160000, {"frame_rule": "dasheng-25hz"}) == 250
    with pytest.raises(ConfigError, match="sundial"):
        expected_frames(1, "sundial")


def _tokens(*lengths, codebooks=2):
    out = torch.full((len(lengths), max(lengths), codebooks), IGNORE)
    for row, length in enumerate(lengths):
        out[row, :length] = torch.arange(length)[:, None] * 10 + torch.arange(codebooks)
    return out


def test_same_rate_cuts_the_tail():
    aligned = align_targets(_tokens(10, 6), 50, 50, torch.tensor([7, 4]))
    assert aligned.shape == (2, 7, 2) and aligned.dtype == torch.int64
    assert aligned[0, :, 0].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert aligned[1, :, 1].tolist() == [1, 11, 21, 31, IGNORE, IGNORE, IGNORE]


def test_faster_student_repeats():
    aligned = align_targets(_tokens(4), 25, 50, torch.tensor([7]))
    assert aligned[0, :, 0].tolist() == [0, 0, 10, 10, 20, 20, 30]


def test_slower_student_concatenates_on_codebooks():
    aligned = align_targets(_tokens(9), 50, 25, torch.tensor([4]))
    assert aligned.shape == (1, 4, 4)
    assert aligned[0, 1].tolist() == [20, 21, 30, 31]
    assert aligned_codebooks(16, 50, 25) == 32 and aligned_codebooks(8, 25, 50) == 8


def test_one_frame_short_is_padded_and_more_is_refused():
    aligned = align_targets(_tokens(6), 50, 50, torch.tensor([7]))
    assert aligned[0, :, 0].tolist() == [0, 10, 20, 30, 40, 50, IGNORE]
    with pytest.raises(DataError, match="utterance 1"):
        align_targets(_tokens(7, 5), 50, 50, torch.tensor([7, 7]))
    # An odd 50 Hz teacher under a 25 Hz student: the last student frame predicts one target frame of two.
    aligned = align_targets(_tokens(7), 50, 25, torch.tensor([4]))
    assert aligned[0, 3].tolist() == [60, 61, IGNORE, IGNORE]


def test_absent_stream_stays_ignored():
    tokens = _tokens(7, 7)
    tokens[1] = IGNORE
    aligned = align_targets(tokens, 50, 50, torch.tensor([7, 7]))
    assert (aligned[1] == IGNORE).all() and (aligned[0] != IGNORE).all()
    aligned = align_targets(torch.zeros(2, 0, 3, dtype=torch.int64), 50, 50, torch.tensor([7, 7]))
    assert aligned.shape == (2, 7, 3) and (aligned == IGNORE).all()


def test_ignored_frame_inside_does_not_shorten():
    tokens = _tokens(7)
    tokens[0, 3] = IGNORE
    assert align_targets(tokens, 50, 50, torch.tensor([7]))[0, :, 0].tolist() == [0, 10, 20, IGNORE, 40, 50, 60]


def test_rates_that_do_not_divide_are_refused():
    assert rate_ratio(25, 50) == (2, 1) and rate_ratio(50, 25) == (1, 2) and rate_ratio(49.9, 50) == (1, 1)
    with pytest.raises(ConfigError, match="31.25"):
        rate_ratio(31.25, 50)


@pytest.mark.parametrize("teacher", sorted(FRAME_RULES))
@pytest.mark.parametrize("student", ["zipformer-50hz", "zipformer-25hz"])
def test_every_teacher_covers_every_student_at_all_lengths(teacher, student):
    """From 0.1 s to 40 s no pairing is ever short by more than what is padded, also after trimming one frame."""
    target_hz, student_hz = (int(rule.rpartition("-")[2].removesuffix("hz")) for rule in (teacher, student))
    if (target_hz, student_hz) == (75, 50):
        with pytest.raises(ConfigError, match="75"):
            rate_ratio(target_hz, student_hz)
        return
    heard_hz = 24000 if teacher.startswith("mert") else 16000
    for num_samples in [*range(1600, 20000, 37), *range(20000, 640000, 4999)]:
        frames = max(1, expected_frames(resampled_samples(num_samples, heard_hz), teacher) - 1)
        length = torch.tensor([expected_frames(num_samples, student)])
        if length > 0:
            align_targets(torch.zeros(1, frames, 1, dtype=torch.int64), target_hz, student_hz, length)
