"""Span sampling and mask application."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spear.models.mask import MaskConfig, apply_masks, masked_student_frames, sample_masks, sample_spans
from spear.seeds import numpy_rng


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.integers(1, 40), st.integers(0, 4), st.integers(0, 10**6))
def test_spans_have_full_length_and_fit(size, probability, span, min_spans, seed):
    mask = sample_spans(size, probability, span, min_spans, numpy_rng(seed, "test"))
    assert mask.shape == (size,)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    runs = edges[1::2] - edges[::2]
    assert (runs >= span).all(), "overlapping spans only make runs longer"
    if size <= span or probability == 0:
        assert not mask.any()


@pytest.mark.parametrize(
    "config, time_coverage, channel_coverage",
    [
        (MaskConfig(0.5, 10, 2, 0.25, 15, 0), 0.40, 0.23),
        (MaskConfig(0.65, 10, 2, 0.25, 20, 0), 0.49, 0.235),
    ],
)
def test_coverage_is_that_of_the_reference(config, time_coverage, channel_coverage):
    """The coverage that the authors' sampler was measured to have with both settings at 1000 frames."""
    time_mask, channel_mask = sample_masks([1000] * 400, 1000, 128, config, numpy_rng(1, "coverage"))
    assert abs(time_mask.mean() - time_coverage) < 0.015
    assert abs(channel_mask.mean() - channel_coverage) < 0.015


def test_padding_is_never_time_masked_and_short_utterances_keep_their_frames():
    time_mask, _ = sample_masks([100, 8, 40], 100, 128, MaskConfig(), numpy_rng(2, "padding"))
    assert not time_mask[1].any() and not time_mask[2, 40:].any()
    assert time_mask[0].any()


def test_masks_depend_on_the_stream_alone():
    first = sample_masks([200, 300], 300, 128, MaskConfig(), numpy_rng(3, "mask", 0, 7))
    again = sample_masks([200, 300], 300, 128, MaskConfig(), numpy_rng(3, "mask", 0, 7))
    other = sample_masks([200, 300], 300, 128, MaskConfig(), numpy_rng(3, "mask", 0, 8))
    assert all((a == b).all() for a, b in zip(first, again))
    assert (first[0] != other[0]).any()


def test_time_mask_overwrites_channel_mask_and_input_is_untouched():
    features = torch.full((1, 4, 3), 5.0)
    time_mask = torch.tensor([[False, True, False, False]])
    channel_mask = torch.tensor([[True, False, False]])
    masked = apply_masks(features, time_mask, channel_mask, torch.tensor([7.0, 8.0, 9.0]))
    assert masked[0].tolist() == [[0, 5, 5], [7, 8, 9], [0, 5, 5], [0, 5, 5]]
    assert (features == 5).all()


def test_student_frames_count_as_masked_by_their_own_rows():
    time_mask = torch.zeros(1, 17, dtype=torch.bool)
    time_mask[0, 4:8] = True
    assert masked_student_frames(time_mask, 5, 2).tolist() == [[False, False, True, True, False]]
    assert masked_student_frames(time_mask, 5, 4).tolist() == [[False, True, False, False, False]]
