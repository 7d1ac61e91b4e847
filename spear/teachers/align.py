"""Frame counts and frame rates: the only place that knows them.

Two questions are answered here: how many frames a teacher makes of so many samples, and how target frames at one rate
become targets of a student at another. Where one rate is a multiple of the other, frames are paired by index from the
start; otherwise each frame of the student takes the target frame that its middle lies in (62.5 Hz for a student of 50:
every fifth target is left out; 5.38 Hz: each stands for nine or ten frames). Nothing is interpolated: tokens cannot be.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from spear.errors import ConfigError, DataError

IGNORE = -100
_CONV_FRONT_END = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # (kernel, stride) of wav2vec 2.0


def _zipformer_50hz(num_samples: int) -> int:
    fbank_frames = (num_samples + 80) // 160
    return max(0, (fbank_frames - 7) // 2)


def _zipformer_25hz(num_samples: int) -> int:
    # A last frame without a partner stays alone, both in the learned output downsampling and in plain pairing.
    return (_zipformer_50hz(num_samples) + 1) // 2


def _wav2vec2(num_samples: int) -> int:
    for kernel, stride in _CONV_FRONT_END:
        num_samples = max(0, (num_samples - kernel) // stride + 1)
    return num_samples


def _dasheng(num_samples: int) -> int:
    return num_samples * 25 // 16000


def _kaldi(num_samples: int) -> int:
    # Windows of 25 ms every 10 ms that lie whole in the audio, as the MFCC of HuBERT's first iteration are made.
    return max(0, (num_samples - 400) // 160 + 1)


def _whisper(num_samples: int) -> int:
    # Whisper hears 30 s whatever the utterance's length; these are the frames that are filled with it.
    return num_samples // 320


def _musicnn(num_samples: int) -> int:
    # Spectra centred on every 256th sample.
    return -(-num_samples // 256)


def _aisfx(num_samples: int) -> int:
    # Eight spectra of 1024 samples each; the last frame is completed with silence.
    return -(-num_samples // 8192)


FRAME_RULES: dict[str, Callable[[int], int]] = {
    "zipformer-50hz": _zipformer_50hz,
    "zipformer-25hz": _zipformer_25hz,
    "wav2vec2-50hz": _wav2vec2,
    "mert-75hz": _wav2vec2,  # the same convolutions, at 24 kHz
    "dasheng-25hz": _dasheng,
    "whisper-50hz": _whisper,
    "usad-50hz": _whisper,  # two rows of 10 ms each
    "kaldi-100hz": _kaldi,
    "musicnn-62.5hz": _musicnn,
    "aisfx-5.38hz": _aisfx,  # at 44.1 kHz
}
"""Frames from samples (at the teacher's own sampling rate), by name; cards carry the name."""

_WINDOWS = re.compile(r"hop([1-9]\d{0,6})-window([1-9]\d{0,6})")
"""Rules of any teacher: frames of so many samples that lie whole in the audio, so many samples apart."""


def register_frame_rule(name: str, rule: Callable[[int], int]) -> None:
    """Adds a rule for a teacher of another family; `rule(num_samples)` gives its number of frames, never negative."""
    FRAME_RULES[name] = rule


def expected_frames(num_samples: int, teacher) -> int:
    """How many frames a teacher makes of `num_samples` samples at its sampling rate.

    Args:
        num_samples: samples of one utterance.
        teacher: a teacher, its fingerprint (the "teacher" entry of a card), or the name of a rule.

    Raises:
        ConfigError: no such rule.
    """
    if isinstance(teacher, str):
        name = teacher
    elif isinstance(teacher, Mapping):
        name = teacher.get("frame_rule", "")
    else:
        name = teacher.frame_rule
    if found := _WINDOWS.fullmatch(name):
        hop, window = map(int, found.groups())
        return max(0, (int(num_samples) - window) // hop + 1)
    if name not in FRAME_RULES:
        raise ConfigError(
            f"frame rule '{name[:80]}'",
            f"one of {', '.join(sorted(FRAME_RULES))}, or such as hop320-window400",
            "register it with spear.teachers.align.register_frame_rule before it is used",
        )
    return FRAME_RULES[name](int(num_samples))


def resampled_samples(num_samples_16k: int, sample_rate_hz: int) -> int:
    """Samples at another rate of an utterance that has `num_samples_16k` samples at 16 kHz."""
    return num_samples_16k if sample_rate_hz == 16000 else round(num_samples_16k * sample_rate_hz / 16000)


class RateRatio(NamedTuple):
    """How frames of two rates meet: one of the two numbers is 1.

    Attributes:
        repeat: times each target frame is repeated (the student is faster).
        group: target frames predicted by one student frame (the target is faster).
    """

    repeat: int
    group: int


def rate_ratio(target_rate_hz: float, student_rate_hz: float) -> RateRatio:
    """The whole-number relation of two frame rates, of which the first may be one of `matched_rate`.

    Raises:
        ConfigError: a rate that is none.
    """
    return _whole_ratio(target_rate_hz, student_rate_hz) or RateRatio(1, max(1, int(target_rate_hz / student_rate_hz)))


def _whole_ratio(target_rate_hz: float, student_rate_hz: float) -> RateRatio | None:
    """None where neither rate is a multiple of the other (to 2 %, since rates are sometimes rounded)."""
    if not (0 < target_rate_hz < math.inf and 0 < student_rate_hz < math.inf):
        raise ConfigError(
            f"targets at {target_rate_hz} Hz for a student at {student_rate_hz} Hz",
            "two frame rates above 0",
            "correct frame_rate_hz on the card of the tokens",
        )
    repeat = max(1, round(student_rate_hz / target_rate_hz))
    group = max(1, round(target_rate_hz / student_rate_hz))
    fits = abs(target_rate_hz * repeat / (student_rate_hz * group) - 1) <= 0.02
    return RateRatio(repeat, group) if fits else None


def matched_rate(target_rate_hz: float, student_rate_hz: float) -> float:
    """The rate to which targets are resampled before they are paired: their own where that is a multiple or a part of
    the student's; otherwise the student's, or the largest multiple of it that is not faster than the targets.

    Raises:
        ConfigError: a rate that is none.
    """
    if _whole_ratio(target_rate_hz, student_rate_hz):
        return target_rate_hz
    return student_rate_hz * rate_ratio(target_rate_hz, student_rate_hz).group


def resample_rows(rows_BTN: Tensor, from_hz: float, to_hz: float) -> Tensor:
    """Rows at another rate: each is the row that its middle lies in; none goes beyond the last.

    Args:
        rows_BTN: targets, of any type, from_hz of them a second.

    Returns:
        (B, T', N) with T' = `resampled_rows` of T; the same tensor where the rates are equal.
    """
    if from_hz == to_hz:
        return rows_BTN
    count = resampled_rows(rows_BTN.shape[1], from_hz, to_hz)
    middles_T = (torch.arange(count, device=rows_BTN.device, dtype=torch.float64) + 0.5) * (from_hz / to_hz)
    return rows_BTN[:, middles_T.long()]


def resampled_rows(count: int, from_hz: float, to_hz: float) -> int:
    """How many rows `resample_rows` makes of so many."""
    return count if from_hz == to_hz else max(0, math.ceil(count * to_hz / from_hz - 0.5))


def aligned_codebooks(num_codebooks: int, target_rate_hz: float, student_rate_hz: float) -> int:
    """Heads that a stream needs: its codebooks times the target frames of one student frame.

    Raises:
        ConfigError: a rate that is none.
    """
    return num_codebooks * rate_ratio(target_rate_hz, student_rate_hz).group


def align_targets(
    tokens_BTN: Tensor,
    target_rate_hz: float,
    student_rate_hz: float,
    student_lens_B: Tensor,
    *,
    num_frames: int | None = None,
    token_lens_B: Tensor | None = None,
) -> Tensor:
    """Brings tokens to the student's frames.

    A faster student gets every target frame repeated; a slower one predicts several target frames at once, which are
    concatenated on the codebook axis. Targets whose rate does not divide are resampled first (`matched_rate`). What
    exceeds the student's length is cut at the end. An utterance may be short by one frame of the slower of the two
    rates: that is what pairing and the trimming of one frame at extraction can cost. The reference pads up to 5 frames
    (0.1 s), but no teacher it uses is ever short by more than one, so a larger gap means tokens of another recording,
    and those should not be trained on quietly. An utterance without any token (a stream it has no part in) stays
    ignored throughout.

    Args:
        tokens_BTN: int64 token ids at the stream's own rate, -100 after each utterance's end.
        target_rate_hz: frame rate of the tokens.
        student_rate_hz: frame rate of the student's output.
        student_lens_B: valid student frames of each utterance.
        num_frames: student frames T' of the padded batch; the longest length when not given.
        token_lens_B: valid token frames; found from the -100 padding when not given.

    Returns:
        int64 (B, T', N x group), -100 at padding.

    Raises:
        ConfigError: a rate that is none.
        DataError: an utterance is shorter than its tokens may be; gives its place in the batch and both lengths.
    """
    repeat, group = rate_ratio(target_rate_hz, student_rate_hz)
    batch, num_tokens, num_codebooks = tokens_BTN.shape
    student_lens_B = student_lens_B.to(tokens_BTN.device)
    num_frames = int(student_lens_B.max()) if num_frames is None else num_frames
    if token_lens_B is None:
        places = torch.arange(1, num_tokens + 1, device=tokens_BTN.device)
        token_lens_B = ((tokens_BTN != IGNORE).any(dim=2) * places).amax(dim=1) if num_tokens else student_lens_B * 0
    token_lens_B = token_lens_B.to(tokens_BTN.device)
    matched_hz = matched_rate(target_rate_hz, student_rate_hz)
    rows_B = token_lens_B
    if matched_hz != target_rate_hz:
        tokens_BTN = resample_rows(tokens_BTN, target_rate_hz, matched_hz)
        rows = [resampled_rows(count, target_rate_hz, matched_hz) for count in token_lens_B.tolist()]
        rows_B = torch.tensor(rows, device=token_lens_B.device)
    have_B, need_B = rows_B * repeat, student_lens_B * group
    spare = max(repeat, group, math.ceil(matched_hz / target_rate_hz))
    short_B = (need_B - have_B > spare) & (token_lens_B > 0)
    if bool(short_B.any()):
        place = int(short_B.nonzero()[0])
        raise DataError(
            f"{int(token_lens_B[place])} target frames at {target_rate_hz:g} Hz for utterance {place} of the batch",
            f"enough for {int(student_lens_B[place])} student frames at {student_rate_hz:g} Hz (one may be missing)",
            "run spear verify-tokens: the tokens belong to other audio, or the audio was changed after extraction",
        )
    if repeat > 1:
        tokens_BTN = tokens_BTN.repeat_interleave(repeat, dim=1)
    missing = num_frames * group - tokens_BTN.shape[1]
    if missing > 0:
        tokens_BTN = torch.nn.functional.pad(tokens_BTN, (0, 0, 0, missing), value=IGNORE)
    aligned = tokens_BTN[:, : num_frames * group].reshape(batch, num_frames, group * num_codebooks)
    inside_BT = torch.arange(num_frames, device=aligned.device) < student_lens_B[:, None]
    return aligned.masked_fill(~inside_BT[:, :, None], IGNORE)
