"""Errors in three parts, and optional packages."""

import pickle

import pytest

from spear import errors


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.DataError, errors.CardError, errors.CheckpointError])
def test_three_parts_survive_a_process_boundary(kind):
    error = kind("a tooth", "a claw", "grow one")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and isinstance(again, errors.SpearError)
    assert (again.found, again.expected, again.fix) == ("a tooth", "a claw", "grow one")
    assert str(again) == str(error) == "found: a tooth\n  expected: a claw\n  to fix: grow one"


def test_an_optional_package_that_is_missing_gives_the_install_command():
    assert errors.require("json", "json", "the test").dumps([]) == "[]"
    with pytest.raises(ImportError) as caught:
        errors.require("a_package_nobody_has", "a-package>=4", "the test")
    assert isinstance(caught.value, errors.MissingPackageError)
    assert "pip install 'a-package>=4'" in str(caught.value) and "the test needs it" in str(caught.value)
