"""Masking of log-mel features before the encoder (wav2vec 2.0 span sampling).

Channel masks set whole mel bins of an utterance to 0; time masks then overwrite whole 10 ms frames with a learned
vector. The draws come from a NumPy generator that the caller names, so that a batch's masks do not depend on the rank
or on what was drawn before.
"""

from dataclasses import dataclass

import numpy as np
import torch

from spear import ranges, records


@dataclass
class MaskConfig:
    """How much is masked. The defaults are those of the dual-domain models.

    Attributes:
        time_probability: expected share of frames covered if spans did not overlap.
        time_span_frames: length of a time span, in 10 ms frames.
        min_time_spans: at least this many spans, where the utterance is long enough.
        channel_probability: the same for mel bins.
        channel_span_bins: length of a channel span, in mel bins.
        min_channel_spans: at least this many channel spans.
    """

    time_probability: ranges.Share = 0.65
    time_span_frames: records.PositiveCount = 10
    min_time_spans: records.Count = 2
    channel_probability: ranges.Share = 0.25
    channel_span_bins: records.PositiveCount = 20
    min_channel_spans: records.Count = 0


def sample_spans(size: int, probability: float, span: int, min_spans: int, rng: np.random.Generator) -> np.ndarray:
    """One row of the sampler: fixed-length spans at distinct starts, overlaps allowed.

    Args:
        size: number of positions (valid frames, or mel bins).
        probability: spans x length / size is this in expectation.
        span: positions in a span.
        min_spans: lower bound on the number of spans.
        rng: source of the draws.

    Returns:
        (size,) bool, True where masked. All False when `size` <= `span`: there is nothing left to predict from.
    """
    mask = np.zeros(size, dtype=bool)
    # Starts are drawn from {0, ..., size - span - 1}: the very last start is excluded, as in the reference.
    possible_starts = size - span
    if probability <= 0 or possible_starts <= 0:
        return mask
    count = int(probability * size / span + rng.random())
    count = min(max(count, min_spans), size // span, possible_starts)
    starts = rng.choice(possible_starts, size=count, replace=False)
    mask[(starts[:, None] + np.arange(span)).ravel()] = True
    return mask


def sample_masks(
    lengths: list[int], num_frames: int, num_channels: int, config: MaskConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a batch.

    Args:
        lengths: valid frames of each utterance.
        num_frames: frames of the padded batch.
        num_channels: mel bins.
        config: how much to mask.
        rng: source of the draws.

    Returns:
        time mask (B, T) and channel mask (B, F), bool. Padding is never time-masked.
    """
    time_mask = np.zeros((len(lengths), num_frames), dtype=bool)
    channel_mask = np.zeros((len(lengths), num_channels), dtype=bool)
    for row, length in enumerate(lengths):
        channel_mask[row] = sample_spans(
            num_channels, config.channel_probability, config.channel_span_bins, config.min_channel_spans, rng
        )
        time_mask[row, :length] = sample_spans(
            length, config.time_probability, config.time_span_frames, config.min_time_spans, rng
        )
    return time_mask, channel_mask


def apply_masks(
    features_BTF: torch.Tensor, time_mask_BT: torch.Tensor, channel_mask_BF: torch.Tensor, mask_emb_F: torch.Tensor
) -> torch.Tensor:
    """Channel mask first (0.0 in the log domain), then time mask (the learned vector). Returns a new (B, T, F)."""
    masked_BTF = features_BTF.masked_fill(channel_mask_BF[:, None, :], 0.0)
    return torch.where(time_mask_BT[:, :, None], mask_emb_F.to(masked_BTF.dtype), masked_BTF)


def masked_student_frames(time_mask_BT: torch.Tensor, num_student_frames: int, downsampling: int) -> torch.Tensor:
    """Which student frames count as masked: at least half of the fbank rows that their target spans are masked.

    Args:
        time_mask_BT: (B, T) bool at 100 Hz.
        num_student_frames: T' of the encoder output.
        downsampling: fbank rows per student frame, 2 at 50 Hz and 4 at 25 Hz (the pooling window must match the
            rate; the reference's fixed window of 4 is right at 25 Hz only).

    Returns:
        (B, T') bool.
    """
    needed = num_student_frames * downsampling
    rows = torch.nn.functional.pad(time_mask_BT.float(), (0, max(0, needed - time_mask_BT.shape[1])))[:, :needed]
    return rows.unflatten(1, (num_student_frames, downsampling)).mean(dim=2) >= 0.5
