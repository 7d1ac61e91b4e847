"""Units, batches and samples are functions of the cuts."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_fakes import BlockTeacher

from spear.errors import DataError
from spear.teachers.align import expected_frames
from spear.tokens.units import plan_batches, plan_units, sample_items


def _items(durations, prefix="c"):
    return [
        SimpleNamespace(
            id=f"{prefix}{n}", path=f"/x/{n}.wav", start_seconds=0.0, duration_seconds=d, num_samples=round(d * 16000)
        )
        for n, d in enumerate(durations)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 60), max_size=80), st.floats(1, 100), st.floats(1, 300))
def test_units_and_batches_hold_everything_once_and_keep_the_limit(durations, max_seconds, unit_seconds):
    items = _items(durations)
    units = plan_units({"train": items}, unit_seconds)
    assert [item for unit in units for item in unit.items] == items
    assert all(len(unit.items) == 1 or unit.seconds <= unit_seconds + 1e-6 for unit in units)
    batches = plan_batches(items, max_seconds)
    kept = [item.id for batch in batches for item in batch]
    assert sorted(kept) == sorted(item.id for item in items if item.duration_seconds <= max_seconds)
    for batch in batches:
        assert max(item.duration_seconds for item in batch) * len(batch) <= max_seconds + 1e-6
    assert plan_batches(items[::-1], max_seconds) == batches


def test_units_of_a_file_do_not_depend_on_other_files():
    one = plan_units({"a": _items([1] * 10)}, 3)
    both = plan_units({"b": _items([2] * 4, "d"), "a": _items([1] * 10)}, 3)
    assert [unit for unit in both if unit.name.startswith("a")] == one
    assert [unit.name for unit in one] == ["a-00000", "a-00001", "a-00002", "a-00003"]


def test_sample_is_capped_seeded_and_grows():
    teacher = BlockTeacher()
    items = _items(np.linspace(0.1, 2, 60).tolist())
    small, large = (sample_items({"a": items}, cap, teacher, seed=1) for cap in (500, 1000))
    for chosen, cap in ((small, 500), (large, 1000)):
        frames = sum(expected_frames(item.num_samples, teacher) for item in chosen)
        assert cap - 100 <= frames <= cap
    assert large[: len(small)] == small
    assert sample_items({"b": items[30:], "a": items[:30]}, 500, teacher, seed=1) == small
    assert sample_items({"a": items}, 500, teacher, seed=2) != small
    with pytest.raises(DataError, match="max-frames"):
        sample_items({"a": items}, 2, teacher, seed=1)
