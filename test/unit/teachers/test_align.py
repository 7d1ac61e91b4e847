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
    matched_rate,
    rate_ratio,
    resample_rows,
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


def test_rates_that_divide_are_paired_and_others_resampled():
    assert rate_ratio(25, 50) == (2, 1) and rate_ratio(50, 25) == (1, 2) and rate_ratio(49.9, 50) == (1, 1)
    assert matched_rate(25, 50) == 25 and matched_rate(50, 25) == 50 and matched_rate(49.9, 50) == 49.9
    assert matched_rate(62.5, 50) == 50 and matched_rate(62.5, 25) == 50 and matched_rate(5.3833, 25) == 25
    assert aligned_codebooks(8, 62.5, 50) == 8 and aligned_codebooks(8, 62.5, 25) == 16
    for rates in ((0, 50), (50, -1), (float("nan"), 50), (50, float("inf"))):
        with pytest.raises(ConfigError, match="above 0"):
            rate_ratio(*rates)


def test_faster_targets_that_do_not_divide_lose_every_fifth_frame():
    aligned = align_targets(_tokens(10), 62.5, 50, torch.tensor([8]))
    assert (aligned[0, :, 0] // 10).tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    # One student frame at 25 Hz predicts two of them, side by side.
    aligned = align_targets(_tokens(10), 62.5, 25, torch.tensor([4]))
    assert (aligned[0, :, [0, 2]] // 10).tolist() == [[0, 1], [3, 4], [5, 6], [8, 9]]


def test_slow_targets_that_do_not_divide_stand_where_they_were_heard():
    rate_hz = 44100 / 8192
    aligned = align_targets(_tokens(5), rate_hz, 50, torch.tensor([46]))
    middles = [(frame + 0.5) / 50 for frame in range(46)]
    assert (aligned[0, :, 0] // 10).tolist() == [int(seconds * rate_hz) for seconds in middles]


def test_a_missing_frame_is_padded_and_more_is_refused_also_when_resampled():
    aligned = align_targets(_tokens(9), 62.5, 50, torch.tensor([8]))
    assert aligned[0, -1, 0] == IGNORE and (aligned[0, :-1] != IGNORE).all()
    with pytest.raises(DataError, match="utterance 1"):
        align_targets(_tokens(10, 7), 62.5, 50, torch.tensor([8, 8]))
    with pytest.raises(DataError, match="utterance 0"):
        align_targets(_tokens(3), 44100 / 8192, 50, torch.tensor([46]))
    absent = torch.full((1, 10, 2), IGNORE)
    assert (align_targets(absent, 62.5, 50, torch.tensor([8])) == IGNORE).all()


def test_rows_of_any_type_are_resampled_and_equal_rates_change_nothing():
    rows_BTN = torch.arange(20.0).view(2, 10, 1)
    assert resample_rows(rows_BTN, 50, 50) is rows_BTN
    assert resample_rows(rows_BTN, 62.5, 50)[0, :, 0].tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert resample_rows(rows_BTN[:, :1], 5, 50)[1, :, 0].tolist() == [10] * 10
    assert resample_rows(rows_BTN[:, :0], 5, 50).shape == (2, 0, 1)


@pytest.mark.parametrize("teacher", sorted(FRAME_RULES))
@pytest.mark.parametrize("student", ["zipformer-50hz", "zipformer-25hz"])
def test_every_teacher_covers_every_student_at_all_lengths(teacher, student):
    """From 0.1 s to 40 s no pairing is ever short by more than what is padded, also after trimming one frame."""
    target_hz, student_hz = (float(rule.rpartition("-")[2].removesuffix("hz")) for rule in (teacher, student))
    heard_hz = {"mert": 24000, "aisfx": 44100}.get(teacher.partition("-")[0], 16000)
    for num_samples in [*range(1600, 20000, 37), *range(20000, 640000, 4999)]:
        frames = max(1, expected_frames(resampled_samples(num_samples, heard_hz), teacher) - 1)
        length = torch.tensor([expected_frames(num_samples, student)])
        if length > 0:
            align_targets(torch.zeros(1, frames, 1, dtype=torch.int64), target_hz, student_hz, length)
