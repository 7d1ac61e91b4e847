"""Cuts of generated audio for the tests of extraction."""

import pytest
from token_fakes import make_cuts


@pytest.fixture
def cuts(tmp_path):
    return make_cuts(tmp_path / "corpus", 30)
