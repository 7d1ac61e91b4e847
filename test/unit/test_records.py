"""Values of others have a type from the door on; messages name file, line and field."""

from dataclasses import dataclass, field

import pytest

from spear import records
from spear.errors import DataError


@dataclass
class _Source:
    kind: str


@dataclass
class _Cut:
    id: str
    start: records.NotNegative
    duration: records.Positive
    sources: list[_Source] = field(default_factory=list)


GOOD = {"id": "a", "start": 0, "duration": 1.5, "sources": [{"kind": "file"}], "unknown": 3}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": 7}, r"field id: 7\n.*expected: expected `str`, got `int`"),
        ({"duration": 0}, "field duration: 0"),
        ({"duration": float("nan")}, "field duration: nan"),
        ({"start": float("inf")}, "field start: inf"),
        ({"duration": True}, "got `bool`"),
        ({"sources": [{"kind": "file"}, {"kind": None}]}, r"field sources\[1\].kind: None"),
        ({"sources": 3}, "field sources: 3"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_its_value(change, message):
    with pytest.raises(DataError, match="(?s)line 3 of cuts.jsonl, .*" + message):
        records.convert(GOOD | change, _Cut, "line 3 of cuts.jsonl")


def test_lines_that_fit_are_read_and_others_are_told_or_raised(tmp_path):
    path = tmp_path / "cuts.jsonl"
    path.write_bytes(
        b'{"id": "a", "start": 0, "duration": 1}\n{"id": "b"}\n[1]\n{"id": \xff}\n'
        b'{"id": "c", "start": 1, "duration": 2}\n'
    )
    refused = []
    found = list(records.iterate(path, _Cut, lambda number, error: refused.append((number, error.expected))))
    assert [(number, cut.id) for number, cut in found] == [(1, "a"), (5, "c")]
    assert [number for number, _ in refused] == [2, 3, 4] and "missing required field `start`" in refused[0][1]
    with pytest.raises(DataError, match=f"line 2 of {path}"):
        list(records.iterate(path, _Cut))


def test_depth_is_no_traceback(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(DataError, match="deep.json is not valid JSON"):
        records.read(path, _Cut)


def test_a_pattern_is_of_the_whole_text():
    assert records.convert("0" * 64, records.Sha256, "a") == "0" * 64
    with pytest.raises(DataError):
        records.convert("0" * 64 + "\n", records.Sha256, "a")
