"""Fixtures of the evaluation tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import corpus  # noqa: E402


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A prepared corpus of tones."""
    return corpus.make_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture
def encoder():
    """A tiny encoder behind the upstream protocol."""
    from spear.evaluate.upstream import SpearUpstream

    return SpearUpstream(corpus.TinyEncoder(), "tiny", "checkpoint")
